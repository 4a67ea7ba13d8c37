"""What happens to images of a training batch before a method sees them."""

import torch
from torch import Tensor, nn


def augment(x: Tensor, crop: int, flip: bool, border: str = "zero") -> Tensor:
    """Shift every image by up to `crop` pixels over a border, and mirror every second one, at random.

    Args:
        border: `zero` for black, `edge` for the pixels at the edge.
    """
    if crop:
        count, _, height, width = x.shape
        padded = nn.functional.pad(x, (crop,) * 4, mode="replicate" if border == "edge" else "constant")
        top, left = torch.randint(0, 2 * crop + 1, (2, count, 1), device=x.device)
        rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
        images = torch.arange(count, device=x.device).view(-1, 1, 1, 1)
        channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
        x = padded[images, channels, rows, columns]
    if flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    return x

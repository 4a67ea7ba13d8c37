"""A denoiser in front of a classifier that was trained without noise: together they are what is smoothed.

Salman, Sun, Yang, Kapoor & Kolter, "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", NeurIPS 2020,
https://arxiv.org/abs/2003.01908.
"""

from torch import Tensor, nn


class Denoised(nn.Module):
    """classifier(denoiser(x)): images in [0, 1], perhaps with noise -> logits.

    Args:
        denoiser: maps noisy images (batch, channel, height, width) to images of the same shape.
        classifier: maps images to logits; it stays as it is.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        if not isinstance(denoiser, nn.Module) or not isinstance(classifier, nn.Module):
            found = f"{type(denoiser).__name__} and {type(classifier).__name__}"
            raise ValueError(f"expected a denoiser and a classifier that are torch.nn.Module, got {found}")
        self.denoiser, self.classifier = denoiser, classifier
        self.training = denoiser.training or classifier.training

    def forward(self, x: Tensor) -> Tensor:
        images = self.denoiser(x)
        if images.shape != x.shape:
            raise ValueError(f"the denoiser made {tuple(images.shape)} of images of shape {tuple(x.shape)}")
        return self.classifier(images)


class DnCNN(nn.Module):
    """x minus the noise that a chain of convolutions sees in it. At the start it sees none: it begins as the identity.

    Zhang, Zuo, Chen, Meng & Zhang, "Beyond a Gaussian Denoiser", IEEE TIP 2017, https://arxiv.org/abs/1608.03981, as
    Salman et al. (2020) released it: 17 layers of 64 channels, orthogonal initial weights, a last layer of zeros.

    Args:
        channels: of the images.
        width: channels of the hidden layers.
        depth: convolutions.
    """

    def __init__(self, channels: int, width: int = 64, depth: int = 17) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"expected a depth of 2 or more, got {depth}")
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            norm = nn.BatchNorm2d(width, eps=1e-4, momentum=0.95)
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), norm, nn.ReLU()]
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=False))
        self.noise = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(layers[-1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return x - self.noise(x)

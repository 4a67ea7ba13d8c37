"""A classifier that somebody has already: plain PyTorch, trained without noise, and no line of holdfast.

    python docs/plain_classifier.py cifar10 data/cifar10 cnn.onnx
    python docs/plain_classifier.py mnist data/mnist cnn.pt

The folder holds train-*.parquet and test-*.parquet of the Hugging Face hub (ylecun/mnist, uoft-cs/cifar10). The file is
written as ONNX, or as a state dict where its name ends in .pt: `--model docs.plain_classifier:mnist --weights cnn.pt`.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CHANNELS, SIDE = {"mnist": 1, "cifar10": 3}, {"mnist": 28, "cifar10": 32}


class PlainCNN(nn.Module):
    """Three convolutions; images in [0, 1] -> logits."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((channels, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(128 * (side // 8) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features((x - 0.5) / 0.25).flatten(1))


def mnist() -> PlainCNN:
    return PlainCNN(1, 28)


def cifar10() -> PlainCNN:
    return PlainCNN(3, 32)


def images(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Bytes (number, channel, height, width) and labels."""
    (file,) = folder.glob(f"{split}-*.parquet")
    table = pyarrow.parquet.read_table(file)
    pictures, labels = table.column_names
    arrays = [np.asarray(Image.open(io.BytesIO(entry["bytes"]))) for entry in table[pictures].to_pylist()]
    x = torch.from_numpy(np.stack(arrays))
    return (x[:, None] if x.ndim == 3 else x.movedim(-1, 1)).contiguous(), torch.tensor(table[labels].to_pylist())


def trained(model: PlainCNN, x: Tensor, y: Tensor, epochs: int, mirrored: bool) -> None:
    """Adam, cross-entropy, one cycle of the rate, batches of 128."""
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps = epochs * -(-len(x) // 128)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    for epoch in range(epochs):
        started, total = time.process_time(), 0.0
        for part in torch.randperm(len(x)).split(128):
            batch = x[part].float() / 255
            if mirrored:
                batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(-1), batch)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits.float(), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
            total += float(loss.detach()) * len(part)
        spent = time.process_time() - started
        print(f"epoch {epoch}: loss {total / len(x):.4f}, {spent:.0f} s of the processor", flush=True)


def written(model: PlainCNN, file: Path, example: Tensor) -> None:
    if file.suffix == ".pt":
        torch.save(model.state_dict(), file)
        return
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(model, (example,), file, dynamo=True, dynamic_shapes=(batch,), external_data=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(CHANNELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = PlainCNN(CHANNELS[options.dataset], SIDE[options.dataset])
    trained(model, *images(options.folder, "train"), options.epochs, mirrored=options.dataset == "cifar10")
    model.eval().to(memory_format=torch.contiguous_format)
    x, y = images(options.folder, "test")
    with torch.inference_mode():
        found = torch.cat([model(part.float() / 255).argmax(1) for part in x.split(500)])
    print(f"{100 * float((found == y).float().mean()):.2f} % of {len(x):,} test images", flush=True)
    written(model, options.file, x[:2].float() / 255)


if __name__ == "__main__":
    main()

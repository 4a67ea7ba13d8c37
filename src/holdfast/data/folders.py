"""Data sets from a folder (parquet files, or images in one folder per class) or from the Hugging Face hub."""

import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

HUB = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
"""Where the named data sets live on the hub."""

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")


class Arrays(NamedTuple):
    """A split as numpy arrays."""

    images: np.ndarray
    """uint8, (example, height, width, channel)."""
    labels: np.ndarray
    """int64, (example,)."""
    classes: int


def read(name: str, split: str, data_dir: Path) -> Arrays:
    """Read `NAME`, `hub:org/name` or `folder:path`, each optionally followed by `@size`, or `npz:file`."""
    if name.startswith("npz:"):
        return _npz(Path(name.removeprefix("npz:")).expanduser(), split)
    name, _, size = name.partition("@")
    if size and not size.isdigit():
        raise ValueError(f"expected a size in pixels after @, as in {name}@64, got {size!r}")
    source, _, rest = name.partition(":")
    local = Path(rest).expanduser() if source == "folder" else data_dir / name
    if local.is_dir():
        table = _load(str(local), split, name)
    elif source == "folder":
        raise FileNotFoundError(f"there is no folder {local}; folder:PATH names an image folder or parquet files")
    else:
        table = _from_hub(rest if source == "hub" else HUB[name], split, name, local)
    return _arrays(table, name, int(size) if size else None)


def _npz(path: Path, split: str) -> Arrays:
    if split != "train":
        raise ValueError(f"npz:{path} holds training images only, it has no split {split!r}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; npz:FILE names arrays image and label in one file")
    with np.load(path) as content:
        arrays = dict(content)
    if not {"image", "label"} <= arrays.keys() or arrays["image"].ndim != 4 or arrays["image"].dtype != np.uint8:
        found = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{path}: expected the arrays image (uint8, NHWC) and label, found {found}")
    images, labels = arrays["image"], arrays["label"]
    return Arrays(images, labels.astype(np.int64), int(labels.max()) + 1)


def _from_hub(hub_id: str, split: str, name: str, local: Path) -> Any:
    """From the hub or its cache; without a network from the cache alone, which is asked without the usual retries."""
    reached = reachable()
    try:
        with nullcontext() if reached else _offline():
            return _load(hub_id, split, name)
    except (OSError, RuntimeError) as error:
        why = type(error).__name__ if reached else "which cannot be reached from here, and its cache has no copy"
        raise FileNotFoundError(
            f"data set {name!r} is not here: looked for the folder {local} and on the Hugging Face hub for {hub_id} "
            f"({why}). Two ways to get it: (1) run once with a network, it is then kept in the "
            f"hub's cache; (2) put its parquet files (columns image and label, named train-*.parquet and "
            f"test-*.parquet) into DIR/{local.name} and pass --data-dir DIR or set HOLDFAST_DATA=DIR"
        ) from error


def reachable(seconds: float = 2.0) -> bool:
    """Whether the hub, or the proxy on the way to it, answers at all within that time; name servers included."""
    from huggingface_hub import constants

    url = urlsplit(getproxies().get("https") or constants.ENDPOINT)
    address = url.hostname or "", url.port or {"http": 80}.get(url.scheme, 443)
    answers: SimpleQueue[bool] = SimpleQueue()

    def knock() -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
            answers.put(True)
        except OSError:
            answers.put(False)

    Thread(target=knock, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return False


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's libraries ask the network for nothing."""
    from datasets import config
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _load(path: str, split: str, name: str) -> Any:
    """A Hugging Face table. Its progress bars are off: they would tear ours."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, split=split)
    except ValueError as error:
        if "split" not in str(error).lower():
            raise
        raise ValueError(f"{name} has no split {split!r}: {error}") from error


def _arrays(table: Any, name: str, size: int | None) -> Arrays:
    import datasets

    image = next((column for column in IMAGE_COLUMNS if column in table.column_names), None)
    label = next((column for column in LABEL_COLUMNS if column in table.column_names), None)
    if image is None or label is None:
        raise ValueError(f"{name}: expected the columns image and label, found {', '.join(table.column_names)}")
    raw = table.cast_column(image, datasets.Image(decode=False))[image]
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda item: _decode(item, size), raw))
    shapes = {array.shape for array in pixels}
    if len(shapes) != 1:
        examples = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(f"{name}: images differ in size ({examples}, ...); name one size, as in {name}@64")
    labels = np.asarray(table[label], dtype=np.int64)
    feature = table.features[label]
    classes = getattr(feature, "num_classes", None) or int(labels.max()) + 1
    return Arrays(np.stack(pixels), labels, classes)


def _decode(item: dict[str, Any], size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(item["bytes"]) if item["bytes"] else item["path"])
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    if size:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


READERS = {name: partial(read, name) for name in HUB}
"""Named data sets, read from a folder of that name or from the hub."""

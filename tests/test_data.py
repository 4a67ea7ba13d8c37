"""Data sets: counts, ranges, splits, and what is said when there is nothing."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast import data
from holdfast.core.recipe import DataInfo
from holdfast.data import folders
from holdfast.nn.zoo import build

REAL = Path(os.environ.get("HOLDFAST_DATA", Path(__file__).parents[2] / "shared" / "data"))
OFFLINE = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("name", "train", "test", "side"), [("digits", 1433, 364, 8), ("mnist-5k", 4000, 1000, 28)])
def test_embedded_data_is_split_evenly_between_classes(name: str, train: int, test: int, side: int) -> None:
    for split, count in (("train", train), ("test", test)):
        found = data.load(name, split)
        assert found.raw(slice(None)).shape == (count, 1, side, side)
        assert found.raw(slice(None)).dtype == torch.uint8
        assert found.pixels(slice(0, 100)).max() == 1.0
        counts = torch.bincount(found.labels)
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 0.06 * len(found)
        assert found.labels[:10].tolist() == list(range(10))


def test_no_image_is_both_trained_on_and_held_out() -> None:
    train, test = (data.load("mnist-5k", split).raw(slice(None)).flatten(1).numpy() for split in ("train", "test"))
    seen = {image.tobytes() for image in train}
    assert not [image for image in test if image.tobytes() in seen]


def test_the_embedded_split_is_fixed() -> None:
    found = data.load("mnist-5k", "test")
    assert found.raw(slice(None)).flatten(1).sum(1)[:5].tolist() == [26939, 12158, 24635, 30547, 17276]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("minst", "test", "did you mean mnist"),
        ("digits", "validation", "splits train and test"),
        ("folder:/nowhere", "train", "no folder"),
        ("folder:/nowhere@big", "train", "size in pixels"),
    ],
)
def test_what_does_not_exist_is_named(name: str, split: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(name, split)


def test_absent_data_says_where_it_looked_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def no_network(path: str, **_: object) -> None:
        raise ConnectionError(f"no route to {path}")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    for where in (tmp_path, str(tmp_path)):
        with pytest.raises(
            FileNotFoundError, match=r"mnist.*looked for the folder .*ylecun/mnist.*Two ways.*--data-dir"
        ):
            data.load("mnist", "test", where)


def test_without_a_network_nothing_is_asked_of_it_but_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's libraries would try again and again: 28 seconds until absent data was said to be absent."""
    knocks = []

    def no_route(address: tuple[str, int], timeout: float) -> socket.socket:
        knocks.append((address, timeout))
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", no_route)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing \(which cannot be reached from here.*Two ways"):
        data.load("hub:nobody/nothing", "test", tmp_path)
    (((host, port), timeout),) = knocks
    assert (bool(host), port) == (True, 443)
    assert timeout <= 2
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert not folders.reachable()
    assert knocks[-1][0] == ("proxy.example", 3128)


def test_a_folder_of_images_per_class_is_read(tmp_path: Path) -> None:
    for label, colour in (("cat", 10), ("dog", 200)):
        for number in range(2):
            path = tmp_path / "train" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 8, 3), colour + number, np.uint8)).save(path)
    found = data.load(f"folder:{tmp_path}", "train")
    assert found.raw(slice(None)).shape == (4, 3, 6, 8)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.raw(slice(None))[:, 0, 0, 0].tolist() == [10, 11, 200, 201]
    assert found.info.classes == 2
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "train" / "dog" / "2.png")
    with pytest.raises(ValueError, match=r"images differ in size.*@64"):
        data.load(f"folder:{tmp_path}", "train")
    assert data.load(f"folder:{tmp_path}@4", "train").raw(slice(None)).shape == (5, 3, 4, 4)
    with pytest.raises(ValueError, match="has no split 'test'"):
        data.load(f"folder:{tmp_path}@4", "test")


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="no real data: set HOLDFAST_DATA to a folder with mnist/")
@pytest.mark.parametrize(
    ("name", "shape", "labels"),
    [("mnist", (1, 28, 28), [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]), ("cifar10", (3, 32, 32), [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])],
)
def test_real_data_comes_in_canonical_order(name: str, shape: tuple, labels: list[int]) -> None:
    found = data.load(name, "test", REAL)
    assert found.raw(slice(None)).shape == (10_000, *shape)
    assert found.labels[:10].tolist() == labels
    assert found.info.classes == 10


CIFAR = DataInfo("cifar10", (3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
MNIST = DataInfo("mnist", (1, 28, 28), 10, (0.13,), (0.31,))


@pytest.mark.parametrize(
    ("arch", "info", "parameters"),
    [
        ("resnet110", CIFAR, 1_730_714),  # 1.73 M, Cohen et al. (2019)
        ("resnet20", CIFAR, 272_474),
        ("lenet", MNIST, 20 * 26 + 50 * 501 + 500 * 801 + 10 * 501),
        ("cnn", MNIST, 16 * 10 + 32 * 145 + 128 * (32 * 49 + 1) + 10 * 129),
    ],
)
def test_architectures_have_the_published_number_of_parameters(arch: str, info: DataInfo, parameters: int) -> None:
    model = build(arch, info)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, *info.shape)).shape == (2, 10)


def test_mean_and_deviation_are_those_of_all_pixels() -> None:
    found = data.load("digits", "train")
    pixels = found.raw(slice(None)).double().flatten() / 255
    assert found.info.mean == pytest.approx((float(pixels.mean()),), rel=1e-12)
    assert found.info.std == pytest.approx((float(pixels.std()),), rel=1e-12)

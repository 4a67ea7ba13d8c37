"""Data sets larger than memory: decoded and augmented in worker processes, and otherwise like those in memory."""

import weakref
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast import data
from holdfast.certification.run import certify_run
from holdfast.cli import main
from holdfast.core.recipe import Recipe
from holdfast.core.registry import RECIPES
from holdfast.data.folders import Size
from holdfast.data.images import Dataset, Encoded
from holdfast.methods.gaussian import GaussianNoise
from holdfast.opening import Source
from holdfast.optim import SGD
from holdfast.runs import store
from holdfast.training import feed as feeding
from holdfast.training import loop as training
from holdfast.training.feed import OPERATIONS, Feed, View, augment, rand_augment, resized_crop
from holdfast.training.launch import Machine
from holdfast.training.loop import train

CPU = Machine(accelerator="cpu", workers=0)
SIDE = 16


def folder_of_images(folder: Path, splits: dict[str, int], sizes: tuple[int, ...] = (SIDE,), kind: str = "png") -> str:
    """A folder of images of two classes: their first pixels tell which image it is."""
    random = np.random.default_rng(0)
    for split, count in splits.items():
        for number in range(count):
            height, width = sizes[number % len(sizes)], sizes[-1 - number % len(sizes)]
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            path = folder / split / f"class{number % 2}" / f"{number:04}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return f"folder:{folder}"


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set that is too large to be kept in memory, because nothing may be kept."""
    monkeypatch.setattr(data, "KEPT", 0)
    return folder_of_images(tmp_path / "images", {"train": 24, "validation": 6})


def recipe_for(name: str, **changes) -> Recipe:
    plain = Recipe(GaussianNoise(0.25), SGD(lr=0.05), dataset=name, arch="cnn", epochs=2, batch_size=8)
    return plain.replace(crop=2, flip=True, **changes)


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_encoded_images_are_those_that_memory_would_hold(streamed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = data.load(streamed, "train")
    monkeypatch.setattr(data, "KEPT", 2**30)
    small = data.load(streamed, "train")
    assert isinstance(large, Encoded)
    assert isinstance(small, Dataset)
    assert large.info == small.info
    assert torch.equal(large.raw(slice(None)), small.images)
    assert torch.equal(large.labels, small.labels)
    chosen = torch.tensor([5, 0, 23])
    assert torch.equal(large.pixels(chosen), small.pixels(chosen))
    assert large.checksums([3, 4, 20]) == small.checksums([3, 4, 20])
    half = large.where(large.every(2))
    assert torch.equal(half.raw(slice(None)), small.where(small.every(2)).images)
    taken = large.take(chosen, "some")
    assert (taken.split, torch.equal(taken.images, small.images[chosen])) == ("some", True)
    assert np.array_equal(np.asarray(small.picture(4)), np.asarray(large.picture(4)))


def test_held_out_images_of_an_encoded_set_are_a_split_of_their_own(streamed: str) -> None:
    held = data.load(streamed, "held-out-4")
    assert (held.split, len(held)) == ("held-out-4", 6)


def test_the_split_to_certify_on_is_what_the_data_calls_it(streamed: str, tmp_path: Path) -> None:
    assert data.default_split(streamed) == "validation"
    assert data.default_split("imagenet") == "validation"
    assert data.default_split("tiny-imagenet@56/64") == "valid"
    assert data.default_split("mnist") == "test"
    folder_of_images(tmp_path / "data" / "tiny-imagenet", {"train": 2, "test": 2, "val": 2})
    found = data.default_split("tiny-imagenet", tmp_path / "data")
    assert len(data.load("tiny-imagenet", found, tmp_path / "data")) == 2
    assert found == "validation"
    run = train(recipe_for(streamed).replace(epochs=1), "run", tmp_path / "runs", CPU)
    main(["certify", str(run), "--n0", "5", "--n", "10", "--alpha", "0.1", "--device", "cpu"])
    (folder,) = run.glob("certify-*")
    facts = store.read_run(folder)
    assert (facts["certification"]["split"], facts["total"]) == ("validation", 6)


class TestTraining:
    """On a streamed set."""

    def test_worker_processes_change_no_weight(self, streamed: str, tmp_path: Path) -> None:
        recipe = recipe_for(streamed)
        here = train(recipe, "here", tmp_path, CPU)
        there = train(recipe, "there", tmp_path, replace(CPU, workers=2))
        assert weights(here) == weights(there)

    def test_killed_it_continues_to_the_same_weights(
        self, streamed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = recipe_for(streamed, randaugment=0.5)
        whole = train(recipe, "whole", tmp_path, CPU)
        real = Feed.batches

        def dies_in_the_middle(self, epoch, order):
            for number, batch in enumerate(real(self, epoch, order)):
                if (epoch, number) == (1, 2):
                    raise KeyboardInterrupt
                yield batch

        monkeypatch.setattr(Feed, "batches", dies_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, "killed", tmp_path, CPU)
        monkeypatch.setattr(Feed, "batches", real)
        killed = train(recipe, "killed", tmp_path, CPU)
        assert weights(killed) == weights(whole)

    def test_what_happens_to_an_image_follows_from_seed_epoch_and_index_alone(self, streamed: str) -> None:
        images = data.load(streamed, "train")
        order = [torch.arange(8), torch.arange(8, 24)]
        seen = {}
        for seed in (0, 1):
            feed = Feed(recipe_for(streamed, seed=seed), images, 0)
            for epoch in (0, 1):
                seen[seed, epoch] = torch.cat([x for x, _ in feed.batches(epoch, order)])
        again = Feed(recipe_for(streamed), images, 0)
        ((x, y),) = again.batches(1, [torch.arange(24).flip(0)])
        assert torch.equal(x.flip(0), seen[0, 1])
        assert torch.equal(y.flip(0), images.labels)
        assert all(not torch.equal(one, other) for one, other in pairwise(seen.values()))

    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_processes_see_every_image_once(self, processes: int) -> None:
        """All of it is the order: 60 images in batches of 24, the last of 12."""

        class Process:
            device = torch.device("cpu")

            def __init__(self, rank: int, size: int = processes) -> None:
                self.global_rank, self.world_size = rank, size

        recipe = recipe_for("any").replace(batch_size=24)
        parts = [list(training._batches(Process(rank), recipe, 60, 3)) for rank in range(processes)]  # pyright: ignore
        assert sorted(torch.cat([index for part in parts for index in part]).tolist()) == list(range(60))
        alone = list(training._batches(Process(0, 1), recipe, 60, 3))  # pyright: ignore
        assert [len(batch) for batch in alone] == [24, 24, 12]
        for step, batch in enumerate(alone):  # one step takes the same images, however many processes share them
            assert set(torch.cat([part[step] for part in parts]).tolist()) == set(batch.tolist())
        assert [{len(part[step]) for part in parts} for step in range(3)] == [
            {24 // processes},
            {24 // processes},
            {12 // processes},
        ]

    def test_two_real_processes_train_on_a_streamed_set(self, tmp_path: Path) -> None:
        """Encoded, because the recipe takes parts of images at their full size."""
        name = folder_of_images(tmp_path / "images", {"train": 16}, sizes=(20, 31))
        recipe = recipe_for(f"{name}@16", area=(0.2, 1.0)).replace(epochs=1, crop=0)
        run = train(recipe, "two", tmp_path, Machine(accelerator="cpu", devices=2, workers=1))
        assert (run / "model.safetensors").exists()

    def test_a_negative_number_of_workers_is_refused(self, streamed: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
            train(recipe_for(streamed), "run", tmp_path, replace(CPU, workers=-1))
        assert not list(tmp_path.glob("run-*"))


def test_no_more_than_a_few_batches_are_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 images of 224 x 224, trained on and certified; every tensor of decoded ones tells when it is freed."""
    name = folder_of_images(tmp_path / "images", {"train": 400, "test": 4}, sizes=(224,), kind="jpg")
    monkeypatch.setattr(data, "KEPT", 2**20)
    monkeypatch.setattr("holdfast.training.loop.SEEN", 10)
    decode, here, most = feeding._Pictures.__getitems__, Counter(), Counter()

    def counted(self, key):
        found = decode(self, key)
        here["images"] += len(found)
        here["all"] += len(found)
        most["images"] = max(most["images"], here["images"])
        weakref.finalize(found, here.subtract, {"images": len(found)})
        return found

    monkeypatch.setattr(feeding._Pictures, "__getitems__", counted)
    recipe = recipe_for(name, area=(0.08, 1.0)).replace(epochs=1, batch_size=80, crop=0)
    run = train(recipe, "run", tmp_path / "runs", CPU)
    assert here["all"] == 400
    assert most["images"] <= 80 + 2 * feeding.PART
    certified = certify_run(Source(str(run)), name, replace(recipe.method.certifier(), n0=2, n=4, alpha=0.5), limit=4)
    assert len(certified.records) == 4


def test_the_centre_for_certification_is_that_of_the_papers() -> None:
    """The shorter side is scaled to 256, and the centre 224 is cut out: here of a ramp, whose values tell where."""
    ramp = np.broadcast_to(np.arange(512, dtype=np.float32), (256, 512))
    image = Image.fromarray(ramp.astype(np.uint8) // 2)
    found = np.asarray(Size(224, 256).centre(image))
    assert found.shape == (224, 224)
    assert np.array_equal(found, np.asarray(image)[16:240, 144:368])
    tall = Image.fromarray(np.zeros((900, 600, 3), np.uint8))
    assert Size(224, 256).centre(tall).size == (224, 224)
    assert Size.parse("224/256", "imagenet") == Size(224, 256)
    assert Size.parse("64", "any") == Size(64, 64)
    for text in ("", "0", "256/224", "224/", "a/b"):
        with pytest.raises(ValueError, match="size in pixels"):
            Size.parse(text, "imagenet")


class TestViews:
    """What happens to one image."""

    IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))

    def test_a_resized_crop_is_a_rectangle_of_the_area_asked_for(self) -> None:
        """Of an image whose colors are its coordinates the corners of the result tell which rectangle was taken."""
        rows, columns = np.mgrid[:200, :200]
        image = Image.fromarray(np.stack([rows, columns, 0 * rows], 2).astype(np.uint8))
        random = np.random.default_rng(0)
        shares, aspects = [], []
        for _ in range(300):
            found = np.asarray(resized_crop(image, (50, 50), (0.08, 1.0), random)).astype(float)
            height, width = found[-1, 0, 0] - found[0, 0, 0], found[0, -1, 1] - found[0, 0, 1]
            shares.append(height * width / 200**2)
            aspects.append(width / height)
        assert 0.06 < min(shares) < 0.12
        assert 0.8 < max(shares) <= 1
        assert 0.68 < min(aspects) < 0.8
        assert 1.25 < max(aspects) < 1.47
        assert resized_crop(image, (8, 6), (1.0, 1.0), np.random.default_rng(0)).size == (6, 8)

    @pytest.mark.parametrize("border", ["zero", "edge"])
    def test_a_padded_crop_is_one_of_those_of_the_device(self, border: str) -> None:
        image = np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)
        view = View((5, 4), crop=1, border=border)
        random = np.random.default_rng(0)
        found = {view(Image.fromarray(image), random).tobytes() for _ in range(300)}
        torch.manual_seed(0)
        batch = torch.from_numpy(image).permute(2, 0, 1).float().repeat(600, 1, 1, 1)
        expected = {shifted.byte().numpy().tobytes() for shifted in augment(batch, 1, False, border)}
        assert len(expected) == 9
        assert found == expected

    def test_sides_scale_and_cut_and_mirrors_mirror(self) -> None:
        view = View((20, 20), sides=(20, 28))
        assert view(self.IMAGE, np.random.default_rng(0)).shape == (3, 20, 20)
        with pytest.raises(ValueError, match="raise the sides"):
            View((20, 20), sides=(19, 19))(self.IMAGE, np.random.default_rng(0))
        plain = np.asarray(self.IMAGE).transpose(2, 0, 1)
        random = np.random.default_rng(0)
        found = [View((40, 30), flip=True)(self.IMAGE, random) for _ in range(40)]
        mirrored = sum(np.array_equal(image, plain[:, :, ::-1]) for image in found)
        assert mirrored + sum(np.array_equal(image, plain) for image in found) == 40
        assert 10 < mirrored < 30

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_operation_of_randaugment_keeps_size_and_mode(self, name: str, channels: int) -> None:
        image = self.IMAGE if channels == 3 else self.IMAGE.convert("L")
        operation, signed = OPERATIONS[name]
        for sign in (1, -1) if signed else (1,):
            found = operation(image, 0.3 * sign)
            assert (found.size, found.mode) == (image.size, image.mode)
        if name not in ("identity", "color"):
            assert not np.array_equal(np.asarray(operation(image, 0.3)), np.asarray(image)) or name == "autocontrast"

    def test_randaugment_changes_the_share_asked_for(self) -> None:
        random = np.random.default_rng(0)
        plain = np.asarray(self.IMAGE)
        for share, least, most in ((0.0, 0, 0), (0.5, 60, 130), (1.0, 150, 200)):
            found = [rand_augment(self.IMAGE, share, random) for _ in range(200)]
            assert least <= sum(not np.array_equal(np.asarray(image), plain) for image in found) <= most


def test_the_border_of_a_crop_on_the_device_is_black_or_repeats_the_edge() -> None:
    x = torch.full((64, 1, 4, 4), 0.5)
    torch.manual_seed(0)
    assert augment(x, 2, False, "edge").min() == 0.5
    assert augment(x, 2, False).min() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"border": "mirror"}, "unknown border 'mirror'; known: zero, edge"),
        ({"area": (0.5,)}, "least and the largest"),
        ({"area": (0.5, 1.5)}, "at most 1"),
        ({"sides": (288, 224)}, "least and the largest"),
        ({"sides": (224, 288), "area": (0.1, 1.0)}, "not both"),
        ({"randaugment": 1.5}, "from 0 to 1"),
    ],
)
def test_impossible_augmentations_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RECIPES["gaussian-digits-0.25"].replace(**change)

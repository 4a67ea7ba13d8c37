"""What the driver refuses, and that stopping, splitting and batching change no record."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from cases import Constant, HalfSpace, images
from torch import nn

from holdfast import Gaussian, certify
from holdfast.certification import driver
from holdfast.certification.driver import certify_share
from holdfast.certification.task import Certification, open_certification
from holdfast.core.certifier import Seed
from holdfast.core.recipe import DataInfo
from holdfast.data import Dataset, load
from holdfast.nn.normalize import Normalize
from holdfast.nn.zoo import build
from holdfast.runs.records import read_records
from holdfast.smoothing.noise import Float32
from holdfast.smoothing.noise.base import BLOCK, Float32Stream

GAUSSIAN = Gaussian(0.5, n=300)
INFO = DataInfo("toy", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3)
DATA = Dataset(INFO, "test", (images(12) * 255).byte(), torch.arange(12) % 2)


def run(folder: Path, data: Dataset = DATA, task: Certification | None = None, **settings) -> list:
    task = task or Certification(GAUSSIAN, model="m", dataset="toy")
    open_certification(task, folder, data, "toy")
    certify_share(task, HalfSpace(), data, folder, identity=task.model, visible=False, **settings)
    return read_records(folder)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (HalfSpace(), images(1) * 2 - 1, r"expected images in \[0, 1\], got \[-"),
        (HalfSpace(), images(1) * float("nan"), r"expected images in \[0, 1\]"),
        (HalfSpace(), images(1)[0], r"\(batch, channel, height, width\)"),
        (HalfSpace(), (images(1) * 255).int(), "divide by the largest value"),
        (HalfSpace(), images(1)[:, :1], "does not take images of shape"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval(), images(1), r"shape \(3, 4, 4\)"),
        (nn.Sequential(nn.Flatten(), nn.Dropout()), images(1), "training mode"),
        (nn.Sequential(nn.Flatten(), nn.Dropout()).eval().append(nn.Dropout()), images(1), "its part '2'"),
        (nn.Identity().eval(), images(1), "expected logits"),
    ],
)
def test_what_no_certificate_can_be_true_for_is_refused(model: nn.Module, x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(model, x, GAUSSIAN)


def test_killed_split_or_in_other_batches_the_records_are_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert [record.index for record in whole] == list(range(12))
    killed = tmp_path / "killed"
    run(killed)
    file = killed / "records-0-of-1.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    assert run(killed) == whole
    for shard in range(3):
        run(tmp_path / "split", shard=(shard, 3))
    assert read_records(tmp_path / "split") == whole
    assert run(tmp_path / "small", batch_size=7) == whole


def test_a_convolutional_network_votes_the_same_wherever_an_example_stands_in_the_batch(tmp_path: Path) -> None:
    data, model = load("digits", "test"), build("cnn", load("digits", "test").info).eval()
    task = Certification(Gaussian(0.25, n=150), model="m", dataset="digits", limit=12)
    for name, shards in (("whole", 1), ("split", 4)):
        open_certification(task, tmp_path / name, data, name)
        for shard in range(shards):
            certify_share(
                task,
                model,
                data,
                tmp_path / name,
                shard=(shard, shards),
                visible=False,
                batch_size=64,
                identity=task.model,
            )
    assert read_records(tmp_path / "whole") == read_records(tmp_path / "split")


def test_noise_depends_on_the_seed_and_the_number_of_the_draw_alone() -> None:
    x = torch.rand(3, 40, 40)

    def draw(seed: int, *sizes: int) -> torch.Tensor:
        stream, out = Float32().stream(x, 0.5, Seed(seed, 0)), torch.empty(sum(sizes), *x.shape)
        for part in out.split(list(sizes)):
            stream.fill(part)
        return (out - x) / 0.5

    first = draw(7, *[1] * 120)
    assert torch.equal(first, draw(7, 50, 70))
    assert torch.equal(first, draw(7, 120))
    assert not torch.equal(first, draw(8, 120))
    assert first.std().item() == pytest.approx(1, abs=0.01)


def test_float32_noise_is_all_that_its_generator_draws_in_blocks_of_a_size_that_the_shape_decides() -> None:
    """As in every record of the old noise, which a replay must meet again."""
    x = torch.zeros(3, 40, 40)
    stream, out = Float32().stream(x, 1.0, Seed(7, 3)), torch.empty(120, *x.shape)
    assert isinstance(stream, Float32Stream)
    generator = torch.Generator().manual_seed(stream._generator.initial_seed())
    blocks = [torch.empty(BLOCK // x.numel(), *x.shape).normal_(generator=generator) for _ in range(3)]
    stream.fill(out)
    assert torch.equal(out, torch.cat(blocks)[:120])


def test_a_subset_takes_every_kth_example() -> None:
    task = Certification(GAUSSIAN, "m", "toy", every=20, start=5, limit=3)
    assert task.indices(100) == [5, 25, 45]
    with pytest.raises(ValueError, match="beyond the 4 examples"):
        task.indices(4)
    with pytest.raises(ValueError, match="every >= 1"):
        Certification(GAUSSIAN, "m", "toy", every=0)
    with pytest.raises(ValueError, match="unknown precision"):
        Certification(GAUSSIAN, "m", "toy", precision="8")


class Close(nn.Module):
    """Class 1 by a difference that bfloat16 cannot hold: there it is a tie, which goes to class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor([1.0, 1.0 + 2**-12]))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("logits").expand(len(x), -1)


@pytest.mark.parametrize(("precision", "winner"), [("32-true", 1), ("64-true", 1), ("16-true", 0), ("bf16-true", 0)])
def test_reduced_precision_certifies_the_reduced_function(tmp_path: Path, precision: str, winner: int) -> None:
    task = Certification(GAUSSIAN, "m", "toy", precision=precision, limit=2)
    open_certification(task, tmp_path / "run", DATA, "toy")
    certify_share(task, Close(), DATA, tmp_path / "run", visible=False, identity=task.model)
    assert [record.certificate.prediction for record in read_records(tmp_path / "run")] == [winner] * 2


def test_normalisation_inside_the_model_is_part_of_it() -> None:
    x = images(2)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    expected = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(Normalize(mean, std)(x), expected)
    with pytest.raises(ValueError, match="positive std"):
        Normalize((0.0,), (0.0,))


def test_a_certifier_that_claims_more_than_its_cap_is_stopped() -> None:
    class Boasting(Gaussian):
        def cap(self) -> float:
            return 1e-3

    with pytest.raises(RuntimeError, match="more than its cap"):
        certify(Constant(), images(1), Boasting(0.5, n=300))


@pytest.mark.skipif(os.name == "nt", reason="kills a process by a POSIX signal")
def test_a_process_killed_at_any_moment_loses_at_most_the_example_it_was_at(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_certification import *
run(Path({str(tmp_path / "killed")!r}), task=Certification(Gaussian(0.5, n=20_000), model="m", dataset="toy"))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    file = tmp_path / "killed" / "records-0-of-1.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (file.exists() and file.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(read_records(tmp_path / "killed"))
    assert kept >= 2
    task = Certification(Gaussian(0.5, n=20_000), model="m", dataset="toy")
    assert run(tmp_path / "killed", task=task) == run(tmp_path / "whole", task=task)
    log = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert log[1]["examples"] == 12 - kept


@pytest.mark.parametrize(
    ("shape", "batch_size", "rows"),
    [
        ((1, 28, 28), 64, 1024),
        ((3, 32, 32), 2048, 1024),
        ((3, 64, 64), 64, 341),
        ((3, 224, 224), 64, 64),
        ((3, 224, 224), 8, 27),
        ((3, 224, 224), 1024, 1024),
        ((3, 4096, 4096), 1, 1),
    ],
)
def test_large_images_become_float_no_more_than_a_batch_at_a_time(
    shape: tuple[int, ...], batch_size: int, rows: int
) -> None:
    """At most 1,024 images, and 16 MiB of them or a batch."""
    assert driver.window_size(shape, batch_size) == rows


@dataclass(frozen=True)
class Watched(Dataset):
    """Knows how many images were asked for at a time."""

    asked: list[int] = field(default_factory=list)

    def pixels(self, indices: torch.Tensor | slice) -> torch.Tensor:
        found = super().pixels(indices)
        self.asked.append(len(found))
        return found


def test_records_do_not_depend_on_how_many_images_become_float_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(driver, "FLOATS", 5 * 48)
    data = Watched(DATA.info, DATA.split, DATA.images, DATA.labels)
    assert run(tmp_path / "parts", data, batch_size=2) == whole
    assert data.asked == [8, 5, 5, 2]  # the first are those that the model is tried on


def test_memory_is_kept_while_images_are_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, seen = [], []

    @contextmanager
    def keeping(device: torch.device) -> Iterator[None]:
        kept.append(device)
        yield
        kept.pop()

    class Watching(HalfSpace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(list(kept))
            return super().forward(x)

    monkeypatch.setattr(driver, "kept_memory", keeping)
    certify(Watching(), images(2), GAUSSIAN, seed=0)
    assert [torch.device("cpu")] in seen
    assert not kept

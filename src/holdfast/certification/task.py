"""What is certified and how: the settings that name a certify folder, and what its records belong to."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.certifier import Certifier, Seed
from ..core.config import Config
from ..data import Images
from ..runs import store
from .runtime import PRECISIONS, RUNTIMES


@dataclass(frozen=True)
class Certification(Config):
    """Everything that decides the records of a certified data set."""

    certifier: Certifier
    model: str
    """Identity of the model: `holdfast.certification.identity.model_hash`."""
    dataset: str
    """Name of the data set."""
    split: str = "test"
    """Split of the data set."""
    every: int = 1
    """Certify every k-th example."""
    start: int = 0
    """Index of the first example."""
    limit: int | None = None
    """Certify at most this many examples."""
    seed: int = 0
    """The noise of an example follows from this seed and the example's index alone."""
    precision: str = "32-true"
    """Numbers the model computes with: 32-true, 64-true, bf16-true or 16-true. That function is the certified one."""
    runtime: str = "torch"
    """What runs the program of the model: torch, compile or onnxruntime. That function is the certified one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1 or self.start < 0 or (self.limit is not None and self.limit < 1):
            found = f"every {self.every}, start {self.start}, limit {self.limit}"
            raise ValueError(f"expected every >= 1, start >= 0 and limit >= 1, got {found}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        if self.runtime not in RUNTIMES:
            raise ValueError(f"unknown runtime {self.runtime!r}; known: {', '.join(RUNTIMES)}")
        self.seed_of(0).check()

    def indices(self, total: int) -> list[int]:
        """The examples to certify, of a data set that holds `total`."""
        if self.start >= total:
            raise ValueError(f"start = {self.start} is beyond the {total} examples of {self.dataset}, {self.split}")
        return list(range(self.start, total, self.every))[: self.limit]

    def seed_of(self, index: int) -> Seed:
        """The seed of the noise of an example."""
        return Seed(self.seed, index)


def open_certification(
    task: Certification, folder: Path, data: Images, name: str, more: Mapping[str, Any] | None = None
) -> bool:
    """Create the folder of a certification, or make sure that it is the same one, of the same images; whether this
    process created it.

    Args:
        more: what run.json should tell besides: where the parts of the model come from, and which run it revises.

    Raises:
        ValueError: see `store.open_run`; or the images or labels changed, or the folder does not tell what they were.
    """
    indices = task.indices(len(data))
    if (folder / "run.json").exists():
        same_data(folder, data, indices)
    cap = task.certifier.cap()
    facts = {
        "name": name,
        "total": len(indices),
        "cap": cap if math.isfinite(cap) else None,
        "samples": task.certifier.samples(),
        **(more or {}),
    }
    return store.open_run(folder, {"certification": task.to_dict(), "checksums": data.checksums(indices)}, facts)


def same_data(folder: Path, data: Images, indices: list[int]) -> None:
    """Refuse to add records about other images than those that a folder was started with.

    Raises:
        ValueError: images or labels changed, or the folder does not tell what they were.
    """
    found, expected = store.read_run(folder).get("checksums"), data.checksums(indices)
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{folder} does not tell which images its records are about: it was made before runs kept checksums of "
            "them. It can be reported as it is, and nothing is added to it; move it away to start a new one"
        )
    if changed := [what for what in expected if found.get(what) != expected[what]]:
        raise ValueError(
            f"the {' and the '.join(changed)} of the data set changed since {folder} was started; bring the old ones "
            "back, or move that folder away to start a new one"
        )


def same_model(task: Certification, identity: str) -> None:
    """Refuse to add records of another model than the one that the task names.

    Raises:
        ValueError: it is another; a factory with weights drawn at random makes another one at every call.
    """
    if identity != task.model:
        raise ValueError(
            f"the records would be about another model: the task names {task.model}, and this one is {identity}. A "
            "factory must return the same model at every call: give its weights by --weights, or seed it"
        )


def of_other_models(task: Certification, folder: Path) -> list[Path]:
    """Folders beside this one with the same settings for a model of another identity: their records are not used."""
    beside = (path.parent for path in folder.parent.glob("certify-*/run.json") if path.parent != folder)
    return [path for path in beside if _told(path, task.model) == task]


def _told(folder: Path, model: str) -> Certification | None:
    """The settings of a folder as those of another model; None where they cannot be read."""
    with suppress(ValueError, TypeError):
        return Certification.from_dict(store.read_run(folder).get("certification") or {}).replace(model=model)

"""Published results, one JSON file per source and data set. A number without paper, table and URL does not load.

A file holds `source` (paper, table, url, and in `how` where the numbers were read), what all its rows have in common
(dataset, arch, norm, examples), and `rows`. Accuracy is certified accuracy in percent by radius, as written there.

A run meets the rows whose ids are those of its recipe: the kind of the method, the data set, the architecture; and the
threat model of its radii. Nothing is guessed from names.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

SOURCE = ("paper", "table", "url")


@dataclass(frozen=True)
class Published:
    """One row of a published table."""

    paper: str
    table: str
    url: str
    how: str
    """Where the numbers were read: recomputed from released logs, printed in the paper, ..."""
    method: str
    """The kind of the method in recipes, such as `GaussianNoise`."""
    dataset: str
    """The data set as recipes name it."""
    arch: tuple[str, ...]
    """The architectures of recipes that the row stands beside: its own first, then smaller ones for a CPU."""
    norm: str
    """Name of the threat model."""
    label: str
    """The method as its authors write it, with its hyper-parameters."""
    examples: int | None = None
    """Number of certified images; None where not stated."""
    n: int | None = None
    """Samples per image; None for deterministic methods or where not stated."""
    sigma: float | None = None
    """Noise of a smoothed classifier, in pixel units; None for deterministic methods or where not stated."""
    acr: float | None = None
    acr_sd: float | None = None
    """Standard deviation of ACR over training seeds, where given."""
    accuracy: dict[float, float] = field(default_factory=dict)
    """Certified accuracy in percent at each published radius."""
    note: str = ""
    claimed: str = ""
    """Why its numbers are claimed and not proven; empty where they are proven, if only with confidence 1 - alpha."""
    extra_data: str = ""
    """What it was trained on beyond the training set; empty where nothing is stated."""
    absent: str = ""
    """Why no recipe here can meet it; empty where one can."""

    @property
    def year(self) -> int | None:
        """Of the publication, as the paper's reference tells it."""
        years = re.findall(r"\b(?:19|20)\d\d\b", self.paper)
        return int(years[-1]) if years else None

    @property
    def citation(self) -> str:
        """The first author and the year, as far as the reference begins with authors."""
        first = re.split(r",| et al| &", self.paper)[0]
        return " ".join(str(part) for part in (first if len(first) <= 24 else "", self.year) if part)

    @property
    def title(self) -> str:
        """What tells it from other rows: the label, the noise, the citation."""
        noise = f", sigma {self.sigma:g}" if self.sigma else ""
        return f"{self.label}{noise} ({self.citation})"


def published(folder: Path = Path(__file__).parent) -> list[Published]:
    """All published results of a folder, in the order of its files.

    Raises:
        ValueError: a file without paper, table or URL, or with a field that does not exist.
    """
    return [row for path in sorted(folder.glob("*.json")) for row in _read(path)]


def _read(path: Path) -> list[Published]:
    data = json.loads(path.read_text(encoding="utf-8"))
    source, rows = data.pop("source", {}), data.pop("rows")
    if missing := [name for name in SOURCE if not source.get(name)]:
        raise ValueError(f"{path.name}: a published number needs its source; missing: {', '.join(missing)}")
    return [_row(path, source | data | row) for row in rows]


def _row(path: Path, values: dict[str, Any]) -> Published:
    if strange := values.keys() - {field.name for field in fields(Published)}:
        raise ValueError(f"{path.name}: no such field: {', '.join(sorted(strange))}")
    accuracy = {float(Fraction(radius)): percent for radius, percent in values.pop("accuracy", {}).items()}
    return Published(**values | {"accuracy": accuracy, "arch": tuple(values["arch"])})


def find(
    rows: Sequence[Published],
    method: str,
    dataset: str,
    arch: str,
    norm: str,
    sigma: float | None = None,
) -> list[Published]:
    """The rows with these ids, and with this sigma or none stated."""
    ids = (method, dataset, norm)
    alike = [row for row in rows if (row.method, row.dataset, row.norm) == ids and arch in row.arch]
    return [row for row in alike if row.sigma in (None, sigma)]

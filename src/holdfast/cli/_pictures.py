"""Pictures of examples for a page, from data that lies on this disk."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def pictures(data_dir: Path | None) -> Callable[[str, str, Sequence[int]], Mapping[int, bytes]]:
    """What a page asks for pictures; the machinery of data sets is imported when some can be had."""
    where = data_dir or Path(os.environ.get("HOLDFAST_DATA", "data"))

    def read(dataset: str, split: str, indices: Sequence[int]) -> Mapping[int, bytes]:
        inside = dataset in ("digits", "mnist-5k") or dataset.startswith("folder:")
        if not inside and not (where / dataset.partition("@")[0]).is_dir():
            return {}  # nothing is downloaded for a report
        from ..data.pictures import thumbnails

        return thumbnails(dataset, split, indices, where)

    return read

"""`holdfast board`: all published results, and any runs beside them, ranked by data set, threat model and radius."""

from collections.abc import Sequence
from pathlib import Path

from .curve import Curve, load
from .labels import labeled
from .page import write_page
from .page.data import Thumbnails, page_data
from .published import Published, published


def board(
    paths: Sequence[Path] = (), out: Path = Path("board.html"), thumbnails: Thumbnails | None = None
) -> list[str]:
    """Write the page.

    Args:
        paths: run folders, certify folders, exported tables, logs, or folders that hold such; none are needed.
        out: the file.
        thumbnails: pictures of examples; none without.

    Returns:
        a sentence for everything that was left out.
    """
    loaded = load(paths)
    done = [curve for curve in loaded.curves if not curve.unfinished]
    left_out = [*loaded.left_out, *(f"{curve.label} is not finished" for curve in loaded.curves if curve.unfinished)]
    rows = published()
    data = page_data(labeled(done), rows, board=True, thumbnails=thumbnails)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, "Certified robustness: the published record", data, [], [*_notes(rows, done), *_missing(left_out)])
    return left_out


def _notes(rows: Sequence[Published], curves: Sequence[Curve]) -> list[str]:
    claimed = sum(bool(row.claimed) for row in rows)
    return [
        f"{len(rows)} published results, each with its source, and {len(curves)} runs.",
        f"{claimed} of the published results are claimed, not proven: their Lipschitz constants come from power "
        "iteration, which approaches the true constant from below.",
        "A rank counts those that say something at the chosen radius; results of other architectures, numbers of "
        "samples and extra data stand side by side, so filter before comparing.",
        "A result of sampling holds for each image with probability 1 - alpha; a run says its alpha.",
    ]


def _missing(left_out: Sequence[str]) -> list[str]:
    return [f"Left out: {sentence}." for sentence in left_out]

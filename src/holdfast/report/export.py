"""`holdfast export`: the records of runs as one file each, for other people's tools and to be read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..runs.certified import read
from ..runs.find import find, name_of, read_facts
from ..runs.logs import write_log, write_parquet

Format = Literal["tsv", "parquet"]


class Exported(NamedTuple):
    """The files written, and a sentence for everything that was not."""

    written: list[Path]
    left_out: list[str]


def export(paths: Sequence[Path], format: Format = "tsv", out: Path | None = None) -> Exported:
    """Write one file per certify folder, with what is known of the run.

    Args:
        paths: run folders, certify folders, exported tables or logs, or folders that hold such.
        format: Cohen's tab-separated log with a file of settings beside it (`tsv`), or a table with all evidence and
            the settings in its metadata (`parquet`).
        out: folder for the files; by default a named certify folder itself, the run folder, or the folder of a log.

    Raises:
        ValueError: nothing of this can be exported.
    """
    sources, left_out = find(paths)
    named = {Path(path).resolve() for path in paths}
    written: dict[Path, Path] = {}
    for source in sources:
        folder = out or (source if source.is_dir() and source.resolve() in named else source.parent)
        try:
            target = folder / f"{name_of(source)}.{format}"
            if target in written:
                raise ValueError(f"{source} would overwrite the export of {written[target]}; export it apart")
            _export(source, target, format)
            written[target] = source
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    if not written:
        raise ValueError("; ".join(left_out) or "nothing to export; name a run folder, a certify folder or a log")
    return Exported(list(written), left_out)


def _export(source: Path, target: Path, format: Format) -> None:
    records = read(source)
    if not records:
        raise ValueError(f"{source} holds no records yet; certify it first")
    if target.resolve() == source.resolve():
        raise ValueError(f"{source} would be overwritten; choose another folder")
    if format == "tsv" and (norm := records[0].certificate.norm) != "l2":
        raise ValueError(f"{source}: the tsv format holds l2 radii only, found {norm}; export as parquet instead")
    target.parent.mkdir(parents=True, exist_ok=True)
    {"tsv": write_log, "parquet": write_parquet}[format](records, target, read_facts(source))

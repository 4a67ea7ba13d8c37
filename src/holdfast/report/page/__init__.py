"""The interactive page: one HTML file with its data, its script and its library inside. It loads nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..table import Table, printable

HERE = Path(__file__).parent


def write_page(path: Path, title: str, data: dict[str, Any], tables: Sequence[Table], notes: Sequence[str]) -> None:
    """Write the page.

    Args:
        data: what `data.page_data` returns.
        tables: shown below the chart, also without scripts.
        notes: how to read the numbers.
    """
    pages = Environment(loader=PackageLoader(__package__ or "", ""), autoescape=True, undefined=StrictUndefined)
    pages.filters["printable"] = printable
    parts = {name: Markup((HERE / file).read_text(encoding="utf-8")) for name, file in PARTS.items()}
    block = Markup(_inert(json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))))
    html = pages.get_template("page.html").render(title=title, data=block, tables=tables, notes=notes, **parts)
    path.write_text(html, encoding="utf-8")


PARTS = {
    "library": "uPlot.iife.min.js",
    "library_style": "uPlot.min.css",
    "library_license": "uPlot.LICENSE",
    "script": "page.js",
    "style": "page.css",
}


def _inert(text: str) -> str:
    """JSON in which nothing ends a script or begins a tag or a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

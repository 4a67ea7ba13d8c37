"""The report as one HTML file that needs nothing else: the figure is inside, there are no scripts."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from .summary import Report
from .text import printable


def write_page(report: Report, picture: Path, path: Path) -> None:
    """Write the page; `picture` is the PNG to put inside."""
    pages = Environment(loader=PackageLoader(__package__ or "", "pages"), autoescape=True, undefined=StrictUndefined)
    pages.filters["printable"] = printable
    image = base64.b64encode(picture.read_bytes()).decode()
    html = pages.get_template("report.html").render(report=report, image=image)
    path.write_text(html, encoding="utf-8")

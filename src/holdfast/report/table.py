"""A table as a value, and its forms: for the terminal, for Markdown, for the page.

Names are plain text in every output: whatever a run is called, it is shown, and nothing more happens.
"""

import re
from dataclasses import dataclass, replace

import rich.box
import rich.table
from rich.text import Text

MARKDOWN = re.compile(
    r"(?P<url>https?://[\w./~%?=#:-]+)"
    r"|[\\`*|$~]"
    r"|(?<!\w)_|_(?!\w)"  # emphasis; inside a word it is none
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # tags and entities
    r"|(?<=\])\("  # the target of a link
)
"""What means something in Markdown, as far as it occurs inside a line; addresses stay as they are."""


def printable(text: str) -> str:
    """One line: every white space is a space, and what cannot be printed is shown as a replacement character."""
    return "".join(
        " " if char.isspace() else char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def markdown_text(text: str) -> str:
    """One line of Markdown that shows this text, anywhere but at the beginning of a line."""
    return MARKDOWN.sub(lambda found: found["url"] or f"\\{found[0]}", printable(text))


def csv_text(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


@dataclass(frozen=True)
class Table:
    """Text in rows and columns. The first column names the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...] = ()
    """Lines below the table: where its numbers come from."""
    splits: bool = False
    """Its columns may be shown a few at a time where space is short."""

    @property
    def words(self) -> tuple[bool, ...]:
        """Whether a column holds words, not numbers."""
        return tuple(any(cell[:1].isalpha() for cell in cells) for cells in zip(*self.rows, strict=True))

    def split(self, width: int) -> list["Table"]:
        """Parts that fit into so many characters, each with the first column in front."""
        widths = [max(map(len, column)) + 3 for column in zip(self.header, *self.rows, strict=True)]
        parts: list[list[int]] = [[0]]
        for column in range(1, len(self.header)):
            if self.splits and len(parts[-1]) > 1 and sum(widths[at] for at in (*parts[-1], column)) > width:
                parts.append([0])
            parts[-1].append(column)
        return [self.columns(part) for part in parts]

    def columns(self, chosen: list[int]) -> "Table":
        """Some of its columns."""
        header, *rows = [tuple(row[column] for column in chosen) for row in (self.header, *self.rows)]
        return replace(self, header=header, rows=tuple(rows))


def rich_table(table: Table) -> rich.table.Table:
    """For the terminal, without its title. Columns of numbers never wrap, columns of words do."""
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name, words in zip(table.header, table.words, strict=True):
        shown.add_column(
            Text(printable(name)), justify="left" if words else "right", overflow="fold", no_wrap=not words
        )
    for row in table.rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    return shown


def markdown(table: Table) -> str:
    """For report.md: a heading, a pipe table, the sources as a list."""
    rows = [table.header, tuple("---" if words else "---:" for words in table.words), *table.rows]
    lines = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    sources = ["", *(f"- {markdown_text(source)}" for source in table.sources)] if table.sources else []
    return "\n".join([f"## {markdown_text(table.title)}", "", *lines, *sources, ""])

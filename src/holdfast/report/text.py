"""Names as plain text in every output: whatever a run is called, it is shown, and nothing more happens."""

import re

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

"""Tables in Markdown."""

import re
from collections.abc import Sequence

from picjax.cli import printable

# What Markdown and the HTML in it interpret; an underscore only at the edge of a word.
SPECIAL = re.compile(r"[\\`*\[\]<>&|~]|(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    """A text with names from outside in one line of Markdown, shown as it is."""
    return SPECIAL.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned so that it reads well as plain text."""
    cells = [
        [c.replace("|", "\\|").replace("\n", " ") for c in row]
        for row in [header, *rows]
    ]
    widths = [max(3, *(len(c) for c in column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (c.ljust(w) for c, w in zip(row, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])]) + "\n"

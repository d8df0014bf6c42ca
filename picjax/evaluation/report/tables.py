"""Tables in Markdown and HTML, and the frame of a self-contained page."""

import html
from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as plain text too."""
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


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table in HTML; what follows a line break in a cell is set small."""

    def cell(text: str) -> str:
        first, _, rest = text.partition("\n")
        return html.escape(first) + (
            f"<small>{html.escape(rest)}</small>" if rest else ""
        )

    def line(row: Sequence[str], tag: str) -> str:
        cells = "".join(f"<{tag}>{cell(text)}</{tag}>" for text in row)
        return f"<tr>{cells}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    head = f"<thead>{line(header, 'th')}</thead>"
    return f"<table>\n{head}\n<tbody>{body}</tbody>\n</table>\n"


def html_page(
    title: str, parts: Sequence[str], style: str = "", script: str = ""
) -> str:
    """One self-contained page: nothing in it is fetched from elsewhere."""
    title = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n<h1>{title}</h1>\n"
        + "\n".join(parts)
        + f"\n<script>{script}</script>\n</html>\n"
    )


def html_text(text: str) -> str:
    """Plain text inside a page."""
    return html.escape(text)

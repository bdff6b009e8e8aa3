"""What a notebook shows of an object: its one line, and a table that nothing in it can leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 200


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as HTML, whatever the texts hold; of very many rows the first."""
    listed = list(rows)
    more = len(listed) - MOST_ROWS
    body = "".join(_row("td", row) for row in listed[:MOST_ROWS])
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    return (
        f'<table style="text-align: left"><caption>{_text(caption)}</caption>'
        f"<thead>{_row('th', header)}</thead><tbody>{body}</tbody></table>{rest}"
    )


def _row(kind: str, cells: Iterable[object]) -> str:
    style = ' style="text-align: left"'  # notebooks align to the right
    return f"<tr>{''.join(f'<{kind}{style}>{_text(cell)}</{kind}>' for cell in cells)}</tr>"


def _text(value: object) -> str:
    """Text that ends no element, and turns no other text around."""
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return f"<bdi>{escape(text)}</bdi>"

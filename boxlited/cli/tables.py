"""Tables that fit the terminal: columns shrink, then drop; a line never wraps. Pure.

Width is counted in terminal cells (wide characters take two). Every cell is made harmless here
(`escape.line`), so that no caller can forget it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from boxlited.cli.escape import line

GAP = "  "


class Column(NamedTuple):
    """`drop`: the order in which columns go when space is short (higher first, 0 never).
    `least`: the narrowest width worth showing, if the column can shrink at all."""

    title: str
    drop: int = 0
    least: int | None = None
    right: bool = False


def render(columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int | None) -> list[str]:
    """Lines of at most `width` cells; with None nothing is cut."""
    table = [[line(cell) for cell in row] for row in rows]
    natural = [max([cells(column.title), *(cells(row[i]) for row in table)]) for i, column in enumerate(columns)]
    shown = fit(columns, natural, width)
    lines = [_line(columns, [column.title for column in columns], shown)]
    lines += [_line(columns, row, shown) for row in table]
    return lines


def fit(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> dict[int, int]:
    """Width of each column that is shown, by its index, in order."""
    shown = dict(enumerate(natural))
    if width is None:
        return shown
    for index in sorted(shown, key=lambda i: -columns[i].drop):
        if _total({i: _least(columns[i], w) for i, w in shown.items()}) <= width:
            break
        if columns[index].drop:
            del shown[index]
    _shrink(columns, shown, width)
    return shown


def _shrink(columns: Sequence[Column], shown: dict[int, int], width: int) -> None:
    """Take space from the last shrinkable column first; at last cut what is left by force."""
    for index in sorted(shown, reverse=True):
        excess = _total(shown) - width
        if excess > 0:
            shown[index] = max(_least(columns[index], shown[index]), shown[index] - excess)
    for index in sorted(shown, reverse=True):
        excess = _total(shown) - width
        if excess > 0:
            shown[index] = max(1, shown[index] - excess)
    while len(shown) > 1 and _total(shown) > width:
        del shown[max(shown)]
    for index, taken in shown.items():
        shown[index] = min(taken, max(width, 0))


def _least(column: Column, natural: int) -> int:
    return natural if column.least is None else min(natural, column.least)


def _total(shown: dict[int, int]) -> int:
    return sum(shown.values()) + len(GAP) * max(0, len(shown) - 1)


def _line(columns: Sequence[Column], row: Sequence[str], shown: dict[int, int]) -> str:
    parts = []
    for index, width in shown.items():
        cell = cut(row[index], width)
        padding = " " * (width - cells(cell))
        parts.append(padding + cell if columns[index].right else cell + padding)
    return GAP.join(parts).rstrip()


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    kept, used = [], 0
    for character in text:
        used += cells(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def cells(text: str) -> int:
    """Terminal cells that `text` takes, at most: terminals differ about combined emoji."""
    if text.isascii():
        return len(text)
    return sum(1 if character.isascii() else _cells_of(character) for character in text)


@cache
def _cells_of(character: str) -> int:
    if character in "…\ufe0f":  # U+FE0F widens the character before it, on some terminals
        return 1
    from rich.cells import get_character_cell_size

    return get_character_cell_size(character)

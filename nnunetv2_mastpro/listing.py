"""Names and rows as the commands print them. Standard library only."""

import difflib
from collections.abc import Sequence


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def kind(is_tumor: bool) -> str:
    """Of a class, as every table calls it."""
    return "tumour type" if is_tumor else "other class"


def closest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like it, if any is like it enough."""
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff)), None)


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean 'x'? ` or nothing."""
    found = closest(name, known, 0.5)
    return f"did you mean {found!r}? " if found else ""

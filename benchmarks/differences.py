"""What rows of a table differ by, and Table 2's parts, with intervals."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from nnunetv2_mastpro.evaluation.statistics import average, by_unit, interval, mean

PARTS = {"ap": "AP", "tp": "TP", "experts": "D-MoE"}  # in the keys of Table 2's rows


def difference(first: Sequence[Mapping], second: Sequence[Mapping]) -> tuple[float, float, float] | None:
    """First minus second in mean Dice, and its 95 % interval from drawing cases, paired by seed, case and class.

    The mean is the table's: of each column over seeds and cases, then over the columns.
    """
    others = {cell["seed"]: cell["cases"] for cell in second}
    pairs = [
        (*key.split(" ", 1), cell.get("columns", {}).get(key), dice - others[cell["seed"]][key])
        for cell in first
        for key, dice in cell["cases"].items()
        if key in others.get(cell["seed"], {})
    ]
    if not pairs:
        return None
    places = {column: place for place, column in enumerate(dict.fromkeys(c or value for _, value, c, _ in pairs))}
    sums = np.zeros((len(pairs), len(places), 2))
    for row, (_, value, column, change) in zip(sums, pairs, strict=True):
        row[places[column or value]] = change, 1
    return interval(by_unit([case for case, *_ in pairs], sums), lambda drawn: average(mean(drawn)))


def with_interval(estimate: float, low: float, high: float) -> str:
    """One case has no interval."""
    return f"{estimate:+.3f}" + ("" if np.isnan(low) else f" ({low:+.3f} to {high:+.3f})")


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rest])


def effects(cells: Mapping[str, list[dict]]) -> str:
    """What each part of Table 2 changes, over the four pairs of rows that differ in it alone.

    Empty unless all eight rows have the same seeds.
    """
    rows = {frozenset(key.split("_")) - {"none"}: found for key, found in cells.items()}
    rows[frozenset(PARTS)] = cells.get("mastpro", [])
    lines = [["part", "change of mean Dice (95 %)"]]
    for part, title in PARTS.items():
        others = [other for other in PARTS if other != part]
        bases = [frozenset(kept) for count in range(3) for kept in itertools.combinations(others, count)]
        pairs = [(rows.get(base | {part}), rows.get(base)) for base in bases]
        if not all(map(all, pairs)) or len({frozenset(c["seed"] for c in row) for pair in pairs for row in pair}) > 1:
            return ""
        first, second = (
            [{**cell, "seed": (place, cell["seed"])} for place, found in enumerate(side) for cell in found]
            for side in zip(*pairs, strict=True)
        )
        lines.append([title, with_interval(*difference(first, second))])
    return f"Each part over the four pairs of rows that differ in it alone:\n\n{markdown_table(lines)}\n"

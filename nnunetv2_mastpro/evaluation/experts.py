"""What expert_usage.json of a training says: rows of a table, a heat map, and experts that have collapsed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError

USAGE = "expert_usage.json"
GENERIC, ALL = "generic", "all"
NEVER = 0.01  # share of patches (voxels, with token routing) below which an expert counts as never kept
ALWAYS = 0.95  # share of a group's choices above which the experts that have it leave nothing to the others
FEW = 10  # patches, below which choices are too few to call an expert collapsed
SIDE_INCHES, MOST_PIXELS = 16, 3000  # of the heat map: up to the first, panels stand in one row


def read_usage(fold: Path) -> dict:
    """Checked content of the fold's expert_usage.json. Raises MASTProError."""
    path = fold / USAGE
    if not path.is_file():
        raise MASTProError(f"{path} is missing: no epoch of a MAST-Pro training has ended there; train first")
    try:
        usage = json.loads(path.read_text(encoding="utf-8"))
        patches = usage["patches"][ALL]
        shares = [share for types in usage["kept"].values() for share in types[ALL][GENERIC]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MASTProError(
            f"{path} is not what this version's training writes ({error!r}); train one more epoch (--c)"
        ) from error
    if not patches or not shares:
        raise MASTProError(f"{path} counts no patch; train first")
    return usage


def columns(usage: Mapping) -> list[tuple[str, int]]:
    """(owner, number) of the experts of a stage: the generic ones, then each type's."""
    owners = next(iter(usage["kept"].values()))[ALL]
    return [(owner, number) for owner, shares in owners.items() for number in range(len(shares))]


def rows(usage: Mapping) -> Iterator[tuple[str, str, int, list[float]]]:
    """Stage, tumour type in the patch ("all": every patch), patches, share of each expert."""
    for stage, types in usage["kept"].items():
        for name, owners in types.items():
            yield stage, name, usage["patches"][name], [share for shares in owners.values() for share in shares]


def collapsed(usage: Mapping) -> list[str]:
    """A line per group whose experts are not all used: hardly ever kept anywhere, or always the same ones kept.

    A type's experts are judged in the patches with that type, unless these are few.
    """
    found = []
    for stage, types in usage["kept"].items():
        for owner in types[ALL]:
            row = ALL if owner == GENERIC else owner
            if row in types and usage["patches"][row] >= FEW:
                where = f" in the {usage['patches'][row]} patches" + ("" if row == ALL else f" with {row}")
                anywhere = [max(shares) for shares in zip(*(owners[owner] for owners in types.values()), strict=True)]
                found += [f"{stage}: {text}" for text in _findings(owner, types[row][owner], anywhere, where)]
    return found


def too_few(usage: Mapping) -> list[str]:
    """A line for what `collapsed` does not judge."""
    few = [f"with {name}" for name, number in usage["patches"].items() if 0 < number < FEW and name != ALL]
    if usage["patches"][ALL] < FEW:
        few = ["of all types"]
    return [f"too few patches {', '.join(few)} to tell whether their experts' choices have collapsed"] if few else []


def _findings(owner: str, shares: list[float], anywhere: list[float], where: str) -> Iterator[str]:
    """shares, anywhere: of the group's experts in the group's own patches, and at most in any row."""
    if not shares:
        return
    if sum(shares) < NEVER:
        yield f"no {owner} expert kept{where}"
        return
    kept = max(1, math.ceil(sum(shares) - NEVER))  # together
    first = sorted(sorted(range(len(shares)), key=lambda number: -shares[number])[:kept])
    part = sum(shares[number] for number in first) / sum(shares)
    idle = [number for number, share in enumerate(anywhere) if share < NEVER]
    if kept < len(shares) and part > ALWAYS:
        has = "has" if kept == 1 else "have"
        yield f"{owner} {_listed(first, len(shares))} {has} {part:.0%} of the choices{where}"
        idle = [] if len(idle) + kept == len(shares) else idle
    if idle:
        yield f"{owner} {_listed(idle, len(shares))} hardly ever kept"


def _listed(numbers: list[int], count: int) -> str:
    """Numbers as the table's columns have them, from 0."""
    return f"expert{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} of 0 to {count - 1}"


def draw(usage: Mapping) -> bytes:
    """PNG, a heat map per stage: rows are tumour types in the patch, columns experts by owner; grey: in no patch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    experts, names, stages = columns(usage), list(usage["patches"]), list(usage["kept"])
    cell_wide, cell_high = min(0.34, max(0.13, 9 / len(experts))), min(0.3, max(0.14, 6 / len(names)))  # inches
    wide, high = max(2.4, cell_wide * len(experts)), cell_high * len(names) + 0.4
    sizes = {}  # of the figure, with names at the left and below, by panels in a row
    for number in range(len(stages), 0, -1):
        sizes[number] = (wide * number + 3, max(2.6, high * -(-len(stages) // number) + 1.4))
    across = min(sizes, key=lambda number: max(*sizes[number], SIDE_INCHES))
    size = sizes[across]
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(stages) // across), across, squeeze=False, sharey=True)
    for place, axis in enumerate(axes.flat):
        if place >= len(stages):
            axis.set_visible(False)
            continue
        shares = {name: row for stage, name, _, row in rows(usage) if stage == stages[place]}
        grid = [shares.get(name, [float("nan")] * len(experts)) for name in names]
        axis.set_facecolor("#c8c8c8")
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
        axis.set_title(stages[place].replace("_", " "), fontsize=10)
        label_columns(axis, [owner for owner, _ in experts], named=place + across >= len(stages))
        axis.set_yticks(range(len(names)), [f"{name} ({usage['patches'][name]})" for name in names], fontsize=8)
        axis.tick_params(length=0)
    figure.supylabel("tumour type in the patch (patches)", fontsize=9)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, aspect=30, shrink=min(1.0, 4 / size[1]))
    bar.set_label("share that keeps the expert", fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=min(150, MOST_PIXELS / max(size)))
    return stream.getvalue()


def label_columns(axis, owners: list[str], named: bool) -> None:
    """Names of the owners under the middle of their columns, and lines between owners."""
    names = list(dict.fromkeys(owners))
    starts = [owners.index(name) for name in names]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, [*starts[1:], len(owners)], strict=True)]
    for start in starts[1:]:
        axis.axvline(start - 0.5, color="white", linewidth=1.5 if len(owners) < 40 else 0.8)
    if named and len(names) > 12:
        axis.set_xticks(middles, names, rotation=90, fontsize=7)
    elif named:
        axis.set_xticks(middles, names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    else:
        axis.set_xticks([])

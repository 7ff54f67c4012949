"""What expert_usage.json of a training says: rows of a table, a heat map, and experts that have collapsed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError

USAGE = "expert_usage.json"
GENERIC, ALL = "generic", "all"
NEVER, ALWAYS = 0.01, 0.95  # shares of patches (voxels, with token routing) at which an expert counts as collapsed


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
    """A line per expert that is hardly ever kept, and per group in which one expert is kept nearly always alone."""
    found = []
    for stage, types in usage["kept"].items():
        for owner, shares in types[ALL].items():
            if owner != GENERIC:  # a type's experts have their turn where that type is
                shares = types.get(owner, {}).get(owner, shares)
            idle = [str(number) for number, share in enumerate(shares) if share < NEVER]
            total, alone = sum(shares), max(shares, default=0)
            if idle and total >= NEVER:
                found.append(f"{stage}: {owner} expert {', '.join(idle)} of 0 to {len(shares) - 1} hardly ever kept")
            if total < NEVER:
                found.append(f"{stage}: no {owner} expert kept, where it could have been")
            elif owner != GENERIC and len(shares) > 1 and alone / total > ALWAYS:
                found.append(
                    f"{stage}: {owner} expert {shares.index(alone)} has {alone / total:.0%} of its type's choices"
                )
    return found


def draw(path: Path, usage: Mapping) -> None:
    """A heat map per stage: rows are tumour types in the patch, columns experts by owner."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    experts, names = columns(usage), list(usage["patches"])
    stages = list(usage["kept"])
    wide, high = max(4.0, 0.34 * len(experts) + 1.0), 0.3 * len(names) + 1.9
    across = max(1, min(len(stages), int(16 // wide)))
    down = -(-len(stages) // across)
    figure = Figure(figsize=(wide * across + 2.2, high * down + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    owners = list(dict.fromkeys(owner for owner, _ in experts))
    starts = [next(i for i, (owner, _) in enumerate(experts) if owner == name) for name in owners]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, [*starts[1:], len(experts)], strict=True)]
    image = None
    for axis, stage in zip(axes.flat, stages, strict=False):
        shares = {name: row for where, name, _, row in rows(usage) if where == stage}
        grid = [shares.get(name, [float("nan")] * len(experts)) for name in names]
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for start in starts[1:]:
            axis.axvline(start - 0.5, color="white", linewidth=2)
        axis.set_title(stage.replace("_", " "), fontsize=10)
        axis.set_xticks(middles, owners, rotation=35, ha="right", fontsize=8)
        axis.set_yticks(range(len(names)), [f"{name} ({usage['patches'][name]})" for name in names], fontsize=8)
        axis.tick_params(length=0)
    for axis in axes.flat[len(stages) :]:
        axis.set_visible(False)
    figure.supylabel("tumour type in the patch (patches)", fontsize=9)
    figure.colorbar(image, ax=axes, label="share in which the expert is kept", shrink=0.8)
    figure.savefig(path, dpi=150)

"""The picture of `mastpro compare`: scores by class above, differences to the first below, with their intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from nnunetv2_mastpro.evaluation.metrics import NAMES
from nnunetv2_mastpro.evaluation.tables import TITLES

MEAN = "mean of classes"
STEP = 0.8  # of a class's row that its points take


def draw(result: Mapping) -> bytes:
    """A PNG file. Columns: Dice, NSD, HD95; rows of a panel: classes, from the top down."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(result["predictions"])
    labels = [*result["classes"], *([MEAN] if len(result["classes"]) > 1 else [])]
    height = 1.3 + 2 * (0.6 + len(labels) * max(0.3, 0.16 * len(names)))
    figure = Figure(figsize=(13, height), layout="constrained")
    panels = figure.subplots(2, len(NAMES), sharey="row", squeeze=False)
    percent = f"{100 * result['confidence']:g} %"
    for metric, (scores, differences) in zip(NAMES, panels.T, strict=True):
        title = f"NSD at {result['tolerance_mm']:g} mm" if metric == "NSD" else TITLES[metric]
        _points(scores, labels, [_scores(result, name, metric) for name in names], names, range(len(names)))
        others = [_differences(result, name, metric) for name in names[1:]]
        _points(differences, labels, others, names[1:], range(1, len(names)))
        differences.axvline(0, color="black", linewidth=0.8)
        scores.set_title(f"{title}, mean with {percent} interval", fontsize=10)
        differences.set_title(f"{title}, difference to {_short(names[0])}", fontsize=10)
    handles, legend = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, legend, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _points(
    axes, labels: Sequence[str], series: Sequence[Mapping], names: Sequence[str], colours: Sequence[int]
) -> None:
    for place, (numbers, name, colour) in enumerate(zip(series, names, colours, strict=True)):
        shift = STEP * ((place + 0.5) / len(series) - 0.5)
        known = [
            (row + shift, numbers[label]) for row, label in enumerate(labels) if numbers[label]["mean"] is not None
        ]
        rows, means = [row for row, _ in known], [number["mean"] for _, number in known]
        reach = [
            [0.0 if number[side] is None else abs(number["mean"] - number[side]) for _, number in known]
            for side in ("low", "high")
        ]
        axes.errorbar(
            means, rows, xerr=reach, fmt="o", markersize=4, capsize=2, color=f"C{colour % 10}", label=_short(name)
        )
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    for edge in range(1, len(labels)):
        axes.axhline(edge - 0.5, color="0.85", linewidth=0.8)


def _scores(result: Mapping, name: str, metric: str) -> dict[str, Mapping]:
    summary = result["summaries"][name]
    found = {label: classes[metric] for label, classes in summary["classes"].items()}
    return {**found, MEAN: summary["macro"]["classes"][metric]}


def _differences(result: Mapping, name: str, metric: str) -> dict[str, Mapping]:
    return {
        MEAN if row["class"] is None else row["class"]: {**row, "mean": row["difference"]}
        for row in result["differences"]
        if (row["name"], row["metric"]) == (name, metric)
    }


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."

"""Plots of the page as SVG: training curves and box plots. Light ground, since the page shows them on a light card."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

MOST_POINTS = 300  # of a curve
LINE_COLORS = ("#0b6bcb", "#b3261e", "#1d7a46", "#8a4fbf", "#a65d00", "#00707a", "#b0307a", "#5b6670")


def draw_curves(curves: Mapping[str, Sequence], classes: Sequence[str]) -> bytes:
    """Losses, pseudo-Dice by class, and learning rate over the epochs, of nnU-Net's logging."""
    losses = {"training": curves.get("train_losses", []), "validation": curves.get("val_losses", [])}
    dice = np.array(curves.get("dice_per_class_or_region", []), float)  # (epochs, classes)
    by_class = dict(zip(classes, dice.T, strict=False)) if dice.ndim == 2 else {}
    panels = {"loss": losses, "pseudo-Dice": by_class, "learning rate": {"": curves.get("lrs", [])}}
    figure, axes = _figure(len(panels), 2.7)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for color, (name, values) in zip(LINE_COLORS * 20, lines.items(), strict=False):
            epochs = np.arange(len(values))
            step = max(1, -(-len(values) // MOST_POINTS))
            style = {"marker": "o", "markersize": 3} if len(values) < 15 else {}
            axis.plot(epochs[::step], np.asarray(values, float)[::step], color=color, lw=1.3, label=name, **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            axis.legend(fontsize=7, frameon=False)
    return _svg(figure)


def draw_boxes(values: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Metric -> class -> a value per case: boxes with the cases as points, nan left out."""
    classes = list(next(iter(values.values())))
    figure, axes = _figure(len(values), max(2.2, 0.45 * len(classes) + 1))
    counts: list[int] = []
    for number, (axis, (metric, by_class)) in enumerate(zip(axes, values.items(), strict=True)):
        kept = [[value for value in by_class[name] if np.isfinite(value)] for name in classes]
        places = np.arange(len(classes))[::-1]
        looks = {"medianprops": {"color": "#1c2730"}, "showfliers": False, "widths": 0.5}
        axis.boxplot(kept, positions=places, orientation="horizontal", **looks)
        for place, points, color in zip(places, kept, LINE_COLORS * 20, strict=False):
            spread = np.linspace(-0.15, 0.15, len(points)) if len(points) > 1 else np.zeros(len(points))
            axis.scatter(points, place + spread, s=12, color=color, alpha=0.75, zorder=3)
        counts = counts or [*map(len, kept)]  # of the first panel, which the others stand beside
        axis.set_yticks(places, [f"{name} ({len(points)})" for name, points in zip(classes, kept, strict=True)])
        axis.tick_params(labelleft=number == 0 or counts != [*map(len, kept)])
        axis.set_title(metric, fontsize=10)
        axis.set_ylim(-0.6, len(classes) - 0.4)
        if "mm" not in metric:
            axis.set_xlim(-0.03, 1.03)
    return _svg(figure)


def _figure(number: int, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, number, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e3e8ed", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    return figure, axes


def _svg(figure) -> bytes:
    """Text stays text, so that files are small."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mastpro"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()

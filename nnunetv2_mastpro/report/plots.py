"""Plots of the page as SVG: training curves and box plots. Light ground, since the page shows them on a light card."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

MOST_POINTS = 300  # of a curve
MOST_CLASSES = 8  # with a line or colour of their own; of more a curve shows mean and range
MOST_VECTORS, BOX_POINTS = 2000, 10  # points that stay vectors, more become pixels; as many points weigh as a box
ROW_INCHES, MOST_INCHES, PIXELS_PER_INCH = 0.45, 20, 100  # of box plots: a class, and all of them
LINE_COLORS = ("#0b6bcb", "#b3261e", "#1d7a46", "#8a4fbf", "#a65d00", "#00707a", "#b0307a", "#5b6670")


def draw_curves(curves: Mapping[str, Sequence], classes: Sequence[str]) -> bytes:
    """Losses, pseudo-Dice by class, and learning rate over the epochs, of nnU-Net's logging."""
    losses = {"training": curves.get("train_losses", []), "validation": curves.get("val_losses", [])}
    dice = np.array(curves.get("dice_per_class_or_region", []), float)  # (epochs, classes)
    by_class = dict(zip(classes, dice.T, strict=False)) if dice.ndim == 2 else {}
    panels = {"loss": losses, "pseudo-Dice": by_class, "learning rate": {"": curves.get("lrs", [])}}
    figure, axes = _figure(len(panels), 2.7)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        if len(lines) > MOST_CLASSES:
            lines = _draw_range(axis, np.array([*lines.values()], float))
        for color, (name, values) in zip(LINE_COLORS, lines.items(), strict=False):
            style = {"marker": "o", "markersize": 3} if len(values) < 15 else {}
            axis.plot(*_thin(values), color=color, lw=1.3, label=name, **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(axis.get_legend_handles_labels()[1]) > 1:
            axis.legend(fontsize=7, frameon=False)
    return _svg(figure)


def _thin(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of a curve, not more than it can show."""
    step = max(1, -(-len(values) // MOST_POINTS))
    return np.arange(len(values))[::step], np.asarray(values, float)[::step]


def _draw_range(axis, values: np.ndarray) -> dict[str, np.ndarray]:
    """A band from the lowest to the highest of (classes, epochs), nan left out; gives the line of the means."""
    from nnunetv2_mastpro.evaluation.statistics import average

    lowest, highest = (function.reduce(values, 0) for function in (np.fmin, np.fmax))
    epochs, low = _thin(lowest)
    axis.fill_between(epochs, low, _thin(highest)[1], color=LINE_COLORS[0], alpha=0.2, lw=0, label="lowest to highest")
    return {f"mean of {len(values)} classes": average(values.T)}


def draw_boxes(values: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Metric -> class -> a value per case: boxes with the cases as points, nan left out.

    Of many classes rows are narrow, and of many cases points are pixels, so that the picture stays small.
    """
    classes = list(next(iter(values.values())))
    height = min(MOST_INCHES, max(2.2, ROW_INCHES * len(classes) + 1))
    figure, axes = _figure(len(values), height)
    colors = LINE_COLORS if len(classes) <= MOST_CLASSES else LINE_COLORS[:1] * len(classes)
    counts: list[int] = []
    for number, (axis, (metric, by_class)) in enumerate(zip(axes, values.items(), strict=True)):
        kept = [[value for value in by_class[name] if np.isfinite(value)] for name in classes]
        places = np.arange(len(classes))[::-1]
        looks = {"medianprops": {"color": "#1c2730"}, "showfliers": False, "widths": 0.5}
        boxes = axis.boxplot(kept, positions=places, orientation="horizontal", **looks)
        spread = [
            place + (np.linspace(-0.15, 0.15, len(points)) if len(points) > 1 else np.zeros(len(points)))
            for place, points in zip(places, kept, strict=True)
        ]
        shades = np.repeat(colors[: len(classes)], [*map(len, kept)])
        many = len(shades) + BOX_POINTS * len(classes) > MOST_VECTORS
        looks = {"s": 2, "alpha": 0.6, "zorder": 1.9} if many else {"s": 12, "alpha": 0.75, "zorder": 3}
        points = axis.scatter(np.concatenate(kept), np.concatenate(spread), color=shades, linewidths=0, **looks)
        for artist in (points, *itertools.chain(*boxes.values())):
            artist.set_rasterized(many)
        counts = counts or [*map(len, kept)]  # of the first panel, which the others stand beside
        axis.set_yticks(places, [f"{name} ({len(points)})" for name, points in zip(classes, kept, strict=True)])
        axis.tick_params(axis="y", labelsize=min(8, 72 * 0.8 * height / len(classes)))
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
        figure.savefig(stream, format="svg", dpi=PIXELS_PER_INCH, metadata={"Date": None, "Creator": None})
    return stream.getvalue()

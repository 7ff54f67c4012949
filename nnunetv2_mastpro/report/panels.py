"""Fig. 2-style panels: an axial slice of a case as image, host organ, truth, prediction, and both as contours.

Masks and slices are (Y, X), truth and prediction as class -> mask, in the order in which they are painted.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.report.cases import Volumes
from nnunetv2_mastpro.report.model import Output
from nnunetv2_mastpro.report.windows import Window

INCHES, LINE_INCHES, DPI, QUALITY = 2.3, 0.27, 100, 80
TITLE_CHARACTER_INCHES = 0.085  # at most, on average
PATCH_INCHES, CHARACTER_INCHES = 0.6, 0.068  # of a legend's entry, at most
ZOOM_MARGIN_MM, ZOOM_LEAST_MM = 20, 60
CONTOURS = {True: "truth solid, prediction dashed with a white edge", False: "prediction solid"}  # is there a truth?
SOFTWARE = "mastpro report"  # of a PNG file
DARK, PALE, ORGAN = "#101418", "#dfe6ec", "#9aa7b3"
STRIPES_ACROSS = 20  # a slice: 230 pixels of a panel
STRIPES = "striped grey what the truth says to ignore, which is not scored"


@dataclass(frozen=True)
class Slice:
    """What a row of panels shows."""

    image: np.ndarray
    columns: Mapping[str, Mapping[str, np.ndarray]]  # title -> colour -> mask
    truth: Mapping[str, np.ndarray] | None  # colour -> mask
    prediction: Mapping[str, np.ndarray]
    box: tuple[slice, slice]  # of the zoomed contours
    spacing_mm: tuple[float, float]  # y x
    ignored: np.ndarray | None = None  # mask of what is not scored


def shown_slice(output: Output, volumes: Volumes) -> int:
    """Where truth and prediction of the class differ most; where they do not, or without truth, where it is largest."""
    prediction = np.isin(volumes.prediction, output.values)
    truth = prediction if volumes.reference is None else np.isin(volumes.reference, output.values)
    different = volumes.scored(truth != prediction).sum((1, 2))
    areas = different if different.any() else volumes.scored(truth).sum((1, 2))
    return int(np.argmax(areas))


def cut(output: Output, outputs: Sequence[Output], volumes: Volumes, index: int) -> Slice:
    """The slice with everything that `outputs` mark on it; `output` is what the zoom is about."""
    ordered = sorted(outputs, key=lambda entry: -len(entry.values))  # of nested regions the outer ones first

    def masks(labelmap: np.ndarray | None) -> dict[str, np.ndarray] | None:
        return None if labelmap is None else {o.color: np.isin(labelmap[index], o.values) for o in ordered}

    truth, prediction = masks(volumes.reference), masks(volumes.prediction)
    columns = {}
    if volumes.host_map is not None:
        columns["host organ"] = {ORGAN: np.isin(volumes.host_map[index], output.host_values)}
    if truth is not None:
        columns["truth"] = truth
    columns["prediction"] = prediction
    ignored = None if volumes.ignored is None else volumes.ignored[index]
    both = prediction[output.color] | (False if truth is None else truth[output.color])
    both = both if ignored is None else both & ~ignored
    spacing = volumes.spacing_mm[1:]
    return Slice(volumes.image[index], columns, truth, prediction, _zoom(both, spacing), spacing, ignored)


def _zoom(mask: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, slice]:
    """A square in mm around the mask, within the image; all of it where the mask is empty."""
    if not mask.any():
        return tuple(slice(0, size) for size in mask.shape)
    spans = [np.flatnonzero(mask.any(1 - axis)) for axis in (0, 1)]
    widths = [(span[-1] - span[0] + 1) * mm for span, mm in zip(spans, spacing_mm, strict=True)]
    side = max(ZOOM_LEAST_MM, max(widths) + 2 * ZOOM_MARGIN_MM)
    box = []
    for span, mm, size in zip(spans, spacing_mm, mask.shape, strict=True):
        length = min(size, round(side / mm))
        start = min(max(0, (span[0] + span[-1] + 1 - length) // 2), size - length)
        box.append(slice(int(start), int(start + length)))
    return tuple(box)


def draw_panels(shown: Slice, window: Window, title: str = "", colors: Mapping[str, str] | None = None):
    """matplotlib's Figure: the image, a panel for each column, and the contours, zoomed.

    For a picture that stands alone: a `title` above, and below what the `colors` (class -> colour) and contours are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = ["image", *shown.columns, "contours, zoomed"]
    y_mm, x_mm = shown.spacing_mm
    height, width = shown.image.shape
    shape = min(1.5, max(0.6, height * y_mm / (width * x_mm)))
    striped = shown.ignored is not None and shown.ignored.any()
    key = f"contours: {CONTOURS[shown.truth is not None]}" + (f"; {STRIPES}" if striped else "")
    lines = _lines([*(colors or ()), key], INCHES * len(titles)) if colors else 0
    title_lines = textwrap.wrap(title, int(INCHES * len(titles) / TITLE_CHARACTER_INCHES))
    above, below = 0.25 + LINE_INCHES * len(title_lines), LINE_INCHES * lines
    figure = Figure(figsize=(INCHES * len(titles), INCHES * shape + above + below), facecolor=DARK)
    FigureCanvasAgg(figure)
    total = figure.get_figheight()
    places = {"left": 0, "right": 1, "bottom": below / total, "top": 1 - above / total, "wspace": 0.02}
    axes = figure.subplots(1, len(titles), squeeze=False, gridspec_kw=places)[0]
    for axis, name in zip(axes, titles, strict=True):
        axis.imshow(
            shown.image, cmap="gray", vmin=window.low, vmax=window.high, aspect=y_mm / x_mm, interpolation="bicubic"
        )
        axis.set_title(name, color=PALE, fontsize=9, pad=3)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, masks in zip(axes[1:], shown.columns.values(), strict=False):
        _fill(axis, masks)
    if striped:
        for axis in axes[1:]:
            _fill(axis, {PALE: shown.ignored & _stripes(shown.ignored.shape)})
    _draw_box(axes[0], shown.box)
    _contours(axes[-1], shown)
    if title:
        figure.text(0.005, 1 - 0.08 / total, "\n".join(title_lines), color=PALE, fontsize=10, va="top")
    if colors:
        _legend(figure, colors, key)
    return figure


def _legend(figure, colors: Mapping[str, str], key: str) -> None:
    """In as many lines as _lines gives, from the bottom up."""
    from matplotlib.patches import Patch

    width, height = figure.get_size_inches()
    entries = [*(Patch(color=color, label=name) for name, color in colors.items()), Patch(alpha=0, label=key)]
    style = {"fontsize": 8, "labelcolor": PALE, "frameon": False, "borderaxespad": 0.2, "loc": "lower left"}
    rows = _rows([entry.get_label() for entry in entries], width)
    for number, row in enumerate(reversed(rows)):
        place = (0, number * LINE_INCHES / height)
        figure.legend(handles=[entries[at] for at in row], ncols=len(row), bbox_to_anchor=place, **style)


def _lines(names: Sequence[str], width: float) -> int:
    return len(_rows(names, width))


def _rows(names: Sequence[str], width: float) -> list[list[int]]:
    """Which names of a legend stand in which of its lines, `width` inches wide."""
    rows, taken = [[]], 0.0
    for place, name in enumerate(names):
        needed = PATCH_INCHES + CHARACTER_INCHES * len(name)
        if rows[-1] and taken + needed > width:
            rows.append([])
            taken = 0.0
        rows[-1].append(place)
        taken += needed
    return rows


def encode(figure, form: str, about: str = "") -> bytes:
    """A picture, "webp" (small) or "png" (lossless; says that it is ours, and what it is `about`)."""
    picture = io.BytesIO()
    if form == "png":
        told = {"metadata": {"Software": SOFTWARE, "Source": about}}
    else:
        told = {"pil_kwargs": {"quality": QUALITY}}
    figure.savefig(picture, format=form, dpi=DPI, **told)
    return picture.getvalue()


def said_about(path: Path) -> str | None:
    """What a PNG file that was written here is about; None for any other."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.info.get("Source", "") if picture.info.get("Software") == SOFTWARE else None
    except (OSError, UnidentifiedImageError):
        return None


def _fill(axis, masks: Mapping[str, np.ndarray]) -> None:
    from matplotlib.colors import to_rgba

    shape = next(iter(masks.values())).shape
    layer = np.zeros((*shape, 4))
    for color, mask in masks.items():
        layer[mask] = to_rgba(color, 0.6)
    axis.imshow(layer, aspect=axis.get_aspect(), interpolation="nearest")


def _stripes(shape: tuple[int, int]) -> np.ndarray:
    """Mask of a third of the voxels, in diagonals."""
    third = max(1, round(shape[1] / STRIPES_ACROSS / 3))
    return np.add.outer(*map(np.arange, shape)) % (3 * third) < third


def _draw_box(axis, box: tuple[slice, slice]) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = box
    corner, size = (columns.start - 0.5, rows.start - 0.5), (columns.stop - columns.start, rows.stop - rows.start)
    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=PALE, linewidth=1, linestyle=":"))


def _contours(axis, shown: Slice) -> None:
    """As CONTOURS says; the colour is the class's, of truth and prediction alike."""
    from matplotlib.patheffects import withStroke

    rows, columns = shown.box
    drawn = [(shown.prediction, "solid", None)]
    if shown.truth is not None:
        drawn = [(shown.truth, "solid", None), (shown.prediction, "dashed", [withStroke(linewidth=3, foreground="w")])]
    for masks, style, edge in drawn:
        for color, mask in masks.items():
            if mask.any():
                height, width = mask.shape
                axis.contour(
                    np.pad(mask, 1),
                    levels=[0.5],
                    colors=color,
                    linestyles=style,
                    linewidths=1.5,
                    extent=(-1, width, -1, height),
                ).set(path_effects=edge)
    axis.set(xlim=(columns.start - 0.5, columns.stop - 0.5), ylim=(rows.stop - 0.5, rows.start - 0.5))

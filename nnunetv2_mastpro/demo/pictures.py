"""Overlay picture: CT, truth and prediction of each test case, at the slice where its largest tumour is largest."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

COLORS = ("#ff5f56", "#ffd23f", "#3ddc97", "#4cc9f0", "#f78cff", "#ff9f43", "#9aff5a", "#b8b8ff")
WINDOW_HU = (-160, 240)  # soft tissue


def draw_overlays(
    path: Path, cases: Sequence[str], images: Path, columns: Mapping[str, Path], labels: Mapping[str, int], ending: str
) -> None:
    """Writes a PNG with a row per case: CT, then CT with contours from each of `columns` (title -> folder of maps)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [_read_row(case, images, columns, ending) for case in cases]
    aspect = rows[0][0].shape[1] / rows[0][0].shape[2]
    width, height = 3.4 * (len(columns) + 1), 3.4 * aspect * len(rows) + 0.9
    figure = Figure(figsize=(width, height), facecolor="#101418")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(rows),
        len(columns) + 1,
        squeeze=False,
        gridspec_kw={
            "left": 0.03,
            "right": 0.995,
            "top": 1 - 0.35 / height,
            "bottom": 0.55 / height,
            "wspace": 0.02,
            "hspace": 0.03,
        },
    )
    for case, (image, maps, pixel_aspect), line in zip(cases, rows, axes, strict=True):
        index = _slice_of_largest(maps[0], labels.values())
        line[0].set_ylabel(case, color="#dfe6ec", fontsize=8)
        for axis, labelmap in zip(line, [None, *maps], strict=True):
            axis.imshow(
                image[index],
                cmap="gray",
                vmin=WINDOW_HU[0],
                vmax=WINDOW_HU[1],
                aspect=pixel_aspect,
                interpolation="bicubic",
            )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if labelmap is not None:
                _contour(axis, labelmap[index], labels)
            axis.set(xlim=(-0.5, image.shape[2] - 0.5), ylim=(image.shape[1] - 0.5, -0.5))
    for axis, title in zip(axes[0], ["CT", *columns], strict=True):
        axis.set_title(title, color="#dfe6ec", fontsize=11)
    handles = [
        Line2D([], [], color=color, lw=2.5, label=name.replace("_", " "))
        for name, color in zip(labels, COLORS, strict=False)
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, labelcolor="#dfe6ec", fontsize=10
    )
    axes[0, 0].text(0.02, 0.5, "R", transform=axes[0, 0].transAxes, color="#8fa3b3", fontsize=9)
    figure.savefig(path, dpi=110)


def _read_row(case: str, images: Path, columns: Mapping[str, Path], ending: str):
    import SimpleITK as sitk

    image = sitk.ReadImage(str(images / f"{case}_0000{ending}"))
    maps = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}{ending}"))) for folder in columns.values()]
    x_mm, y_mm, _ = image.GetSpacing()
    return sitk.GetArrayFromImage(image), maps, y_mm / x_mm


def _slice_of_largest(truth: np.ndarray, values) -> int:
    """Index of the axial slice, by area, of the type that has most voxels."""
    sizes = {value: np.count_nonzero(truth == value) for value in values}
    largest = max(sizes, key=sizes.get)
    return int(np.argmax((truth == largest).sum((1, 2))))


def _contour(axis, labelmap: np.ndarray, labels: Mapping[str, int]) -> None:
    for value, color in zip(labels.values(), COLORS, strict=False):
        if (labelmap == value).any():
            axis.contour(
                np.pad(labelmap == value, 1),
                levels=[0.5],
                colors=color,
                linewidths=1.6,
                extent=(-1, labelmap.shape[1], -1, labelmap.shape[0]),
            )

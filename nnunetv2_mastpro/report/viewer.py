"""Volumes for the viewer in the page: small NIfTI files as base64, within a budget for the whole page."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnunetv2_mastpro.report.cases import Volumes
from nnunetv2_mastpro.report.model import Model
from nnunetv2_mastpro.report.windows import CT_WINDOWS, SOFT_TISSUE, percentile_window

BUDGET_MB = 8.5  # of base64 in the page; it holds 2.3 MB of niivue and the pictures besides
MOST_VOXELS = 700_000  # of a case; larger ones are thinned out
CT_STEP_HU, CT_RANGE_HU = 4, (-1024, 3071)
PALE = 0.55  # share of white in the colours of the truth


@dataclass(frozen=True)
class Embedded:
    """A case in the viewer."""

    name: str
    files: Mapping[str, str]  # image, prediction, truth -> base64
    window: tuple[float, float]
    focus: tuple[float, float, float]  # of the crosshair, x y z from right, back, below, as shares of the extent
    thinned: tuple[int, int, int]  # every n-th voxel is there, z y x

    @property
    def megabytes(self) -> float:
        """In the page."""
        return sum(map(len, self.files.values())) / 1e6


def embed(name: str, volumes: Volumes, is_ct: bool) -> Embedded:
    """The case's volumes, every n-th voxel where they are large, CT in steps of 4 HU, other images in 8 bits."""
    steps = thinning(volumes.image.shape, volumes.spacing_mm)
    maps = {"prediction": volumes.prediction, "truth": volumes.reference}
    maps = {kind: labels for kind, labels in maps.items() if labels is not None}
    thin = {kind: _thin(labels, steps) for kind, labels in maps.items()}
    image = _thin(volumes.image, steps)
    if is_ct:
        image = (np.clip(image, *CT_RANGE_HU) / CT_STEP_HU).round().astype(np.int16) * CT_STEP_HU
        window = (SOFT_TISSUE.low, SOFT_TISSUE.high)
    else:
        grey = percentile_window(volumes.image)
        image = np.clip((image - grey.low) / (grey.high - grey.low) * 255, 0, 255).astype(np.uint8)
        window = (0.0, 255.0)
    affine = _affine(volumes, image.shape, steps)
    files = {kind: _nifti(voxels, affine) for kind, voxels in {"image": image, **thin}.items()}
    marked = volumes.scored(np.any([labels > 0 for labels in maps.values()], 0))
    return Embedded(name, files, window, _focus(_thin(marked, steps)), steps)


def _thin(voxels: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Every n-th voxel, y and x turned round, so that the axes go up, to the front, to the right as NIfTI's."""
    return voxels[tuple(slice(None, None, step) for step in steps)][:, ::-1, ::-1]


def _affine(volumes: Volumes, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """Of what _thin gives, shape z y x."""
    thin = np.diag((*steps[::-1], 1.0))
    turn = np.diag((-1.0, -1.0, 1.0, 1.0))
    turn[:2, 3] = shape[2] - 1, shape[1] - 1
    return volumes.affine @ thin @ turn


def _focus(mask: np.ndarray) -> tuple[float, float, float]:
    """x y z of the slices with most marked voxels; the middle where none is."""
    if not mask.any():
        return 0.5, 0.5, 0.5
    areas = [mask.sum(tuple(other for other in range(3) if other != axis)) for axis in (2, 1, 0)]
    return tuple(float((np.argmax(area) + 0.5) / len(area)) for area in areas)


def thinning(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    """Step along each axis: the finest axis is thinned out until the volume is small enough."""
    steps = [1] * len(shape)
    while np.prod([-(-size // step) for size, step in zip(shape, steps, strict=True)]) > MOST_VOXELS:
        widths = [mm * step for mm, step in zip(spacing_mm, steps, strict=True)]
        steps[int(np.argmin(widths))] += 1
    return tuple(steps)


def _nifti(voxels: np.ndarray, affine: np.ndarray) -> str:
    """(Z, Y, X) as base64 of a .nii.gz."""
    import nibabel

    volume = nibabel.Nifti1Image(np.asfortranarray(voxels.transpose(2, 1, 0)), affine)
    return base64.b64encode(gzip.compress(volume.to_bytes(), 9, mtime=0)).decode()


def viewer_data(cases: list[Embedded], model: Model, is_ct: bool) -> str:
    """JSON for viewer.js, safe within a script element."""
    colors = model.value_colors
    values = [0, *sorted(colors)]
    windows = [SOFT_TISSUE, *CT_WINDOWS.values()] if is_ct else []
    content = {
        "values": values,
        "labels": ["", *(colors[value][0] for value in values[1:])],
        "colors": {
            kind: [[0, 0, 0], *(_rgb(colors[value][1], white) for value in values[1:])]
            for kind, white in (("prediction", 0.0), ("truth", PALE))
        },
        "windows": [{"title": w.title, "range": [w.low, w.high]} for w in windows],
        "cases": [{"name": case.name, "window": case.window, "focus": case.focus, **case.files} for case in cases],
    }
    return json.dumps(content).replace("<", "\\u003c")


def _rgb(color: str, white: float) -> list[int]:
    channels = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return [round(value + (255 - value) * white) for value in channels]

"""Surface distances, between the elements of two surfaces alone: a box as large as a scan costs no more than these do.

Imported where it is needed: MONAI's import takes as long as scoring a dozen cases.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

with warnings.catch_warnings():  # MONAI asks torch for interfaces that are about to go
    warnings.simplefilter("ignore", FutureWarning)
    from monai.metrics.utils import get_code_to_measure_table

PERCENTILE = 95
ROUNDING = 1e-6


def surface_scores(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """NSD and HD95 (mm) of two boolean masks of one shape, neither empty."""
    spacing_mm = tuple(map(float, spacing_mm))
    (truth, truth_sizes), (found, found_sizes) = (_elements(mask, spacing_mm) for mask in (reference, prediction))
    within_mm = tolerance_mm * (1 + ROUNDING) + ROUNDING  # spacings of files are rounded, and so their multiples
    near = np.isfinite(np.concatenate(_gaps(truth, found, within_mm)))
    sizes = np.concatenate([truth_sizes, found_sizes])
    gaps_mm = _gaps(*(_border(mask, spacing_mm) for mask in (reference, prediction)))
    return {
        "NSD": float(sizes[near].sum() / sizes.sum()),
        "HD95_mm": max(float(np.percentile(gaps, PERCENTILE)) for gaps in gaps_mm),
    }


def _elements(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface runs between eight voxels (four of a slice), in mm, and its area there (length, in a slice)."""
    padded = np.pad(mask, 1).astype(np.uint8)
    corners = list(itertools.product((0, 1), repeat=mask.ndim))
    codes = np.zeros([size - 1 for size in padded.shape], np.uint8)  # a bit for each of the voxels, as MONAI has them
    for bit, corner in zip(reversed(range(len(corners))), corners, strict=True):
        codes |= padded[tuple(slice(at, at + size) for at, size in zip(corner, codes.shape, strict=True))] << bit
    places = np.nonzero((codes > 0) & (codes < 2 ** len(corners) - 1))
    table = get_code_to_measure_table(spacing_mm)[0].numpy().ravel().astype(float)
    return np.stack(places, 1) * np.asarray(spacing_mm), table[codes[places]]


def _border(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Voxels with a neighbour by face outside the mask, or at the edge, in mm."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing_mm)


def _gaps(one: np.ndarray, other: np.ndarray, within_mm: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """From each point to the nearest of the other set, in mm; infinite where none lies within that distance."""
    pairs = ((one, other), (other, one))
    return tuple(cKDTree(points).query(asked, distance_upper_bound=within_mm)[0] for asked, points in pairs)

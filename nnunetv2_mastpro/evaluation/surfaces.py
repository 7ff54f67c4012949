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
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    ignored: np.ndarray | None = None,
) -> dict[str, float]:
    """NSD and HD95 (mm) of two boolean masks of one shape, neither empty.

    No surface is known beside voxels that are `ignored`, which no mask holds. NSD is nan where the reference has none,
    HD95 where one of both has none.
    """
    spacing_mm = tuple(map(float, spacing_mm))
    masks = (reference, prediction)
    (truth, truth_sizes), (found, found_sizes) = (_elements(mask, spacing_mm, ignored) for mask in masks)
    borders = [_border(mask, spacing_mm, ignored) for mask in masks]
    scores = {"NSD": 0.0 if len(truth) else np.nan, "HD95_mm": np.nan}
    if len(truth) and len(found):
        within_mm = tolerance_mm * (1 + ROUNDING) + ROUNDING  # spacings of files are rounded, and so their multiples
        near = np.isfinite(np.concatenate(_gaps(truth, found, within_mm)))
        sizes = np.concatenate([truth_sizes, found_sizes])
        scores["NSD"] = float(sizes[near].sum() / sizes.sum())
    if all(map(len, borders)):
        scores["HD95_mm"] = max(float(np.percentile(gaps, PERCENTILE)) for gaps in _gaps(*borders))
    return scores


def _elements(
    mask: np.ndarray, spacing_mm: tuple[float, ...], ignored: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface runs between eight voxels (four of a slice), in mm, and its area there (length, in a slice)."""
    codes = _corners(mask)
    on_surface = (codes > 0) & (codes < 2 ** (2**mask.ndim) - 1)
    if ignored is not None:
        on_surface &= _corners(ignored) == 0
    places = np.nonzero(on_surface)
    table = get_code_to_measure_table(spacing_mm)[0].numpy().ravel().astype(float)
    return np.stack(places, 1) * np.asarray(spacing_mm), table[codes[places]]


def _corners(mask: np.ndarray) -> np.ndarray:
    """Between eight voxels (four of a slice) a bit for each of them, as MONAI has them; one longer than the mask."""
    padded = np.pad(mask, 1).astype(np.uint8)
    corners = list(itertools.product((0, 1), repeat=mask.ndim))
    codes = np.zeros([size - 1 for size in padded.shape], np.uint8)
    for bit, corner in zip(reversed(range(len(corners))), corners, strict=True):
        codes |= padded[tuple(slice(at, at + size) for at, size in zip(corner, codes.shape, strict=True))] << bit
    return codes


def _border(mask: np.ndarray, spacing_mm: tuple[float, ...], ignored: np.ndarray | None) -> np.ndarray:
    """Voxels with a neighbour by face outside the mask, or at the edge, in mm."""
    border = mask & ~ndimage.binary_erosion(mask)
    if ignored is not None:
        border &= ~ndimage.binary_dilation(ignored)
    return np.argwhere(border) * np.asarray(spacing_mm)


def _gaps(one: np.ndarray, other: np.ndarray, within_mm: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """From each point to the nearest of the other set, in mm; infinite where none lies within that distance."""
    pairs = ((one, other), (other, one))
    return tuple(cKDTree(points).query(asked, distance_upper_bound=within_mm)[0] for asked, points in pairs)

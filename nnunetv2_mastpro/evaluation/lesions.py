"""Lesions of one tumour class in one case: 26-connected components that are found, missed or made up.

A reference lesion is found where at least `overlap` of its voxels, and at least one, are predicted; a predicted lesion
is true where as much of it lies in the reference. Bands are of the equivalent diameter, that of a ball of the lesion's
volume. A reference lesion counts in the band of its size, and so does a false one; a true predicted lesion counts in
the band of the largest reference lesion that it touches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunetv2_mastpro.evaluation.metrics import crop

EDGES_MM = (10.0, 20.0, 40.0)
BANDS = ("<10 mm", "10-20 mm", "20-40 mm", ">=40 mm")
COUNTS = ("lesions", "lesions_found", "lesions_predicted", "lesions_false")


def count_lesions(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    overlap: float = 0.0,
    ignored: np.ndarray | None = None,
) -> tuple[dict[str, dict[str, int]], int]:
    """`COUNTS` per band, and the voxels of the false lesions. Boolean masks (Z, Y, X) of one shape, overlap 0 to 1.

    Components beside voxels that are `ignored`, which no mask holds, do not count: nobody knows how far they reach.
    """
    flat = len(reference) == 1
    *masks, cut = crop(reference, prediction, np.zeros_like(reference) if ignored is None else ignored)
    (true, true_sizes), (predicted, sizes) = (_components(mask) for mask in masks)
    near = ndimage.binary_dilation(cut, np.ones((3,) * cut.ndim, bool)) if cut.any() else cut
    true_whole, whole = (_apart(near, parts, found) for parts, found in ((true, true_sizes), (predicted, sizes)))
    found = _enough(true, masks[1], true_sizes, overlap)
    right = _enough(predicted, masks[0], sizes, overlap)
    true_bands = _bands(true_sizes, spacing_mm, flat)
    touched = _bands_touched(true, predicted, true_bands, len(sizes))
    bands = np.where(right, touched, _bands(sizes, spacing_mm, flat))
    counts = {
        band: {
            "lesions": int((true_whole & (true_bands == index)).sum()),
            "lesions_found": int((true_whole & found & (true_bands == index)).sum()),
            "lesions_predicted": int((whole & (bands == index)).sum()),
            "lesions_false": int((whole & ~right & (bands == index)).sum()),
        }
        for index, band in enumerate(BANDS)
    }
    return counts, int(sizes[whole & ~right].sum())


def _apart(near: np.ndarray, parts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Per component, whether none of its voxels lies there."""
    return np.bincount(parts[near], minlength=len(sizes) + 1)[1:] == 0


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 1 on in the mask's shape, and the voxels of each."""
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim, bool))
    return parts, np.bincount(parts.ravel(), minlength=count + 1)[1:]


def _enough(parts: np.ndarray, other: np.ndarray, sizes: np.ndarray, overlap: float) -> np.ndarray:
    """Per component, whether enough of it lies in the other mask."""
    shared = np.bincount(parts[other], minlength=len(sizes) + 1)[1:]
    return (shared > 0) & (shared >= overlap * sizes)


def _bands(sizes: np.ndarray, spacing_mm: Sequence[float], flat: bool) -> np.ndarray:
    if flat:
        diameters_mm = 2 * np.sqrt(sizes * math.prod(spacing_mm[1:]) / math.pi)
    else:
        diameters_mm = np.cbrt(6 * sizes * math.prod(spacing_mm) / math.pi)
    return np.digitize(diameters_mm, EDGES_MM)


def _bands_touched(true: np.ndarray, predicted: np.ndarray, true_bands: np.ndarray, count: int) -> np.ndarray:
    """Per predicted lesion the band of the largest reference lesion that it touches; 0 where it touches none."""
    both = (true > 0) & (predicted > 0)
    bands = np.zeros(count, int)
    np.maximum.at(bands, predicted[both] - 1, true_bands[true[both] - 1])  # the larger lesion has the higher band
    return bands

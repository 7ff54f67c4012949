"""Dice, normalised surface Dice and HD95 of one class in one case. Masks (Z, Y, X), spacing_mm in the same order.

| reference | prediction | Dice      | NSD       | HD95      |
| empty     | empty      | undefined | undefined | undefined |
| empty     | not empty  | 0         | 0         | undefined |
| not empty | empty      | 0         | 0         | undefined |

Dice is nnU-Net's, and so is that it is undefined where neither has the class. NSD weighs surface
elements by their area (marching cubes, by MONAI's table, as DeepMind's surface-distance); HD95 is the larger of the two
directed 95th percentiles of distances between border voxels. Undefined is nan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAMES = ("Dice", "NSD", "HD95_mm")


def score(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    ignored: np.ndarray | None = None,
) -> dict[str, float]:
    """`NAMES` of two boolean masks of one shape; where Z is 1, of contours in the plane.

    `ignored`: voxels that are in neither mask since nobody knows. Where they cut a mask no surface is.
    """
    sizes = int(reference.sum()), int(prediction.sum())
    if not any(sizes):
        return dict.fromkeys(NAMES, np.nan)
    if not all(sizes):
        return {"Dice": 0.0, "NSD": 0.0, "HD95_mm": np.nan}
    from nnunetv2_mastpro.evaluation.surfaces import surface_scores

    dice = 2 * int((reference & prediction).sum()) / sum(sizes)
    flat = len(reference) == 1
    given = (reference, prediction) if ignored is None else (reference, prediction, ignored)
    reference, prediction, *cut = crop(*(mask[0] if flat else mask for mask in given))
    return {"Dice": dice, **surface_scores(reference, prediction, tuple(spacing_mm)[flat:], tolerance_mm, *cut)}


def crop(reference: np.ndarray, prediction: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """All in the box that holds the first two, and a voxel more to each side; as they are where both are empty."""
    union = reference | prediction
    masks = [reference, prediction, *others]
    if not union.any():
        return masks
    box = []
    for axis in range(union.ndim):
        (places,) = np.nonzero(union.any(tuple(other for other in range(union.ndim) if other != axis)))
        box.append(slice(max(0, places[0] - 1), places[-1] + 2))
    return [mask[tuple(box)] for mask in masks]

"""Surface distances, by MONAI, whose import takes as long as scoring a dozen cases: imported where they are needed."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

with warnings.catch_warnings():  # MONAI asks torch for interfaces that are about to go
    warnings.simplefilter("ignore", FutureWarning)
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

PERCENTILE = 95


def surface_scores(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """NSD and HD95 (mm) of two boolean masks of one shape, neither empty."""
    masks = [torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference)]
    shared = {"include_background": True, "spacing": list(map(float, spacing_mm))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that MONAI itself gives to its own function
        nsd = compute_surface_dice(*masks, class_thresholds=[float(tolerance_mm)], use_subvoxels=True, **shared)
        hd95_mm = compute_hausdorff_distance(*masks, percentile=PERCENTILE, **shared)
    return {"NSD": float(nsd), "HD95_mm": float(hd95_mm)}

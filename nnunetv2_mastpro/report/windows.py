"""Which grey values of an image are shown: a CT window by the organ that hosts a class, percentiles elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Window:
    """Grey values from `low` (black) to `high` (white), and what a title says of them."""

    low: float
    high: float
    title: str


def _hounsfield(name: str, low: int, high: int) -> Window:
    return Window(low, high, f"{name} window, {low} to {high} HU")


SOFT_TISSUE = _hounsfield("soft-tissue", -160, 240)
CT_WINDOWS = {  # words of host structures
    r"^lung_|^trachea|bronch|pleura": _hounsfield("lung", -1350, 150),
    r"vertebra|sacrum|^rib|sternum|costal|skull|humerus|scapula|clavicula|femur|^hip_|mandible|bone": _hounsfield(
        "bone", -500, 1300
    ),
    r"^brain": _hounsfield("brain", 0, 80),
}


def ct_window(host_structures: Sequence[str]) -> Window:
    """By the first host structure, as TotalSegmentator names it; soft tissue where none says otherwise."""
    for structure in host_structures[:1]:
        for pattern, window in CT_WINDOWS.items():
            if re.search(pattern, structure):
                return window
    return SOFT_TISSUE


def percentile_window(image: np.ndarray) -> Window:
    """Of the voxels that are not 0, for images without a scale of their own."""
    voxels = image[image != 0]
    low, high = np.percentile(voxels, PERCENTILES) if voxels.size else (0.0, 1.0)
    high = high if high > low else low + 1
    return Window(float(low), float(high), f"percentiles {PERCENTILES[0]} to {PERCENTILES[1]}, {low:.4g} to {high:.4g}")

"""Masks of structures to one host-organ map: a value per voxel, from the table of hosts. Arrays are (Z, Y, X)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from nnunetv2_mastpro.config import HostValue

UNKNOWN = 0


def compose(
    masks: Mapping[str, np.ndarray], hosts: Sequence[HostValue], shape: tuple[int, ...]
) -> tuple[np.ndarray, int]:
    """The map, and how many voxels two values claimed: the smaller host has them, so that none inside another is lost.

    Of equal ones that which the table lists first.
    """
    values, claimed = np.zeros(shape, np.uint8 if max(h.value for h in hosts) < 256 else np.uint16), 0
    unions = {}
    for host in hosts:
        for structure in host.structures:
            if structure in masks:
                unions.setdefault(host.value, np.zeros(shape, bool))
                unions[host.value] |= masks[structure]
    for value, union in sorted(unions.items(), key=lambda item: int(item[1].sum())):
        claimed += int((union & (values != UNKNOWN)).sum())
        values[union & (values == UNKNOWN)] = value
    return values, claimed


def dilate(values: np.ndarray, margin_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Each value grows by `margin_mm` into what has none; where two meet, the nearer wins, then the smaller value."""
    if margin_mm <= 0 or not values.any():
        return values
    nearest = np.full(values.shape, np.inf, np.float32)
    grown = values.copy()
    reach = [int(np.ceil(margin_mm / spacing)) + 1 for spacing in spacing_mm]
    for value, place in enumerate(find_objects(values), 1):
        if place is None:
            continue
        box = tuple(
            slice(max(0, part.start - r), min(n, part.stop + r))
            for part, r, n in zip(place, reach, values.shape, strict=True)
        )
        distance_mm = distance_transform_edt(values[box] != value, sampling=spacing_mm)
        distance_mm = distance_mm.astype(nearest.dtype)  # else two that are equal would differ from what is kept
        closer = (values[box] == UNKNOWN) & (distance_mm <= margin_mm + 1e-3) & (distance_mm < nearest[box])
        grown[box][closer] = value
        nearest[box][closer] = distance_mm[closer]
    return grown

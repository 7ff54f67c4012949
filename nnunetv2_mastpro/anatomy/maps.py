"""Masks of structures to one host-organ map: a value per voxel, from the table of hosts. Arrays are (Z, Y, X)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from nnunetv2_mastpro.config import HostValue

UNKNOWN = 0


def compose(
    masks: Iterable[tuple[str, np.ndarray]], hosts: Sequence[HostValue], shape: tuple[int, ...]
) -> tuple[np.ndarray, int]:
    """The map, and how many voxels two values claimed: the smaller host has them, so that none inside another is lost.

    `masks`: structures and bool arrays. Of hosts of one size that which the table lists first has them. A host's union
    is kept as bits: of a long scan with twenty hosts they would not fit as bytes.
    """
    values, claimed = np.zeros(shape, np.uint8 if max(h.value for h in hosts) < 256 else np.uint16), 0
    unions: dict[int, np.ndarray] = {}
    for structure, mask in masks:
        bits = np.packbits(mask)
        for host in hosts:
            if structure in host.structures:
                unions[host.value] = bits | unions.get(host.value, 0)
    places = {host.value: place for place, host in enumerate(hosts)}
    sizes = {value: (int(np.unpackbits(bits).sum(dtype=np.int64)), places[value]) for value, bits in unions.items()}
    for value in sorted(unions, key=sizes.__getitem__):
        union = np.unpackbits(unions[value], count=values.size).view(bool).reshape(shape)
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

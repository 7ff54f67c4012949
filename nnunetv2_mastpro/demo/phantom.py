"""Pan-tumour CT phantom: a torso with organs, tumours of five types and benign look-alikes. Seeded, no data file.

HU is int16, arrays are z y x (up, to the back, to the patient's left), lengths are in mm. Whatever changes a voxel of
any case raises GENERATOR_VERSION.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from nnunetv2_mastpro.demo.canvas import Canvas, Grid
from nnunetv2_mastpro.demo.lesions import KINDS, Surgeon, add_benign
from nnunetv2_mastpro.demo.organs import LABELS, ORGANS, paint_torso
from nnunetv2_mastpro.errors import MASTProError

GENERATOR_VERSION = "1"
TUMOR_TYPES = tuple(KINDS)
TUMORS_PER_CASE = {1: 0.1, 2: 0.2, 3: 0.4, 4: 0.3}  # number -> probability

__all__ = ["GENERATOR_VERSION", "ORGANS", "TUMOR_TYPES", "Case", "Grid", "make_case"]


@dataclass(frozen=True)
class Case:
    """One patient. A tumour's label is 1 + its place in `types`, an organ's 1 + its place in ORGANS; 0 is the rest."""

    image: np.ndarray  # (Z, Y, X) int16, HU
    tumors: np.ndarray  # (Z, Y, X) uint8
    organs: np.ndarray  # (Z, Y, X) uint8; tumours count as their host
    organs_before: np.ndarray  # (Z, Y, X) uint8 without the tumours' growth beyond their host: tells nothing of them
    spacing_mm: tuple[float, float, float]
    types: tuple[str, ...]
    diameters_mm: tuple[tuple[str, float], ...]  # type and equivalent diameter of each tumour


def make_case(seed: int, types: Sequence[str], grid: Grid) -> Case:
    """One to four tumours of random types, as organs have room; a type comes twice only after all have come once.

    The first tumour's type goes round with the seed, so that a set of consecutive seeds misses none.
    Raises MASTProError for an unknown type or none.
    """
    _check_types(types)
    canvas = Canvas(grid, np.random.default_rng(seed))
    rng = canvas.rng
    surgeon = Surgeon(canvas, paint_torso(canvas))
    chosen = _choose(rng, seed, types)
    grown = [(name, lesion) for name in chosen if (lesion := surgeon.tumor(KINDS[name])) is not None]
    assert grown[0][0] == chosen[0], f"an untouched torso has room for a {chosen[0]}"
    add_benign(surgeon)
    tumors = np.zeros(grid.shape, np.uint8)
    organs_before = _majority(canvas)
    organs = organs_before.copy()
    for name, lesion in grown:
        whole = np.zeros(canvas.shape, bool)
        whole[lesion.box] = lesion.mask
        inside = canvas.average(whole) > 0.5
        tumors[inside] = 1 + types.index(name)
        organs[inside] = LABELS[lesion.host]
    image = canvas.average(canvas.hu) + _scanner_noise(rng, grid)
    diameters_mm = tuple(
        (name, float((6 / np.pi * lesion.mask.sum() * np.prod(canvas.spacing_mm)) ** (1 / 3))) for name, lesion in grown
    )
    return Case(
        np.clip(np.round(image), -1024, 3071).astype(np.int16),
        tumors,
        organs,
        organs_before,
        grid.spacing_mm,
        tuple(types),
        diameters_mm,
    )


def _check_types(types: Sequence[str]) -> None:
    unknown = [name for name in types if name not in TUMOR_TYPES]
    if unknown or not types:
        raise MASTProError(
            f"tumour types {', '.join(unknown) or '(none)'} are not known to the phantom; "
            f"choose from {', '.join(TUMOR_TYPES)}"
        )


def _choose(rng: np.random.Generator, seed: int, types: Sequence[str]) -> list[str]:
    count = rng.choice(list(TUMORS_PER_CASE), p=list(TUMORS_PER_CASE.values()))
    first = types[seed % len(types)]
    others = rng.permutation([name for name in types if name != first])
    return [str(name) for name in (first, *others, *rng.choice(types, count))[:count]]


def _majority(canvas: Canvas) -> np.ndarray:
    """(Z, Y, X) the structure that fills more than half of a voxel, else 0."""
    organs = np.zeros(canvas.grid.shape, np.uint8)
    for value in LABELS.values():
        organs[canvas.average(canvas.structure == value) > 0.5] = value
    return organs


def _scanner_noise(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Correlated within a slice as reconstruction makes it; stronger in some cases and in the body's middle."""
    noise = gaussian_filter(rng.standard_normal(grid.shape).astype(np.float32), (0.25, 0.7, 0.7))
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape[1:])
    profile = 1.15 - 0.3 * (y[:, None] ** 2 + x[None] ** 2)
    return noise / noise.std() * profile * rng.uniform(9, 17)

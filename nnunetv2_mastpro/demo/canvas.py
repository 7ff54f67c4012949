"""A volume to paint in millimetres: coordinates, smooth random fields, shapes as distances, layers.

Axes z (up), y (to the back), x (to the patient's left). Distances are negative inside, in mm, approximate.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from nnunetv2_mastpro.errors import MASTProError

EDGE_MM = 2.0  # over which a layer fades in
SUPERSAMPLING = 2  # painted finer by this factor, then averaged: partial volume


@dataclass(frozen=True)
class Grid:
    """Voxels and their size, z y x. Raises MASTProError where a torso does not fit."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    MINIMUM_MM = (180, 200, 272)

    def __post_init__(self):
        extent = tuple(n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True))
        if any(have < want for have, want in zip(extent, self.MINIMUM_MM, strict=True)):
            raise MASTProError(
                f"the grid covers {extent} mm (z y x), the torso needs {self.MINIMUM_MM}; "
                "take more voxels or larger ones"
            )


class Canvas:
    """HU and structure of a grid painted at SUPERSAMPLING times its resolution; later layers cover earlier ones."""

    def __init__(self, grid: Grid, rng: np.random.Generator):
        self.grid, self.rng = grid, rng
        self.shape = tuple(n * SUPERSAMPLING for n in grid.shape)
        self.spacing_mm = tuple(mm / SUPERSAMPLING for mm in grid.spacing_mm)
        axes = [
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(mm)
            for n, mm in zip(self.shape, self.spacing_mm, strict=True)
        ]
        self.points = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, Z, Y, X)
        self.hu = np.full(self.shape, -1000, np.float32)
        self.structure = np.zeros(self.shape, np.uint8)

    def bend(self, amount_mm: float, scale_mm: float) -> None:
        """Move all coordinates smoothly, so that whatever is painted later is bent."""
        for axis in range(3):
            self.points[axis] += amount_mm * self.noise(scale_mm)

    def noise(self, scale_mm: float) -> np.ndarray:
        """(Z, Y, X) smooth, mean 0, deviation about 1: a cubic spline through random knots `scale_mm` apart."""
        bases = [_spline_basis(n, mm, scale_mm) for n, mm in zip(self.shape, self.spacing_mm, strict=True)]
        field = self.rng.standard_normal([basis.shape[1] for basis in bases]).astype(np.float32)
        for basis in bases:
            field = np.tensordot(field, basis, axes=(0, 1))  # knots of the first axis become samples of the last
        return field / 0.33  # deviation of a cubic spline of unit knots, three axes

    def paint(
        self,
        distance: np.ndarray,
        hu,
        edge_mm: float = EDGE_MM,
        structure: int | None = None,
        box: tuple[slice, ...] = (slice(None),) * 3,
    ) -> None:
        """Cover what lies inside with `hu` (number or field), fading over the edge; arrays cover `box`."""
        alpha = np.clip(0.5 - distance / edge_mm, 0, 1)
        self.hu[box] += alpha * (hu - self.hu[box])
        if structure is not None:
            self.structure[box][distance < 0] = structure

    def average(self, values: np.ndarray) -> np.ndarray:
        """(Z, Y, X) at the grid's resolution."""
        z, y, x = self.grid.shape
        s = SUPERSAMPLING
        return values.reshape(z, s, y, s, x, s).mean((1, 3, 5), dtype=np.float32)


def ellipsoid(points: np.ndarray, center_mm, radii_mm, turn_deg: float = 0.0) -> np.ndarray:
    """Distance to an ellipsoid turned in the axial plane."""
    z, y, x = (points[axis] - np.float32(center_mm[axis]) for axis in range(3))
    cos, sin = np.float32(np.cos(np.radians(turn_deg))), np.float32(np.sin(np.radians(turn_deg)))
    y, x = cos * y - sin * x, sin * y + cos * x
    scaled = np.sqrt((z / radii_mm[0]) ** 2 + (y / radii_mm[1]) ** 2 + (x / radii_mm[2]) ** 2)
    return (scaled - 1) * np.float32(np.prod(radii_mm) ** (1 / 3))


def tube(points: np.ndarray, knots_mm, radius_mm) -> np.ndarray:
    """Distance to a tube along straight pieces between knots; its radius may vary from knot to knot."""
    knots = np.asarray(knots_mm, np.float32)
    radii = np.broadcast_to(np.asarray(radius_mm, np.float32), len(knots))
    nearest = np.full(points.shape[1:], np.inf, np.float32)
    pieces = list(zip(knots[:-1], knots[1:], radii[:-1], radii[1:], strict=True))
    for height in range(points.shape[1]):  # a slice stays in the processor's cache while the pieces go by
        for start, end, first, last in pieces:
            along = end - start
            offset = [points[axis, height] - start[axis] for axis in range(3)]
            t = np.clip(sum(o * a for o, a in zip(offset, along, strict=True)) / (along @ along), 0, 1)
            squared = sum((o - t * a) ** 2 for o, a in zip(offset, along, strict=True))
            np.minimum(nearest[height], np.sqrt(squared) - (first + t * (last - first)), out=nearest[height])
    return nearest


def blend(first: np.ndarray, second: np.ndarray, width_mm: float) -> np.ndarray:
    """Union of two shapes with a rounded seam."""
    h = np.clip(0.5 + 0.5 * (second - first) / width_mm, 0, 1)
    return second + h * (first - second) - width_mm * h * (1 - h)


def curve(knots_mm, count: int) -> np.ndarray:
    """(count, 3) points of a smooth curve through the knots."""
    knots = np.asarray(knots_mm, float)
    return CubicSpline(np.linspace(0, 1, len(knots)), knots)(np.linspace(0, 1, count))


def _spline_basis(n: int, spacing_mm: float, scale_mm: float) -> np.ndarray:
    """(n, K) weights of cubic B-spline knots at n samples."""
    position = np.arange(n) * spacing_mm / scale_mm
    distance = np.abs(position[:, None] - np.arange(-1, int(position[-1]) + 3)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)

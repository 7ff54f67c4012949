"""Tumours, and benign lesions that share their HU, grown in a painted torso. Lengths in mm, z y x."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunetv2_mastpro.demo.canvas import Canvas
from nnunetv2_mastpro.demo.organs import LABELS

SMALLEST_MM, LARGEST_MM = 15, 60  # equivalent diameter of a tumour


@dataclass(frozen=True)
class TumorKind:
    """How a tumour type looks: hosts, HU, diameters, how far it reaches out of its organ, how ragged it is."""

    hosts: tuple[str, ...]
    hu: tuple[float, float]
    diameters_mm: tuple[float, float]
    reach_mm: float
    raggedness: float


KINDS = {
    "liver_tumor": TumorKind(("liver",), (30, 68), (SMALLEST_MM, LARGEST_MM), 3, 0.13),
    "kidney_tumor": TumorKind(("kidney_left", "kidney_right"), (40, 95), (18, LARGEST_MM), 14, 0.12),
    "lung_tumor": TumorKind(("lung_left", "lung_right"), (10, 65), (SMALLEST_MM, LARGEST_MM), 0, 0.18),
    "pancreas_tumor": TumorKind(("pancreas",), (30, 62), (SMALLEST_MM, 48), 9, 0.14),
    "colon_tumor": TumorKind(("colon",), (55, 100), (20, LARGEST_MM), 12, 0.14),
}


@dataclass
class Lesion:
    """Where it is and how large: others keep away. Arrays cover `box` of the canvas."""

    center_mm: np.ndarray
    radius_mm: float
    box: tuple[slice, ...]
    mask: np.ndarray
    distance: np.ndarray
    host: str


class Surgeon:
    """Finds room for lesions in a torso, keeps them apart, and shapes them."""

    def __init__(self, canvas: Canvas, cavity: np.ndarray):
        self.canvas, self.cavity, self.rng = canvas, cavity, canvas.rng
        self.lesions: list[Lesion] = []

    def grow(
        self, allowed: np.ndarray, centers: np.ndarray, diameter_mm: float, raggedness: float, host: str
    ) -> Lesion | None:
        """A blob of exactly this volume within `allowed` around one of the `centers` (K, 3 indices); None: no room."""
        if len(centers) == 0:
            return None
        radius_mm = diameter_mm / 2
        index = self.rng.choice(centers)
        center_mm = self.canvas.points[(slice(None), *index)]
        if any(np.linalg.norm(center_mm - other.center_mm) < radius_mm + other.radius_mm + 6 for other in self.lesions):
            return None
        margin = [int((1.7 * radius_mm + 8) / mm) for mm in self.canvas.spacing_mm]
        box = _box(index, index, margin, self.canvas.shape)
        stretch = np.exp(self.rng.normal(0, raggedness, 3)).astype(np.float32)
        offset = self.canvas.points[(slice(None), *box)] - center_mm[:, None, None, None]
        distance = np.sqrt(((offset * stretch[:, None, None, None]) ** 2).sum(0))
        distance += raggedness * radius_mm * self.canvas.noise(max(6.0, radius_mm * 0.7))[box]
        voxels = round(np.pi / 6 * diameter_mm**3 / np.prod(self.canvas.spacing_mm))
        room = np.where(allowed[box] & (distance < 1.6 * radius_mm + 4), distance, np.inf)
        if np.isfinite(room).sum() <= voxels:
            return None
        distance -= np.partition(room, voxels, axis=None)[voxels]
        lesion = Lesion(center_mm, radius_mm, box, allowed[box] & (distance < 0), distance, host)
        self.lesions.append(lesion)
        return lesion

    def tumor(self, kind: TumorKind) -> Lesion | None:
        """Of a random size; smaller where its organ has no room for it; None where it is full."""
        for host in self.rng.permutation(kind.hosts):
            diameter_mm = self.rng.uniform(*np.square(kind.diameters_mm)) ** 0.5  # even in area
            allowed, (indices, depth_mm) = self.within_reach(LABELS[host], kind.reach_mm), self.depths(host)
            for _ in range(60):
                shallow = host == "colon"  # a wall: any place will do
                deep = indices[shallow | (depth_mm >= min(0.4 * diameter_mm, 0.6 * depth_mm.max()))]
                lesion = self.grow(allowed, deep, diameter_mm, kind.raggedness, str(host))
                if lesion is not None:
                    self.paint_tumor(lesion, kind)
                    return lesion
                diameter_mm = max(kind.diameters_mm[0], 0.97 * diameter_mm)
        return None

    def paint_tumor(self, lesion: Lesion, kind: TumorKind) -> None:
        """Textured, with a soft border; large ones may have a rim or a necrotic core of fluid's HU."""
        rng, canvas = self.rng, self.canvas
        hu = rng.uniform(*kind.hu) + rng.uniform(6, 14) * canvas.noise(rng.uniform(6, 10))[lesion.box]
        if lesion.radius_mm > 13 and rng.random() < 0.5:
            core = np.clip((-lesion.distance - 0.45 * lesion.radius_mm) / 5, 0, 1)
            hu = hu + core * (rng.uniform(12, 30) - hu)
        if rng.random() < 0.3:
            hu = hu + 25 * np.clip(1 - np.abs(lesion.distance + 3) / 3, 0, 1)
        self._cover(lesion, hu, edge_mm=rng.uniform(2.5, 6))

    def benign(self, where: np.ndarray, hu, diameters_mm: tuple[float, float], raggedness: float, host: str) -> None:
        """A homogeneous, sharply bounded lesion; left out where there is no room."""
        centers = np.argwhere(binary_erosion(where[::2, ::2, ::2], iterations=2)) * 2
        for _ in range(8):
            lesion = self.grow(where, centers, self.rng.uniform(*diameters_mm), raggedness, host)
            if lesion is not None:
                self._cover(lesion, hu, edge_mm=2)
                return

    def within_reach(self, structure: int, reach_mm: float) -> np.ndarray:
        """The organ and, up to `reach_mm` around it, what is no other structure."""
        inside = self.canvas.structure == structure
        if reach_mm == 0:
            return inside
        found = np.argwhere(inside)
        margin = [int(reach_mm / mm) + 2 for mm in self.canvas.spacing_mm]
        box = _box(found.min(0), found.max(0), margin, inside.shape)
        near = np.zeros_like(inside)
        near[box] = distance_transform_edt(~inside[box], sampling=self.canvas.spacing_mm) < reach_mm
        return inside | (near & (self.canvas.structure == 0) & (self.cavity < 4))

    def depths(self, host: str) -> tuple[np.ndarray, np.ndarray]:
        """(K, 3) indices in the host that the volume's ends do not cut off, (K,) their depth in mm."""
        inside = (self.canvas.structure == LABELS[host])[::2, ::2, ::2]
        depth_mm = distance_transform_edt(np.pad(inside, 1), sampling=[2 * mm for mm in self.canvas.spacing_mm])
        depth_mm = depth_mm[1:-1, 1:-1, 1:-1]
        inside &= np.abs(self.canvas.points[0, ::2, ::2, ::2]) < 92
        return np.argwhere(inside) * 2, depth_mm[inside]

    def _cover(self, lesion: Lesion, hu, edge_mm: float) -> None:
        outside = distance_transform_edt(~lesion.mask, sampling=self.canvas.spacing_mm)
        inside = distance_transform_edt(lesion.mask, sampling=self.canvas.spacing_mm)
        self.canvas.paint((outside - inside).astype(np.float32), hu, edge_mm=edge_mm, box=lesion.box)


def add_benign(surgeon: Surgeon) -> None:
    """What looks like a tumour by its HU alone: cysts, haemangiomas, nodes, muscle lesions, effusion, scars."""
    canvas, rng = surgeon.canvas, surgeon.rng
    structure = canvas.structure
    for host in ("liver", "kidney_left", "kidney_right", "pancreas"):
        for _ in range(rng.integers(0, 3)):
            where = surgeon.within_reach(LABELS[host], 6 if host.startswith("kidney") else 0)
            surgeon.benign(where, rng.uniform(-5, 18), (8, 26 if host != "pancreas" else 16), 0.04, host)
    for _ in range(rng.integers(0, 3)):
        surgeon.benign(structure == LABELS["liver"], rng.uniform(135, 170), (8, 24), 0.08, "liver")
    fat = (structure == 0) & (surgeon.cavity < -3) & (canvas.hu < -40) & (canvas.hu > -200)
    for _ in range(rng.integers(3, 7)):
        surgeon.benign(fat, rng.uniform(25, 110), (9, 26), 0.08, "fat")
    muscle = (structure == 0) & (canvas.hu > 30) & (canvas.hu < 90) & (canvas.points[1] > 30)
    for _ in range(rng.integers(1, 3)):
        surgeon.benign(muscle, rng.choice((rng.uniform(5, 35), rng.uniform(85, 120))), (10, 22), 0.08, "muscle")
    for host in ("lung_left", "lung_right"):
        _lung_findings(surgeon, structure == LABELS[host], host)


def _lung_findings(surgeon: Surgeon, lung: np.ndarray, host: str) -> None:
    """Effusion that layers at the back, a collapsed base, small calcified nodules."""
    canvas, rng = surgeon.canvas, surgeon.rng
    occupied = np.zeros_like(lung)
    for lesion in surgeon.lesions:
        occupied[lesion.box] |= lesion.distance < 4
    free = lung & ~occupied
    if rng.random() < 0.45:
        back_mm = canvas.points[1][lung].max() - rng.uniform(8, 26)
        level = back_mm - canvas.points[1] + 2 * canvas.noise(30)
        canvas.paint(np.where(free, level, 9), rng.uniform(5, 25) + 6 * canvas.noise(8))
    if rng.random() < 0.35:
        base_mm = np.percentile(canvas.points[0][lung], 12)
        level = canvas.points[0] - base_mm + 5 * canvas.noise(18)
        canvas.paint(np.where(free, level, 9), rng.uniform(30, 70) + 12 * canvas.noise(7), edge_mm=4)
    for _ in range(rng.integers(0, 3)):
        surgeon.benign(free, rng.uniform(150, 400), (5, 9), 0.05, host)


def _box(low, high, margin, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, a - m), min(n, b + 1 + m)) for a, b, m, n in zip(low, high, margin, shape, strict=True))

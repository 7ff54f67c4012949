"""Where a volume lies: size, spacing, origin, direction, read from headers. SimpleITK's axis order, x y z, in mm."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnunetv2_mastpro.errors import MASTProError

TOLERANCE = 1e-3
SAME_SPACE = 0.9  # of two boxes: their common part over the larger


class Geometry(NamedTuple):
    """A grid in the patient's space."""

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    def __str__(self) -> str:
        parts = zip(("size", "spacing", "origin", "direction"), self, strict=True)
        return ", ".join(f"{name} ({' '.join(f'{value:g}' for value in values)})" for name, values in parts)

    def agrees(self, other: Geometry) -> bool:
        """To the voxel, within the tolerance."""
        return self.size == other.size and all(
            np.allclose(mine, theirs, rtol=0, atol=TOLERANCE) for mine, theirs in zip(self[1:], other[1:], strict=True)
        )

    def overlap(self, other: Geometry) -> float:
        """Common part of the two boxes, aligned to the patient's axes, over the larger one."""
        (low, high), (other_low, other_high) = self._box(), other._box()
        common = np.clip(np.minimum(high, other_high) - np.maximum(low, other_low), 0, None).prod()
        return float(common / max((high - low).prod(), (other_high - other_low).prod()))

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        axes = len(self.size)
        steps = np.reshape(self.direction, (axes, axes)) * np.asarray(self.spacing_mm)
        corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in self.size], indexing="ij"), -1).reshape(-1, axes)
        points = corners @ steps.T + np.asarray(self.origin_mm)
        return points.min(0), points.max(0)


def read_geometry(path: Path) -> Geometry:
    """From the header alone. Raises MASTProError for a file that SimpleITK cannot read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise MASTProError(f"{path} cannot be read as a volume ({_last_line(error)}); replace the file") from error
    return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def check_geometry(mask: Path, image: Path, resample: bool) -> None:
    """Raise MASTProError unless the mask lies on the image's grid, or is to be resampled onto it and lies there."""
    theirs, ours = read_geometry(mask), read_geometry(image)
    if theirs.agrees(ours):
        return
    found = f"{mask} has {theirs}, its image {image.name} has {ours}"
    if len(theirs.size) != len(ours.size) or theirs.overlap(ours) < SAME_SPACE:
        raise MASTProError(f"{found}: they do not cover the same space; give the mask of this image")
    if not resample:
        raise MASTProError(f"{found}; give masks on the image's grid, or --resample for nearest neighbour")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()

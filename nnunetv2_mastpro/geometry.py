"""Where a volume lies: size, spacing, origin, direction, read from headers. SimpleITK's axis order, x y z, in mm."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnunetv2_mastpro.errors import MASTProError

TOLERANCE = 1e-3
OF_A_VOXEL = 1e-2  # by which origins may differ: converters round them


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
        allowed = (TOLERANCE, origin_tolerance(self.spacing_mm), TOLERANCE)
        return self.size == other.size and all(
            np.allclose(mine, theirs, rtol=0, atol=atol)
            for mine, theirs, atol in zip(self[1:], other[1:], allowed, strict=True)
        )

    def covers_the_same(self, other: Geometry) -> bool:
        """Whether the two boxes, aligned to the patient's axes, differ by at most a voxel of the coarser grid."""
        if len(self.size) != len(other.size):
            return False
        voxel_mm = np.maximum(self._voxel(), other._voxel())
        edges = zip(self._box(), other._box(), strict=True)
        return all((np.abs(mine - theirs) <= voxel_mm + TOLERANCE).all() for mine, theirs in edges)

    def _voxel(self) -> np.ndarray:
        axes = len(self.size)
        return np.abs(np.reshape(self.direction, (axes, axes)) * np.asarray(self.spacing_mm)).max(1)

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        axes = len(self.size)
        steps = np.reshape(self.direction, (axes, axes)) * np.asarray(self.spacing_mm)
        corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in self.size], indexing="ij"), -1).reshape(-1, axes)
        points = corners @ steps.T + np.asarray(self.origin_mm)
        return points.min(0), points.max(0)


def origin_tolerance(spacing_mm: Sequence[float]) -> float:
    """mm by which the origins of one grid may differ."""
    return max(TOLERANCE, OF_A_VOXEL * float(min(spacing_mm)))


def read_geometry(path: Path) -> Geometry:
    """From the header alone. Raises MASTProError for a file that SimpleITK cannot read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        skewed = "orthonormal" in str(error)  # which nnU-Net reads by nibabel
        remedy = "correct its header, or resample it to axes at right angles" if skewed else "replace the file"
        raise MASTProError(f"{path} cannot be read as a volume ({last_line(error)}); {remedy}") from error
    return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def check_geometry(mask: Path, image: Path, resample: bool) -> None:
    """Raise MASTProError unless the mask lies on the image's grid, or is to be resampled onto it and lies there."""
    theirs, ours = read_geometry(mask), read_geometry(image)
    if theirs.agrees(ours):
        return
    found = f"{mask} has {theirs}, its image {image.name} has {ours}"
    if not theirs.covers_the_same(ours):
        raise MASTProError(f"{found}: they do not cover the same space; give the mask of this image")
    if not resample:
        raise MASTProError(f"{found}; give masks on the image's grid, or --resample for nearest neighbour")


def check_whole(path: Path, remedy: str = "copy or make it again", quickly: bool = False) -> None:
    """Raise MASTProError for a NIfTI file that ends early, which SimpleITK reads as if it went on with zeros.

    Other formats are passed over. `quickly`: where the end of the file tells of all bytes, only that is read.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        image = nibabel.load(path)
        if not quickly or _told_bytes(path) != _wanted_bytes(image) % 2**32:
            image.dataobj.get_unscaled()
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise MASTProError(f"{path} is damaged or ends early ({last_line(error)}); {remedy}") from error


def _told_bytes(path: Path) -> int:
    """Modulo 2^32, as the end of a gzip file has it; a file of several parts tells of the last one alone."""
    if path.suffix != ".gz":
        return path.stat().st_size % 2**32
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _wanted_bytes(image) -> int:
    """What a NIfTI file of this header holds when unpacked."""
    return int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize


def last_line(error: Exception) -> str:
    """Of what SimpleITK and others say, after where in their code."""
    return str(error).strip().splitlines()[-1].strip()

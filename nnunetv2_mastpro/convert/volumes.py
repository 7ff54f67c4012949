"""Volumes in SimpleITK's terms: files and DICOM series read, label values rewritten, files written whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import Geometry, last_line, read_geometry
from nnunetv2_mastpro.listing import some

if TYPE_CHECKING:
    import SimpleITK as sitk

REMEDY = "download it again"
GAP = 0.1  # of the distance of slices, by which one may differ from the next


def read_volume(path: Path) -> sitk.Image:
    """Raises MASTProError for what SimpleITK cannot read."""
    import SimpleITK as sitk

    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise MASTProError(f"{path} cannot be read ({last_line(error)}); {REMEDY}") from error


def geometry_of(image: sitk.Image) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def place(image: sitk.Image, geometry: Geometry) -> sitk.Image:
    """The image, told to lie there."""
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def lying_on(values: np.ndarray, image: sitk.Image) -> sitk.Image:
    """Values (slices, rows, columns) on the image's grid."""
    import SimpleITK as sitk

    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def series_files(folder: Path) -> list[Path]:
    """Slices of the one DICOM series of a folder, along its axis. Raises MASTProError for none, several and gaps."""
    import SimpleITK as sitk

    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise MASTProError(f"{folder} holds {len(series)} DICOM series; one is wanted, so restore the folder")
    files = [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])]
    if len(files) < 2:
        raise MASTProError(f"{folder} holds {len(files)} DICOM slice; download the whole series")
    points = np.array([read_geometry(file).origin_mm for file in files])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    usual = float(np.median(steps))
    if usual == 0 or (abs(steps - usual) > GAP * usual).any():
        worst = int(abs(steps - usual).argmax())
        raise MASTProError(
            f"{folder}: {files[worst].name} and {files[worst + 1].name} are {steps[worst]:g} mm apart, others "
            f"{usual:g} mm; download the missing slices"
        )
    return files


def read_series(files: Sequence[Path]) -> sitk.Image:
    """Slices in this order. Raises MASTProError where they make no volume."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise MASTProError(
            f"the slices in {files[0].parent} cannot be read ({last_line(error)}); download them again"
        ) from error


def rewrite_labels(label: sitk.Image, table: Mapping[int, int], path: Path) -> sitk.Image:
    """Values by the table, background and itself included, as 8-bit integers. Raises MASTProError for others."""
    import SimpleITK as sitk

    values = sitk.GetArrayFromImage(label)
    found = np.unique(values)
    strange = [value for value in found.tolist() if value not in table]
    if strange:
        raise MASTProError(
            f"{path} holds the values {some([f'{value:g}' for value in strange])}, where "
            f"{', '.join(map(str, sorted(table)))} are known; is this another release of the data set?"
        )
    rewritten = np.zeros(values.shape, np.uint8)
    for value in found:
        rewritten[values == value] = table[int(value)]
    return lying_on(rewritten, label)


def write_volume(image: sitk.Image, path: Path) -> None:
    """Whole or not at all."""
    import SimpleITK as sitk

    staged = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        sitk.WriteImage(image, str(staged), useCompression=True)
        os.replace(staged, path)
    except RuntimeError as error:
        raise MASTProError(f"{path} cannot be written ({last_line(error)}); check the free space") from error
    finally:
        staged.unlink(missing_ok=True)

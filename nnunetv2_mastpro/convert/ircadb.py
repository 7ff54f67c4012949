"""3D-IRCADb-01: 3Dircadb1.1/PATIENT_DICOM/image_0 and, per structure, 3Dircadb1.1/MASKS_DICOM/liver/image_0.

The inner archives have to be unpacked; some programs put them into a folder of their own name. Masks are named freely,
and mostly only the liver was looked at: what else a case has no mask of is unknown. The page of the set tells of every
patient how many tumours the liver has: there, no mask means none ("tumor" alone, of patient 7, is an adrenal one).
Slices and masks are paired by their names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_mastpro.convert.files import nothing_found
from nnunetv2_mastpro.convert.table import Case, Dataset
from nnunetv2_mastpro.convert.volumes import lying_on, read_series, series_files
from nnunetv2_mastpro.errors import MASTProError

if TYPE_CHECKING:
    import SimpleITK as sitk

PATIENT = re.compile(r"3Dircadb1\.([0-9]+)")
SLICES, MASKS = "PATIENT_DICOM", "MASKS_DICOM"


def find_cases(folder: Path, dataset: Dataset, trust_size: bool) -> list[Case]:
    """Raises MASTProError for archives that are still packed and for a patient without slices or a liver."""
    places = [folder.resolve(), *sorted(path for path in folder.rglob("*") if path.is_dir())]
    patients = [path for path in places if PATIENT.fullmatch(path.name) and not (path / path.name).is_dir()]
    if not patients:
        names = sorted(path.name for path in folder.iterdir())
        raise nothing_found(folder, f"3Dircadb1.{{case}}/{SLICES}", names)
    cases = []
    for patient in patients:
        for part in (SLICES, MASKS):
            if not (patient / part).is_dir():
                packed = (patient / f"{part}.zip").is_file()
                remedy = f"unpack {part}.zip" if packed else "complete the download"
                raise MASTProError(f"{patient} has no folder {part}; {remedy}")
        masks = tuple(sorted(path for path in _inner(patient, MASKS).iterdir() if path.is_dir()))
        found = {name: _class_of(name.name, dataset) for name in masks}
        if dataset.always[0] not in found.values():
            raise MASTProError(
                f"{_inner(patient, MASKS)} has no mask of the {dataset.always[0]}; complete the download"
            )
        known = {*found.values(), *dataset.always}
        number = PATIENT.fullmatch(patient.name).group(1)
        cases.append(
            Case(
                dataset.case_name(number),
                _inner(patient, SLICES),
                tuple(path for path in masks if found[path]),
                tuple(name for name in dataset.labels if name in known),
            )
        )
    return cases


def read(case: Case, dataset: Dataset) -> tuple[sitk.Image, sitk.Image]:
    """Masks painted in the order of the classes, the liver first. Raises MASTProError where slices have no mask."""
    files = series_files(case.image)
    image = read_series(files)
    values = np.zeros(image.GetSize()[::-1], np.uint8)  # (slices, rows, columns)
    for name, value in dataset.labels.items():
        for folder in case.labels:
            if _class_of(folder.name, dataset) == name:
                values[_mask(folder, files, values.shape)] = value
    return image, lying_on(values, image)


def _mask(folder: Path, files: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    import SimpleITK as sitk

    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names != {file.name for file in files}:
        odd = sorted(names ^ {file.name for file in files})
        raise MASTProError(f"{folder} and {files[0].parent} differ in {odd[0]}; download both again")
    mask = sitk.GetArrayFromImage(read_series([folder / file.name for file in files]))
    if mask.shape != shape:
        raise MASTProError(f"{folder} has {mask.shape} voxels, its image {shape}; download both again")
    return mask > 0


def _class_of(folder_name: str, dataset: Dataset) -> str | None:
    return next(
        (name for name, pattern in dataset.structures.items() if re.fullmatch(pattern, folder_name, re.IGNORECASE)),
        None,
    )


def _inner(patient: Path, part: str) -> Path:
    nested = patient / part / part
    return nested if nested.is_dir() else patient / part

"""CHAOS, its CT part: Train_Sets/CT/1/DICOM_anon/i0000,0000b.dcm and Train_Sets/CT/1/Ground/liver_GT_000.png.

Masks have no header. Public code either pairs both by the order of their names, or stacks the masks from the top down;
both agree where the names of the slices run from the top down, and where they do not, the case is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_mastpro.convert.files import all_files, nothing_found
from nnunetv2_mastpro.convert.table import Case, Dataset
from nnunetv2_mastpro.convert.volumes import lying_on, read_series, read_volume, series_files
from nnunetv2_mastpro.errors import MASTProError

if TYPE_CHECKING:
    import SimpleITK as sitk

MODALITY, SLICES, MASKS = "CT", "DICOM_anon", "Ground"


def find_cases(folder: Path, dataset: Dataset, trust_size: bool) -> list[Case]:
    """Patients with masks, which the test set lacks. Raises MASTProError where there are none."""
    names = all_files(folder)
    masks: dict[Path, list[Path]] = {}
    for path in map(Path, names):
        if path.suffix == ".png" and path.parent.name == MASKS and (folder.resolve() / path).parts[-4] == MODALITY:
            masks.setdefault(path.parent.parent, []).append(folder / path)
    if not masks:
        raise nothing_found(folder, f"{MODALITY}/{{case}}/{MASKS}/*.png", names)
    cases = [
        Case(dataset.case_name((folder.resolve() / patient).name), folder / patient / SLICES, tuple(sorted(files)))
        for patient, files in masks.items()
    ]
    missing = [case.image for case in cases if not case.image.is_dir()]
    if missing:
        raise MASTProError(f"{missing[0]} is not there; complete the download")
    return cases


def read(case: Case, dataset: Dataset) -> tuple[sitk.Image, sitk.Image]:
    """Raises MASTProError where masks and slices differ in number or size, or cannot be paired."""
    files = series_files(case.image)
    if len(files) != len(case.labels):
        raise MASTProError(f"{case.image} has {len(files)} slices and {len(case.labels)} masks; download both again")
    image = read_series(files)
    upwards = files if image.GetDirection()[8] > 0 else files[::-1]
    if sorted(upwards, reverse=True) != upwards:
        raise MASTProError(
            f"the names of the slices in {case.image} do not run from the top down, so that it is unknown "
            "which mask is whose; take this patient's folder away"
        )
    downwards = np.stack([_mask(path) for path in case.labels])
    values = downwards[::-1] if upwards == files else downwards  # (slices of the image, rows, columns)
    if values.shape != image.GetSize()[::-1]:
        raise MASTProError(f"{case.labels[0]} has {values.shape[1:]} pixels, its slice {image.GetSize()[1::-1]}")
    return image, lying_on(values, image)


def _mask(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    return (sitk.GetArrayFromImage(read_volume(path)) > 0).astype(np.uint8)

"""Pancreas-CT: PANCREAS_0001/STUDY/SERIES/*.dcm, and TCIA_pancreas_labels-02-05-2017/label0001.nii.gz.

The labels' headers tell the direction of their axes, not their origin: nnU-Net's converter of the set (version 1,
Task062) turns image and label by their headers into one orientation and then compares nothing. So do we, and compare
size and spacing. Release 2 lacks images 25 and 70, which were copies of image 2: labels without an image are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_mastpro.convert.files import all_files, match, nothing_found
from nnunetv2_mastpro.convert.table import Case, Dataset
from nnunetv2_mastpro.convert.volumes import REMEDY, geometry_of, place, read_series, read_volume, series_files
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import TOLERANCE, check_whole

if TYPE_CHECKING:
    import SimpleITK as sitk

LABEL, IMAGE, SLICE = "label{case}", "PANCREAS_{case}", ".dcm"


def find_cases(folder: Path, dataset: Dataset, trust_size: bool) -> list[Case]:
    """Raises MASTProError for a folder without both parts, and for a patient with slices in several folders."""
    names = all_files(folder)
    labels = match(LABEL, names)
    if not labels:
        raise nothing_found(folder, f"{LABEL}.nii.gz", names)
    series: dict[str, set[str]] = {}
    for parent in sorted({str(Path(name).parent) for name in names if name.endswith(SLICE)}):
        patient = next((match(IMAGE, [part], ("",)) for part in Path(parent).parts if match(IMAGE, [part], ("",))), {})
        for number in patient:
            series.setdefault(number, set()).add(parent)
    if not series:
        raise nothing_found(folder, f"{IMAGE}/.../*{SLICE}", names)
    several = [number for number, parents in series.items() if len(parents) > 1]
    if several:
        raise MASTProError(
            f"PANCREAS_{several[0]} has slices in {', '.join(sorted(series[several[0]]))}; leave one series"
        )
    return [
        Case(dataset.case_name(number), folder / next(iter(series[number])), (folder / label,))
        for number, label in labels.items()
        if number in series
    ]


def read(case: Case, dataset: Dataset) -> tuple[sitk.Image, sitk.Image]:
    """Raises MASTProError where sizes or spacings differ after turning."""
    import SimpleITK as sitk

    check_whole(case.labels[0], REMEDY)
    image, label = read_series(series_files(case.image)), read_volume(case.labels[0])
    axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    label = sitk.DICOMOrient(label, axes)
    ours, theirs = geometry_of(image), geometry_of(label)
    if ours.size != theirs.size or not np.allclose(ours.spacing_mm, theirs.spacing_mm, rtol=0, atol=10 * TOLERANCE):
        raise MASTProError(f"{case.labels[0]} has {theirs}, its image {case.image} has {ours}; download both again")
    return image, place(label, ours)

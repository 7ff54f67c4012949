"""Pairs of NIfTI files: LiTS, KiTS, AbdomenCT-1K, BTCV, CT-ORG, WORD, AMOS. The patterns are in datasets.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.convert.files import ENDINGS, all_files, match, nothing_found
from nnunetv2_mastpro.convert.table import Case, Dataset
from nnunetv2_mastpro.convert.volumes import REMEDY, place, read_volume
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import check_whole, read_geometry

if TYPE_CHECKING:
    import SimpleITK as sitk

FITS = ".nii.gz"  # what nnU-Net reads as it is


def find_cases(folder: Path, dataset: Dataset, trust_size: bool) -> list[Case]:
    """Labels with their images, headers compared. Raises MASTProError for none and for a label without its image."""
    names = all_files(folder)
    cases = []
    for image_pattern, label_pattern in dataset.files:
        images, labels = match(image_pattern, names), match(label_pattern, names)
        for number, label in labels.items():
            if dataset.highest_case is not None and int(number) > dataset.highest_case:
                continue
            if number not in images:
                wanted = image_pattern.replace("{case}", number) + ENDINGS[0]
                raise MASTProError(f"{folder / label} has no image {wanted}; complete the download")
            cases.append(Case(dataset.case_name(number), folder / images[number], (folder / label,)))
    if not cases:
        first = dataset.files[0]
        missing = first[0] if not match(first[0], names) else first[1]
        raise nothing_found(folder, f"{missing}{FITS}", names)
    for case in cases:
        compare(case, trust_size)
    return cases


def compare(case: Case, trust_size: bool) -> None:
    """Raise MASTProError unless image and label lie on one grid, by their headers."""
    image, label = read_geometry(case.image), read_geometry(case.labels[0])
    if len(image.size) != 3:
        raise MASTProError(f"{case.image} has {len(image.size)} dimensions; a CT volume has 3")
    if image.agrees(label) or (trust_size and image.size == label.size):
        return
    remedy = "; where only the header is wrong, --trust-size takes the image's" if image.size == label.size else ""
    raise MASTProError(
        f"{case.labels[0]} has {label}, its image {case.image.name} has {image}; download both again{remedy}"
    )


def read(case: Case, dataset: Dataset) -> tuple[sitk.Image | None, sitk.Image]:
    """The image, None where its file can be linked, and the label on its grid."""
    for path in (case.image, *case.labels):
        check_whole(path, REMEDY)
    label = place(read_volume(case.labels[0]), read_geometry(case.image))
    return None if case.image.name.endswith(FITS) else read_volume(case.image), label

"""Organ masks as users have them: a multi-label NIfTI per case, or a folder per case with one file per structure.

FOLDER/CASE.nii.gz          as `TotalSegmentator --ml` writes it, task "total", of MR images "total_mr"
FOLDER/TASK/CASE.nii.gz     of another task, for hosts named TASK:STRUCTURE; of MR images "total_mr" or "total", too
FOLDER/CASE/STRUCTURE.nii.gz  binary; it goes before the others
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import check_geometry, check_whole, read_geometry

ENDINGS = (".nii.gz", ".nii")
DEFAULT_TASK, MR_TASK = "total", "total_mr"  # of an MR image, the second stands for the first


def split_structure(structure: str) -> tuple[str, str]:
    """TotalSegmentator's task and the structure's name in it."""
    task, _, name = structure.rpartition(":")
    return task or DEFAULT_TASK, name


def of_mri(structure: str) -> str:
    """The structure, with its task, in a mask of an MR image: TotalSegmentator's total_mr has other numbers than total.

    What total_mr lacks (the skull) stays with total.
    """
    from totalsegmentator.map_to_binary import class_map

    task, name = split_structure(structure)
    return f"{MR_TASK if task == DEFAULT_TASK and name in class_map[MR_TASK].values() else task}:{name}"


def of_ct(structure: str) -> str:
    """The structure in a mask of a CT image: without the task's name for TotalSegmentator's total."""
    return structure.removeprefix(f"{DEFAULT_TASK}:")


def find_files(folder: Path, case: str, structures: Sequence[str]) -> dict[tuple[Path, str], list[str]]:
    """(file, its task) -> the structures to look for in it: the structure's binary file, else a multi-label one.

    structures: as of_ct or of_mri give them. The file in `folder` itself is of the task total, of MR images total_mr.
    """
    found: dict[tuple[Path, str], list[str]] = {}
    itself = DEFAULT_TASK if any(":" not in structure for structure in structures) else MR_TASK
    for structure in structures:
        task, name = split_structure(structure)
        places = {folder / case / name: task}
        if ":" in structure:
            places[folder / task / case] = task
        if task in (itself, DEFAULT_TASK):
            places[folder / case] = itself
        files = ((stem.with_name(stem.name + ending), task) for stem, task in places.items() for ending in ENDINGS)
        file = next((file for file in files if file[0].is_file()), None)
        if file is not None:
            found.setdefault(file, []).append(structure)
    return found


def label_numbers(path: Path, task: str) -> dict[str, int]:
    """structure -> number, from the file's extended header where it has one, else the installed class map.

    Raises MASTProError where neither tells.
    """
    import nibabel
    from totalsegmentator.map_to_binary import class_map
    from totalsegmentator.nifti_ext_header import load_multilabel_nifti

    image = nibabel.load(path)
    if image.header.extensions:
        try:
            return {name: number for number, name in load_multilabel_nifti(image)[1].items()}
        except Exception as error:  # whatever its parser raises for another program's extension
            if task not in class_map:
                raise MASTProError(f"{path} has an extended header without a label table; {_ML_REMEDY}") from error
    if task not in class_map:
        raise MASTProError(
            f"{path}: the installed TotalSegmentator has no task {task!r} whose numbers would tell; {_ML_REMEDY}"
        )
    return {name: number for number, name in class_map[task].items()}


_ML_REMEDY = "write it with TotalSegmentator --ml, or give one binary file per structure"


def read_case(
    folder: Path, case: str, structures: Sequence[str], image: Path, resample: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Structures, each with a bool array (Z, Y, X) on the image's grid, one at a time; what is nowhere is left out.

    Raises MASTProError for another geometry, for numbers that the label table lacks, and for a file of no mask.
    """
    for (path, task), wanted in find_files(folder, case, structures).items():
        values = _read_on_grid(path, image, resample)
        if path.parent == folder / case:
            yield from ((structure, values > 0) for structure in wanted)
            continue
        numbers = label_numbers(path, task)
        unknown = sorted({*np.unique(values).tolist()} - {0, *numbers.values()})
        if unknown:
            raise MASTProError(
                f"{path} has the numbers {', '.join(map(str, unknown[:5]))}, which its label table lacks; {_ML_REMEDY}"
            )
        for structure in wanted:
            name = split_structure(structure)[1]
            if name in numbers:
                yield structure, values == numbers[name]


def check_case(folder: Path, case: str, structures: Sequence[str], image: Path, resample: bool) -> set[str]:
    """The structures that the case's files can hold; headers only.

    Raises MASTProError for another geometry, or without a label table.
    """
    held: set[str] = set()
    for (path, task), wanted in find_files(folder, case, structures).items():
        check_geometry(path, image, resample)
        if path.parent == folder / case:
            held.update(wanted)
        else:
            numbers = label_numbers(path, task)
            held.update(structure for structure in wanted if split_structure(structure)[1] in numbers)
    return held


def _read_on_grid(path: Path, image: Path, resample: bool) -> np.ndarray:
    import SimpleITK as sitk

    check_geometry(path, image, resample)
    check_whole(path)
    mask = sitk.ReadImage(str(path))
    if mask.GetNumberOfComponentsPerPixel() != 1:
        raise MASTProError(f"{path} has several values per voxel; give a mask with one")
    grid = read_geometry(image)
    if not read_geometry(path).agrees(grid):
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(grid.size)
        resampler.SetOutputSpacing(grid.spacing_mm)
        resampler.SetOutputOrigin(grid.origin_mm)
        resampler.SetOutputDirection(grid.direction)
        resampler.SetInterpolator(sitk.sitkNearestNeighbor)
        mask = resampler.Execute(mask)
    values = sitk.GetArrayFromImage(mask)
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise MASTProError(f"{path} has values that are no whole numbers; give a mask, not probabilities")
        values = values.astype(np.int64)
    return values

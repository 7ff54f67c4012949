"""Phantom cases as an nnU-Net raw data set, with organ masks beside it as TotalSegmentator --ml would write them."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.demo.organs import LABELS
from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION, Case, Grid, make_case
from nnunetv2_mastpro.processes import clean_processes

FILE_ENDING = ".nii.gz"
STRUCTURES = {  # organ -> TotalSegmentator's structures, from below, of equal height
    "lung_left": ("lung_lower_lobe_left", "lung_upper_lobe_left"),
    "lung_right": ("lung_lower_lobe_right", "lung_middle_lobe_right", "lung_upper_lobe_right"),
    "spine": ("vertebrae_L5", "vertebrae_L3", "vertebrae_L1", "vertebrae_T11"),
}


@dataclass(frozen=True)
class PhantomSet:
    """A data set to write. Cases are named by the seeds of their phantoms, which are all they depend on but `types`."""

    name: str  # DatasetXXX_Name
    types: tuple[str, ...]  # tumour types that patients have
    annotated: tuple[str, ...]  # those that its labels tell of; the others are there, unlabelled
    training: tuple[int, ...]  # seeds
    test: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.training) + len(self.test)


def write_dataset(
    raw_folder: str | Path,
    phantoms: PhantomSet,
    grid: Grid,
    workers: int = 2,
    on_case: Callable[[], None] = lambda: None,
) -> Path:
    """`raw_folder/name` with imagesTr, labelsTr, imagesTs, labelsTs, dataset.json, and organs for all cases.

    Whole or not at all: it is written under another name and renamed. `on_case` is called after each case.
    """
    target = Path(raw_folder, phantoms.name)
    scratch = target.with_name(f".{phantoms.name}.{os.getpid()}")
    seeds = [("Tr", seed) for seed in phantoms.training] + [("Ts", seed) for seed in phantoms.test]
    for name_of_folder in ("organs", *(f"{kind}{split}" for kind in ("images", "labels") for split, _ in seeds)):
        (scratch / name_of_folder).mkdir(parents=True, exist_ok=True)
    try:
        context, options = clean_processes(__name__)
        with ProcessPoolExecutor(workers, context, **options) as pool:
            jobs = [pool.submit(write_case, scratch, split, seed, phantoms, grid) for split, seed in seeds]
            for job in as_completed(jobs):
                job.result()
                on_case()
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, **{label: value for value, label in enumerate(phantoms.annotated, 1)}},
            "numTraining": len(phantoms.training),
            "file_ending": FILE_ENDING,
            "name": phantoms.name,
            "description": f"Pan-tumour CT phantom, generator version {GENERATOR_VERSION}",
        }
        if phantoms.test:  # a model of partial labels would not know
            tests = {case_name(seed): {"annotated": [*phantoms.annotated]} for seed in phantoms.test}
            content["mastpro"] = {"test_cases": tests}
        _write_json(scratch / "dataset.json", content)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def case_name(seed: int) -> str:
    """Of its files."""
    return f"phantom_{seed:06d}"


def write_case(folder: Path, split: str, seed: int, phantoms: PhantomSet, grid: Grid) -> Case:
    """Image, labels of the annotated tumour types, and organ masks of one case, named by its seed."""
    case, name = make_case(seed, phantoms.types, grid), case_name(seed)
    labels = np.zeros_like(case.tumors)
    for value, label in enumerate(phantoms.annotated, 1):
        labels[case.tumors == 1 + phantoms.types.index(label)] = value
    write_volume(folder / f"images{split}" / f"{name}_0000{FILE_ENDING}", case.image, case.spacing_mm)
    write_volume(folder / f"labels{split}" / f"{name}{FILE_ENDING}", labels, case.spacing_mm)
    write_volume(folder / "organs" / f"{name}{FILE_ENDING}", as_totalsegmentator(case.organs_before), case.spacing_mm)
    return case


def as_totalsegmentator(organs: np.ndarray) -> np.ndarray:
    """(Z, Y, X) with the numbers of TotalSegmentator's task "total"."""
    from totalsegmentator.map_to_binary import class_map

    numbers = {structure: number for number, structure in class_map["total"].items()}
    masks = np.zeros_like(organs)
    for organ, value in LABELS.items():
        heights = np.flatnonzero((organs == value).any((1, 2)))
        structures = STRUCTURES.get(organ, (organ,))
        for structure, part in zip(structures, np.array_split(heights, len(structures)), strict=True):
            masks[part] = np.where(organs[part] == value, numbers[structure], masks[part])
    return masks


def write_volume(path: Path, volume: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """(Z, Y, X) with the origin at the volume's middle, axes to the patient's left, back and head."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin([-(n - 1) / 2 * mm for n, mm in zip(volume.shape[::-1], spacing_mm[::-1], strict=True)])
    sitk.WriteImage(image, str(path), useCompression=True)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Phantom cases as an nnU-Net raw data set, with organ masks beside it as TotalSegmentator --ml would write them."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.demo.organs import LABELS
from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION, Case, Grid, make_case

FILE_ENDING = ".nii.gz"
SEEDS_PER_SET = 10_000  # sets of different seeds share no case
STRUCTURES = {  # organ -> TotalSegmentator's structures, from below, of equal height
    "lung_left": ("lung_lower_lobe_left", "lung_upper_lobe_left"),
    "lung_right": ("lung_lower_lobe_right", "lung_middle_lobe_right", "lung_upper_lobe_right"),
    "spine": ("vertebrae_L5", "vertebrae_L3", "vertebrae_L1", "vertebrae_T11"),
}


def write_dataset(
    raw_folder: str | Path,
    name: str,
    types: Sequence[str],
    grid: Grid,
    num_training: int,
    num_test: int,
    seed: int = 0,
    workers: int = 2,
    on_case: Callable[[], None] = lambda: None,
) -> Path:
    """`raw_folder/name` with imagesTr, labelsTr, imagesTs, labelsTs, dataset.json, and organs for all cases.

    Whole or not at all: it is written under another name and renamed. `on_case` is called after each case.
    """
    target = Path(raw_folder, name)
    scratch = target.with_name(f".{name}.{os.getpid()}")
    splits = ["Tr"] * num_training + ["Ts"] * num_test
    for name_of_folder in ("organs", *(f"{kind}{split}" for kind in ("images", "labels") for split in set(splits))):
        (scratch / name_of_folder).mkdir(parents=True, exist_ok=True)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
            jobs = [
                pool.submit(write_case, scratch, split, seed * SEEDS_PER_SET + number, types, grid)
                for number, split in enumerate(splits)
            ]
            for job in as_completed(jobs):
                job.result()
                on_case()
        _write_json(
            scratch / "dataset.json",
            {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0, **{label: value for value, label in enumerate(types, 1)}},
                "numTraining": num_training,
                "file_ending": FILE_ENDING,
                "name": name,
                "description": f"Pan-tumour CT phantom, generator version {GENERATOR_VERSION}, seed {seed}",
            },
        )
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def write_case(folder: Path, split: str, seed: int, types: Sequence[str], grid: Grid) -> Case:
    """Image, tumour labels and organ masks of one case, named by its seed."""
    case, name = make_case(seed, types, grid), f"phantom_{seed:06d}"
    write_volume(folder / f"images{split}" / f"{name}_0000{FILE_ENDING}", case.image, case.spacing_mm)
    write_volume(folder / f"labels{split}" / f"{name}{FILE_ENDING}", case.tumors, case.spacing_mm)
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

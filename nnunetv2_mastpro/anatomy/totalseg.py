"""TotalSegmentator, run for the host organs of an image; results are kept by the image's content.

It overwrites nnU-Net's variables in its process, so it runs in one of its own. TOTALSEG_HOME_DIR is honoured.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from nnunetv2_mastpro.anatomy.masks import DEFAULT_TASK, MR_TASK, split_structure
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.prompts.store import cache_folder

CROP_WEIGHTS = {DEFAULT_TASK: 298, MR_TASK: 852}  # found first, roughly, where only some structures are wanted
CODE = """
import json, sys
sys.path[:] = filter(None, sys.path)
from totalsegmentator.python_api import totalsegmentator
totalsegmentator(**json.loads(sys.argv[1]))
"""


def tasks_of(structures: Iterable[str], is_ct: bool) -> dict[str, list[str]]:
    """TotalSegmentator's task -> names of structures in it."""
    tasks: dict[str, list[str]] = {}
    for task, name in map(split_structure, structures):
        tasks.setdefault(task if is_ct or task != DEFAULT_TASK else MR_TASK, []).append(name)
    return tasks


def weights_missing(tasks: Iterable[str], fast: bool) -> list[str]:
    """Tasks whose weights are not where TotalSegmentator looks for them. Raises MASTProError for an unknown task."""
    return [task for task in tasks if _missing_ids(task, fast)]


def _missing_ids(task: str, fast: bool) -> list[int]:
    from totalsegmentator.config import get_weights_dir
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    folders = {number: TASK_ID_WEIGHTS_CONFIGS[number] for number in _model_ids(task, fast)}
    return [
        number
        for number, entry in folders.items()
        if not (get_weights_dir() / (entry.get("rel_path") or "") / entry["foldername"]).exists()
    ]


def _model_ids(task: str, fast: bool) -> list[int]:
    """Of the task, and of what TotalSegmentator runs first to crop the image."""
    settings = _settings(task)
    mode = "fast" if fast and "fast" in settings.get("sub_modes", {}) else "default"
    ids = settings.get("sub_modes", {}).get(mode, settings)["task_id"]
    ids = list(ids) if isinstance(ids, list) else [ids]
    crop = settings.get("crop") or []
    if task in CROP_WEIGHTS:
        return [*ids, CROP_WEIGHTS[task]]
    if "crop_model" in settings:
        return [*ids, *_model_ids(settings["crop_model"], fast=False)]
    if "body_trunc" in crop or "body_extremities" in crop:
        return [*ids, 300]
    if crop:
        return [*ids, 852 if task.endswith("_mr") else 297 if settings.get("robust_crop") else 298]
    return [*ids, 305] if task == "vertebrae_pp_refined" else ids


def _settings(task: str) -> dict:
    from totalsegmentator.map_tasks_config import TASK_CONFIGS

    if task not in TASK_CONFIGS:
        raise MASTProError(f"the installed TotalSegmentator has no task {task!r}; update it, or use --masks")
    return TASK_CONFIGS[task]


def check_structures(tasks: dict[str, list[str]]) -> None:
    """Raise MASTProError for a structure that its task lacks; total_mr has fewer than total, and may lack some."""
    for task, names in tasks.items():
        unknown = [name for name in names if name not in _structures(task)]
        if unknown and (task != MR_TASK or len(unknown) == len(names)):
            raise MASTProError(
                f"TotalSegmentator's task {task} has no structure {', '.join(unknown)}; correct host_structures in "
                "mastpro.prompts of dataset.json, or use --masks"
            )


def is_made(structure: str, tasks: Iterable[str]) -> bool:
    """Whether one of the tasks segments the structure, which is named with its task unless that is total."""
    task, name = split_structure(structure)
    return task in tasks and name in _structures(task)


def _structures(task: str) -> set[str]:
    from totalsegmentator.map_to_binary import class_map

    _settings(task)
    return {*class_map[task].values()}


def check_weights(tasks: Iterable[str], fast: bool) -> None:
    """Raise MASTProError that says how to get weights which are missing."""
    from totalsegmentator.config import get_weights_dir

    missing = {task: ids for task in tasks if (ids := _missing_ids(task, fast))}
    if missing:
        commands = ", ".join(_downloads({number for ids in missing.values() for number in ids}))
        raise MASTProError(
            f"TotalSegmentator's weights for {', '.join(missing)} are not in {get_weights_dir()}; fetch them on a "
            f"machine with internet ({commands}; TOTALSEG_HOME_DIR says where), or give masks with --masks"
        )


def _downloads(ids: set[int]) -> list[str]:
    """Commands that fetch these models, few and small."""
    from totalsegmentator.bin.totalseg_download_weights import TASK_TO_ID

    commands = []
    while ids:
        task = max(TASK_TO_ID, key=lambda name: (len(ids.intersection(TASK_TO_ID[name])), -len(TASK_TO_ID[name])))
        covered = ids.intersection(TASK_TO_ID[task])
        if not covered:
            break
        commands.append(f"totalseg_download_weights -t {task}")
        ids = ids - covered
    return commands or ["TotalSegmentator fetches them itself when it runs there"]


def run_cached(
    image: Path, tasks: dict[str, list[str]], fast: bool, device: str, run: Callable[[dict], None] | None = None
) -> tuple[Path, str]:
    """Folder and case name under which masks.read_case finds the result; what is there already is not run again.

    Where only some structures are asked for, their names lie beside the result, and later ones are added to them.
    """
    folder = cache_folder() / "totalsegmentator"
    itself = DEFAULT_TASK if DEFAULT_TASK in tasks else MR_TASK
    case = content_key(image, itself, fast)
    for task, names in tasks.items():
        inside = folder if task == itself else folder / task
        target, note = inside / f"{case}.nii.gz", inside / f"{case}.json"
        wanted, kept = _structures(task).intersection(names), _kept(target, note, task)
        if wanted <= kept:
            continue
        inside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=inside, prefix=".") as unfinished:
            made = Path(unfinished, "masks.nii.gz")
            given = _as_nifti(image, Path(unfinished, "image.nii.gz"))
            arguments = {"input": str(given), "output": str(made), "ml": True, "task": task, "device": device}
            arguments |= {"fast": fast and not _settings(task).get("disallow_fast", False), "quiet": True}
            if task in CROP_WEIGHTS:
                arguments["roi_subset"] = sorted(wanted | kept)
            (run or run_totalsegmentator)(arguments)
            if not made.is_file():
                raise MASTProError(f"TotalSegmentator wrote nothing for {image}; run it by hand, or use --masks")
            os.replace(made, target)
        if task in CROP_WEIGHTS:
            write_atomically({note: json.dumps(arguments["roi_subset"]).encode()})
    return folder, case


def _kept(target: Path, note: Path, task: str) -> set[str]:
    """The structures that a result was made with."""
    if not target.is_file() or (task in CROP_WEIGHTS and not note.is_file()):
        return set()
    return {*json.loads(note.read_text())} if task in CROP_WEIGHTS else _structures(task)


def _as_nifti(image: Path, copy: Path) -> Path:
    """The image, or a copy of it: TotalSegmentator takes other formats, and .nii.gz after more dots, for DICOM."""
    if image.suffixes in ([".nii"], [".nii", ".gz"]):
        return image
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(str(image)), str(copy))
    return copy


def run_totalsegmentator(arguments: dict) -> None:
    """Its Python API in a process of its own. Raises MASTProError with the last line of what it said."""
    command = [sys.executable, "-c", CODE, json.dumps(arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise MASTProError(
            f"TotalSegmentator failed on {arguments['input']} ({said[-1].strip() if said else done.returncode}); "
            "repair what it names, or use --masks; finished images are kept"
        )


def content_key(image: Path, task: str, fast: bool) -> str:
    """SHA-256 of the image and all that changes results. `task`: whose result lies in no folder of its own."""
    digest = hashlib.sha256(json.dumps([task, fast, version("totalsegmentator")]).encode())
    with image.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

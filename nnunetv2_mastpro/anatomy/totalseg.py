"""TotalSegmentator, run for the host organs of an image; results are kept by the image's content.

It overwrites nnU-Net's variables in its process, so it runs in one of its own. TOTALSEG_HOME_DIR is honoured.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from nnunetv2_mastpro.anatomy.masks import DEFAULT_TASK, split_structure
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.store import cache_folder

MR_TASK = "total_mr"
CROP_WEIGHTS = {DEFAULT_TASK: 298, MR_TASK: 852}  # found first, roughly, where only some structures are wanted
CODE = """
import json, sys
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
    from totalsegmentator.config import get_weights_dir
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    missing = []
    for task in tasks:
        settings = _settings(task)
        mode = "fast" if fast and "fast" in settings.get("sub_modes", {}) else "default"
        ids = settings.get("sub_modes", {}).get(mode, settings)["task_id"]
        ids = [*(ids if isinstance(ids, list) else [ids]), *([CROP_WEIGHTS[task]] if task in CROP_WEIGHTS else [])]
        folders = (TASK_ID_WEIGHTS_CONFIGS[number] for number in ids)
        if not all((get_weights_dir() / (f.get("rel_path") or "") / f["foldername"]).exists() for f in folders):
            missing.append(task)
    return missing


def _settings(task: str) -> dict:
    from totalsegmentator.map_tasks_config import TASK_CONFIGS

    if task not in TASK_CONFIGS:
        raise MASTProError(f"the installed TotalSegmentator has no task {task!r}; update it, or use --masks")
    return TASK_CONFIGS[task]


def check_weights(tasks: Iterable[str], fast: bool) -> None:
    """Raise MASTProError that says how to get weights which are missing."""
    from totalsegmentator.config import get_weights_dir

    missing = weights_missing(tasks, fast)
    if missing:
        commands = ", ".join(f"totalseg_download_weights -t {task}{'_fast' if fast else ''}" for task in missing)
        raise MASTProError(
            f"TotalSegmentator's weights for {', '.join(missing)} are not in {get_weights_dir()}; fetch them on a "
            f"machine with internet ({commands}; TOTALSEG_HOME_DIR says where), or give masks with --masks"
        )


def run_cached(
    image: Path, tasks: dict[str, list[str]], fast: bool, device: str, run: Callable[[dict], None] | None = None
) -> tuple[Path, str]:
    """Folder and case name under which masks.read_case finds the result; what is there already is not run again."""
    folder = cache_folder() / "totalsegmentator"
    case = content_key(image, tasks, fast)
    for task, names in tasks.items():
        inside = folder if task in CROP_WEIGHTS else folder / task
        target = inside / f"{case}.nii.gz"
        if target.is_file():
            continue
        inside.mkdir(parents=True, exist_ok=True)
        unfinished = inside / f".{case}.{os.getpid()}.nii.gz"
        arguments = {"input": str(image), "output": str(unfinished), "ml": True, "task": task, "device": device}
        arguments |= {"fast": fast and not _settings(task).get("disallow_fast", False), "quiet": True}
        if task in CROP_WEIGHTS:
            arguments["roi_subset"] = sorted(names)
        try:
            (run or run_totalsegmentator)(arguments)
            if not unfinished.is_file():
                raise MASTProError(f"TotalSegmentator wrote nothing for {image}; run it by hand, or use --masks")
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    return folder, case


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


def content_key(image: Path, tasks: dict[str, list[str]], fast: bool) -> str:
    """SHA-256 of the image's bytes and of all that changes the result."""
    settings = [{task: sorted(names) for task, names in sorted(tasks.items())}, fast, version("totalsegmentator")]
    digest = hashlib.sha256(json.dumps(settings).encode())
    with image.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

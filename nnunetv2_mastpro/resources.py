"""Where folders lie: those that ship with the package, in a wheel or a checkout, and nnU-Net's own."""

from __future__ import annotations

import os
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError

PACKAGE = Path(__file__).resolve().parent


def nnunet_folder(name: str, otherwise: str = "") -> Path:
    """nnUNet_raw, nnUNet_preprocessed. Raises MASTProError where it is not set; `otherwise`: what else would do."""
    from nnunetv2 import paths

    folder = getattr(paths, name).get()
    if not folder:
        raise MASTProError(f"{name} is not set; export {name}=FOLDER as nnU-Net's set-up asks{otherwise}")
    return Path(folder)


def trainers_dir() -> Path:
    """What nnUNet_extTrainer points at. Raises MASTProError where the installation lacks it."""
    return _shipped_folder("trainers", "*.py")


def ext_trainers(before: str | None = None, folder: Path | None = None) -> str:
    """nnUNet_extTrainer, a list joined by os.pathsep, with our folder at its end unless it is there in any spelling.

    `before`: in place of the variable; `folder`: in place of ours.
    """
    given = os.environ.get("nnUNet_extTrainer", "") if before is None else before
    folder = trainers_dir() if folder is None else folder
    present = [entry for entry in given.split(os.pathsep) if entry.strip()]
    if os.path.realpath(folder) not in map(os.path.realpath, present):
        present.append(str(folder))
    return os.pathsep.join(present)


def plans_dir() -> Path:
    """Plan overlays and recipes, *.json. Raises MASTProError where the installation lacks them."""
    return _shipped_folder("plans", "*.json")


def _shipped_folder(name: str, pattern: str) -> Path:
    """Asks for a file too: site-packages may hold a stranger's folder of the same name beside the package."""
    candidates = (PACKAGE / name, PACKAGE.parent / name)
    for folder in candidates:
        if any(folder.glob(pattern)) and (folder.parent == PACKAGE or (PACKAGE.parent / "setup.cfg").is_file()):
            return folder
    raise MASTProError(
        f"no {name} folder with {pattern} at {candidates[0]} or {candidates[1]}; reinstall nnunetv2_mastpro"
    )

"""Phantom scans as a user has them before there is an nnU-Net data set: what docs/tutorial.md begins with."""

import os
import tempfile
from pathlib import Path

from nnunetv2_mastpro.demo.dataset import FILE_ENDING, PhantomSet, write_dataset
from nnunetv2_mastpro.demo.phantom import Grid
from nnunetv2_mastpro.errors import MASTProError

FOLDERS = {
    "imagesTr": "scans",
    "labelsTr": "masks",
    "imagesTs": "unseen",
    "labelsTs": "unseen_masks",
    "organs": "organs",
}
GRID = Grid((24, 28, 38), (8.0, 8.0, 8.0))
PHANTOMS = PhantomSet("Dataset001_Kidney", ("kidney_tumor",), ("kidney_tumor",), tuple(range(5)), (5, 6))


def write_scans(folder: Path) -> list[Path]:
    """CASE.nii.gz in scans, masks, unseen, unseen_masks and organs of `folder`: kidney tumours, 8 mm voxels.

    Raises MASTProError where one of these is there, before anything is written.
    """
    targets = {source: folder / name for source, name in FOLDERS.items()}
    there = [path for path in targets.values() if path.exists()]
    if there:
        raise MASTProError(f"{there[0]} is there already; give -o another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scans.", dir=folder) as scratch:
        made = write_dataset(scratch, PHANTOMS, GRID)
        for source, target in targets.items():
            for file in (made / source).iterdir():
                os.replace(file, file.with_name(file.name.replace(f"_0000{FILE_ENDING}", FILE_ENDING)))
            os.replace(made / source, target)
    return [*targets.values()]

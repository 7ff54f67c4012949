"""Every command of docs/tutorial.md, run as it stands on a phantom."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from nnunetv2_mastpro.demo.dataset import PhantomSet, write_dataset
from nnunetv2_mastpro.demo.phantom import Grid

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
GRID = Grid((24, 28, 38), (8.0, 8.0, 8.0))
FOLDERS = {"imagesTr": "scans", "labelsTr": "masks", "imagesTs": "unseen", "labelsTs": "unseen_masks"}


def commands() -> str:
    """The shell blocks, one after the other."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.S | re.M))


@pytest.fixture
def folder(tmp_path):
    """scans, masks, unseen, unseen_masks and organs, as a reader of the tutorial has them."""
    phantoms = PhantomSet("Dataset001_Kidney", ("kidney_tumor",), ("kidney_tumor",), tuple(range(5)), (5, 6))
    (tmp_path / "made").mkdir()
    raw = write_dataset(tmp_path / "made", phantoms, GRID)
    for theirs, own in FOLDERS.items():
        (tmp_path / own).mkdir()
        for file in (raw / theirs).iterdir():
            file.rename(tmp_path / own / file.name.replace("_0000.nii.gz", ".nii.gz"))
    (raw / "organs").rename(tmp_path / "organs")
    shutil.rmtree(tmp_path / "made")
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_tutorial(folder, workspace, run_command):
    (folder / "tutorial.sh").write_text(f"set -euo pipefail\n{commands()}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = run_command(["/bin/bash", "tutorial.sh"], env={**workspace.env, "PATH": path}, cwd=folder, timeout=1500)
    assert "This is a renal oncocytoma in the kidney, appearing as a round, homogeneous mass" in done.stdout
    assert len(list((folder / "predictions").glob("*.nii.gz"))) == len(list((folder / "unseen").iterdir())) == 2
    assert "oncocytoma" in (folder / "report" / "index.html").read_text(encoding="utf-8")

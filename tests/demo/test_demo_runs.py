"""The demo end to end, with the real commands on a few coarse cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_mastpro.commands import demo as command
from nnunetv2_mastpro.demo import pipeline
from nnunetv2_mastpro.demo.phantom import Grid
from nnunetv2_mastpro.errors import MASTProError


@pytest.fixture
def short(monkeypatch):
    """One epoch of two steps on five cases."""
    for name, value in {
        "GRID": Grid((24, 28, 38), (8.0, 8.0, 8.0)),
        "NUM_TRAINING": 4,
        "NUM_VALIDATION": 1,
        "NUM_TEST": 2,
        "EPOCHS": 1,
        "STEPS_PER_EPOCH": 2,
    }.items():
        monkeypatch.setattr(pipeline, name, value)


@pytest.mark.slow
def test_a_demo_runs_and_goes_on_where_it_ended(short, tmp_path, capsys):
    folder, models = tmp_path / "demo", [pipeline.Model("mastpro", "MAST-Pro", "nnUNetTrainerMASTPro_1epoch", True)]
    command.run_models(folder, 3, models)
    shown = capsys.readouterr().out
    assert "$ nnUNetv2_train 501 3d_fullres 0 -p MASTProPlans" in shown
    assert "mean of types" in shown
    assert (folder / "index.html").is_file()
    assert len(list((folder / "predictions" / "mastpro").glob("*.nii.gz"))) == 2
    assert "nnUNet_raw" not in os.environ
    record = json.loads((folder / "demo.json").read_text())["steps"]
    command.run_models(folder, 3, models)
    assert capsys.readouterr().out.count("finished earlier") == 9
    assert json.loads((folder / "demo.json").read_text())["steps"] == record


def test_a_failing_command_is_one_sentence(short, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "preparation", lambda layout, seed: [])
    with pytest.raises(MASTProError, match="nnUNetv2_train ended with status 1; its whole output is in"):
        command.run_models(tmp_path / "demo", 0, [pipeline.MASTPRO])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_refuses(tmp_path, seed):
    with pytest.raises(MASTProError, match=f"--seed {seed} is not within 0 and 4294967295"):
        command.run_models(tmp_path / "demo", seed, [])
    assert not (tmp_path / "demo").exists()


def test_a_full_folder_is_refused_by_the_command(tmp_path):
    (tmp_path / "mine").touch()
    mastpro = Path(sys.executable).parent / "mastpro"
    done = subprocess.run([mastpro, "demo", "-o", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds no earlier demo" in done.stderr
    assert "Traceback" not in done.stderr

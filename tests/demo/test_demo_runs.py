"""The demo end to end, with the real commands on a few coarse cases."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from totalsegmentator.map_to_binary import class_map

from nnunetv2_mastpro.commands import demo as command
from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.demo.phantom import Grid
from nnunetv2_mastpro.errors import MASTProError

SHORT = replace(  # one epoch of two steps on ten cases of five sources
    design.DEMO,
    grid=Grid((24, 28, 38), (8.0, 8.0, 8.0)),
    num_training=2,
    num_test=2,
    folds=2,
    epochs=1,
    steps_per_epoch=2,
)
MODEL = design.Model("mastpro", "MAST-Pro", "nnUNetTrainerMASTPro_1epoch", anatomy=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo that ran."""
    folder = tmp_path_factory.mktemp("short") / "demo"
    command.run_models(folder, 3, [MODEL], SHORT)
    return folder


@pytest.mark.slow
def test_a_demo_runs_and_goes_on_where_it_ended(finished, capsys):
    record = json.loads((finished / "demo.json").read_text())["steps"]
    train = record["train_mastpro"]["command"]
    assert train[:6] == ["nnUNetv2_train", "500", "3d_fullres", "0", "-p", "MASTProPlans"]
    page = (finished / "index.html").read_text()
    assert "mean of tumour types" in page
    assert "are not in mastpro.cases" not in page  # unseen cases annotate all, which the demo says
    assert len(list((finished / "predictions" / "mastpro").glob("*.nii.gz"))) == 2
    assert "nnUNet_raw" not in os.environ
    command.run_models(finished, 3, [MODEL], SHORT)
    shown = capsys.readouterr().out
    assert shown.count("finished earlier") == 10
    assert "mean of types" in shown
    assert json.loads((finished / "demo.json").read_text())["steps"] == record


@pytest.mark.slow
def test_its_model_predicts_a_real_scan(finished, real_scan, run_command, tmp_path):
    """From TotalSegmentator's multi-label file and from single binary files alike."""
    layout = design.Layout(finished)
    image, organs = sitk.ReadImage(real_scan / "ct.nii.gz"), sitk.ReadImage(real_scan / "total_multilabel.nii.gz")
    for name in ("images", "multi", "single/ct"):
        (tmp_path / name).mkdir(parents=True)
    sitk.WriteImage(image, tmp_path / "images" / "ct_0000.nii.gz")
    sitk.WriteImage(organs, tmp_path / "multi" / "ct.nii.gz")
    for number, structure in class_map["total"].items():
        sitk.WriteImage(organs == number, tmp_path / "single" / "ct" / f"{structure}.nii.gz")
    env = {**os.environ, **pipeline.variables(layout, 3, SHORT)}
    found = []
    for masks in ("multi", "single"):
        maps, out = tmp_path / f"maps_{masks}", tmp_path / f"predictions_{masks}"
        given = ["-m", layout.results(MODEL), "-i", tmp_path / "images", "-o", maps, "--masks", tmp_path / masks]
        run_command(["mastpro", "anatomy", *given], env=env)
        given = ["-i", tmp_path / "images", "-o", out, "-m", layout.results(MODEL), "-f", "0", "-device", "cpu"]
        given += ["-prev_stage_predictions", maps, "--disable_tta", "-npp", "1", "-nps", "1"]
        run_command(["nnUNetv2_predict_from_modelfolder", *given], env=env)
        prediction = sitk.ReadImage(out / "ct.nii.gz")
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetOrigin() == pytest.approx(image.GetOrigin())
        assert sitk.GetArrayFromImage(sitk.ReadImage(maps / "ct.nii.gz")).any()
        found.append(sitk.GetArrayFromImage(prediction))
    np.testing.assert_array_equal(*found)


def test_a_failing_command_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "preparation", lambda layout, seed, design: [])
    with pytest.raises(MASTProError, match="nnUNetv2_train ended with status 1; its whole output is in"):
        command.run_models(tmp_path / "demo", 0, [design.MASTPRO], SHORT)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_refuses(tmp_path, seed):
    with pytest.raises(MASTProError, match=f"--seed {seed} is not within 0 and 4294967295"):
        command.run_models(tmp_path / "demo", seed, [], SHORT)
    assert not (tmp_path / "demo").exists()


def test_a_full_folder_is_refused_by_the_command(tmp_path):
    (tmp_path / "mine").touch()
    mastpro = Path(sys.executable).parent / "mastpro"
    done = subprocess.run([mastpro, "demo", "-o", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds no earlier demo" in done.stderr
    assert "Traceback" not in done.stderr

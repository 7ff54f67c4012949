"""What `mastpro recipe` refuses, and a real run on two tiny data sets."""

import json
import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli


def refused(capsys, *given) -> str:
    assert cli.main(["recipe", *map(str, given)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["papr"], "no recipe is called 'papr'; known: paper"),
        (["paper", "--only", "LITS"], "the recipe paper has no data set 'LITS'; did you mean 'LiTS'?"),
        (["paper", "--data", "LiTS"], "--data 'LiTS' is not NAME=FOLDER"),
        (["paper", "--data", "LiTS=a", "LiTS=b"], "--data names LiTS twice"),
        (["paper", "--epochs", "7"], "no trainer has 7 epochs; give one of 1, 5, 10, 50, 100, 250, 1000"),
        (["paper", "--fold", "5"], "-f 5 is none of the folds 0 to 4"),
        (["paper", "--gpus", "0"], "--gpus 0 is below 1"),
        (["paper", "--overlay", "swin"], "no plans overlay is called 'swin'"),
    ],
)
def test_options_that_cannot_be(given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *given, "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_wants_downloads(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "paper", "--only", "LiTS", "KiTS", "--data", f"LiTS={tmp_path}")
    assert "no folder is given for KiTS; download KiTS from https://kits-challenge.org/kits23/, unpack it" in error
    assert "is no folder; give the unpacked" in refused(capsys, "paper", "--data", f"LiTS={tmp_path / 'none'}")
    assert "has to be called Task03_Liver" in refused(capsys, "paper", "--data", f"MSD_Liver={tmp_path}")
    given = ["paper", "--data", f"LiTS={tmp_path}", "--device", "cpu"]
    assert "check --masks, --images" in refused(capsys, *given, "--images", tmp_path / "none")
    assert "--labels is given without --images" in refused(capsys, *given, "--labels", tmp_path)
    assert "the stage that predicts trains on; add one of MSD_Liver" in refused(
        capsys, "paper", "--data", f"BTCV={tmp_path}", "--device", "cpu", "--images", tmp_path
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_wants_the_weights_of_totalsegmentator(capsys, tmp_path, monkeypatch):
    """Before it converts anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    error = refused(capsys, "paper", "--data", f"LiTS={tmp_path}", "--device", "cpu")
    assert "TotalSegmentator's weights for total are not in" in error
    assert not (tmp_path / "mastpro_paper").exists()


def test_a_run_wants_as_many_gpus_as_the_recipe(capsys, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    more = torch.cuda.device_count() + 1
    error = refused(capsys, "paper", "--data", f"LiTS={tmp_path}", "--gpus", more)
    assert f"{more} GPUs are wanted and {more - 1} are here" in error


def test_a_folder_of_something_else(capsys, tmp_path):
    (tmp_path / "mine.txt").touch()
    given = ["paper", "--data", f"LiTS={tmp_path}", "--device", "cpu", "--without-masks"]
    error = refused(capsys, *given, "-o", tmp_path)
    assert "is not empty and holds no earlier recipe; give -o" in error


@pytest.fixture
def downloads(tmp_path):
    """LiTS and KiTS as they are downloaded, five cases each."""
    for number in range(5):
        for name, image, label, masses in (
            ("LiTS", "volume-{}.nii", "segmentation-{}.nii", 1),
            ("KiTS", "case_{:05d}/imaging.nii.gz", "case_{:05d}/segmentation.nii.gz", 2),
        ):
            rng = np.random.default_rng((number, masses))
            values = np.zeros((40, 40, 56), np.uint8)
            values[8:30, 8:30, 10:40] = 1
            for mass in range(masses):
                values[12:20, 12:20, 14 + 12 * mass : 22 + 12 * mass] = 2 + mass
            scan = rng.normal(0, 20, values.shape) + 60 * (values > 0) + 80 * (values > 1)
            for file, array in ((image, scan.astype(np.int16)), (label, values)):
                path = tmp_path / name / file.format(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                volume = sitk.GetImageFromArray(array)
                volume.SetSpacing((5, 5, 5))
                sitk.WriteImage(volume, str(path))
    return tmp_path


@pytest.mark.slow
def test_two_data_sets_from_download_to_dice(downloads, run_command):
    """On a CPU, one epoch of two steps each, with an unseen image; then again, which skips everything."""
    folder = downloads / "run"
    for part, source, target in (("images", "volume-0", "new_0000"), ("labels", "segmentation-0", "new")):
        (downloads / part).mkdir()
        volume = sitk.ReadImage(str(downloads / "LiTS" / f"{source}.nii"))
        sitk.WriteImage(volume, str(downloads / part / f"{target}.nii.gz"))
    given = ["recipe", "paper", "--data", f"LiTS={downloads / 'LiTS'}", f"KiTS={downloads / 'KiTS'}", "-o", folder]
    given += ["--overlay", "demo", "--device", "cpu", "--epochs", 1, "--without-masks", "-np", 1]
    given += ["--images", downloads / "images", "--labels", downloads / "labels"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "MASTPRO_"))}
    env |= {"MASTPRO_EPOCH_ITERATIONS": "2", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "nnunetv2_mastpro", *given]
    done = run_command(command, env=env, timeout=1500)
    assert "all steps are done" in done.stdout
    assert "Dataset022_KiTS23  kidney_cyst" in done.stdout  # of the table of Dice
    stages = [json.loads((folder / "nnUNet_preprocessed" / name / "splits_final.json").read_text()) for name in STAGES]
    assert [split["val"] for split in stages[0]] == [split["val"] for split in stages[1]]
    second = folder / "nnUNet_results" / STAGES[1] / "nnUNetTrainerMASTPro_1epoch__MASTProPlans__3d_fullres"
    assert (second / "fold_0" / "checkpoint_final.pth").is_file()
    summary = json.loads((second / "crossval_results_folds_0" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(stages[1][0]["val"])
    assert "finished earlier" not in done.stdout
    (downloads / "LiTS").rename(downloads / "elsewhere")  # what it wrote of these is no link
    again = run_command(command, env=env, timeout=1500)
    assert again.stdout.count("finished earlier") == done.stdout.count("done in")
    assert "done in" not in again.stdout
    assert (folder / "predictions" / "new.nii.gz").is_file()
    assert len(json.loads((folder / "summary.json").read_text())["metric_per_case"]) == 1


STAGES = ("Dataset901_MASTProPretrain", "Dataset902_MASTProTumours")

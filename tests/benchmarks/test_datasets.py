"""The table benchmarks on data sets of the user's own."""

import json
import os

import pytest

from benchmarks import runs, table
from benchmarks.cells import MASTPRO, rows_of
from benchmarks.runs import Datasets, Sarcoma

from .conftest import REPOSITORY


def test_own_data_sets_are_trained_by_the_stock_command(tmp_path):
    runner = Datasets(("3", "6"), "3d_fullres", "nnUNetPlans", "MASTProPlans", 50, "cuda")
    command = " ".join(runner.command(MASTPRO, "6", 2))
    assert command == ("nnUNetv2_train 6 3d_fullres 2 -p MASTProPlans -tr nnUNetTrainerMASTPro_50epochs -device cuda")
    (universal,) = rows_of("table1", ["universal"])
    assert runner.command(universal, "6", 2)[5] == "nnUNetPlans"
    assert table.told(runner)["ids"] == ["3", "6"]
    assert "data" not in table.told(Sarcoma(tmp_path, tmp_path))


@pytest.mark.parametrize(
    ("there", "option"),
    [((), ()), (("latest", "best"), ("--c",)), (("best",), ("--c",)), (("best", "final"), ("--val",))],
)
def test_an_interrupted_training_goes_on(tmp_path, there, option):
    """nnU-Net removes checkpoint_latest.pth before the validation, in which it may be interrupted too."""
    for name in there:
        (tmp_path / f"checkpoint_{name}.pth").touch()
    assert runs.going_on_with(tmp_path) == option


def test_own_data_sets_are_scored_by_source_and_tumour_type(tmp_path):
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "liver_tumor": 2},
        "file_ending": ".nii.gz",
        "mastpro": {"cases": {"a": {"source": "Dataset003_Liver"}}},
    }
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    metrics = {"1": {"Dice": 0.9, "n_ref": 9}, "2": {"Dice": 0.5, "n_ref": 9}}
    entries = [{"reference_file": f"/x/{case}.nii.gz", "metrics": metrics} for case in ("a", "b")]
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    assert runs.scores_of(fold) == [("Dataset003_Liver", "a 2", 0.5), (None, "b 2", 0.5)]


def test_own_data_sets_with_regions_are_scored_by_nnunets_keys(tmp_path):
    """Organs first, so that no type stands at the place of its value; and a case whose name has dots."""
    labels = {"background": 0, "liver": [1, 2], "kidney": [3, 4], "liver_tumor": 2, "kidney_tumor": [4]}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    content["regions_class_order"] = [1, 3, 2, 4]
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    (tmp_path / "dataset.json").write_text(
        json.dumps({**content, "mastpro": {"cases": {"a.1": {"source": "Dataset003_Liver"}}}})
    )
    metrics = {key: {"Dice": 0.1 * place, "n_ref": 9} for place, key in enumerate(("(1, 2)", "(3, 4)", "2", "(4,)"))}
    entries = [{"reference_file": f"/x/a.{case}.nii.gz", "metrics": metrics} for case in (1, 2)]
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    assert [(source, key) for source, key, _ in runs.scores_of(fold)] == [
        ("Dataset003_Liver", "a.1 2"),
        ("Dataset003_Liver", "a.1 (4,)"),
        (None, "a.2 2"),
        (None, "a.2 (4,)"),
    ]


def test_own_data_sets_that_are_trained_are_not_trained_again(tmp_path, monkeypatch, capsys):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, dice in (("Dataset003_Liver", 0.5), ("Dataset006_Lung", 0.7)):
        (tmp_path / "nnUNet_preprocessed" / name).mkdir(parents=True)
        model = tmp_path / "nnUNet_results" / name / "nnUNetTrainerMASTPro_1epoch__MASTProPlans__3d_fullres"
        (model / "fold_0" / "validation").mkdir(parents=True)
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "liver_tumor": 1},
            "file_ending": ".nii.gz",
        }
        (model / "dataset.json").write_text(json.dumps(content))
        entry = {"reference_file": f"/x/{name[-4:]}.nii.gz", "metrics": {"1": {"Dice": dice, "n_ref": 5}}}
        (model / "fold_0" / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": [entry]}))
    arguments = ["-o", str(tmp_path / "out"), "--datasets", "3", "6", "--cells", "mastpro", "--epochs", "1"]
    table.main("table2", "", arguments)
    assert "| AP / TP / D-MoE | 1 | 0.500 | 0.700 | 0.600 |" in (tmp_path / "out" / "table2_datasets.md").read_text()
    cell = json.loads((tmp_path / "out" / "cells" / "datasets" / "mastpro_seed_0.json").read_text())
    assert cell["cases"] == {"Dataset003_Liver/iver 1": 0.5, "Dataset006_Lung/Lung 1": 0.7}
    assert cell["columns"] == {key: key.partition("/")[0] for key in cell["cases"]}
    assert cell["seconds"] is None  # nobody saw it
    (tmp_path / "nnUNetv2_train").write_text(f"#!/bin/sh\necho $nnUNet_extTrainer > {tmp_path}/seen\nexit 1\n")
    (tmp_path / "nnUNetv2_train").chmod(0o755)
    monkeypatch.setattr(runs, "find_executable", lambda name: str(tmp_path / name))
    with pytest.raises(SystemExit, match="nnUNetv2_train ended with status 1"):
        table.main("table2", "", [*arguments, "--folds", "1"])
    ours = [runs.ext_trainers(""), str(REPOSITORY / "benchmarks" / "trainers")]
    assert (tmp_path / "seen").read_text().strip().split(os.pathsep)[-2:] == ours
    with pytest.raises(SystemExit, match="none of --cells is of use on data sets of your own"):
        table.main("table1", "", [*arguments[:-4], "--cells", "complete", "selected"])
    with pytest.raises(SystemExit, match="no single dataset 7 in .*; give the id or the name of one"):
        table.main("table2", "", [*arguments, "-o", str(tmp_path / "other"), "--datasets", "3", "7"])
    assert "$ nnUNetv2_train 3 3d_fullres 1 -p MASTProPlans -tr nnUNetTrainerMASTPro_1epoch" in capsys.readouterr().out

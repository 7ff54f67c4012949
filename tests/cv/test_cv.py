"""`mastpro cv`: cross-validation where each case annotates some of the classes."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import load_summary_json

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation import partial
from nnunetv2_mastpro.evaluation.partial import NNUNETS, SUMMARY, corrected

from .conftest import CASES, DATASET, FLAT, OUTPUTS, REGIONS, labels_for, read


@pytest.fixture
def model(folders, kind, monkeypatch):
    """A results folder with two validated folds."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folders / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(name, str(folders / name))
    labels = FLAT if kind == "flat" else REGIONS
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 4}
    content |= {"mastpro": {"cases": CASES}, **({} if kind == "flat" else {"regions_class_order": [1, 2, 3]})}
    (folders / "nnUNet_raw" / DATASET / "dataset.json").write_text(json.dumps(content))
    (folders / "truth").rename(folders / "nnUNet_preprocessed" / DATASET / "gt_segmentations")
    model = folders / "nnUNet_results" / DATASET / "nnUNetTrainerMASTPro__nnUNetPlans__3d_fullres"
    for fold in range(2):
        (model / f"fold_{fold}").mkdir(parents=True)
        (folders / f"fold_{fold}").rename(model / f"fold_{fold}" / "validation")
        (model / f"fold_{fold}" / "validation" / SUMMARY).write_text("{}")
        (model / f"fold_{fold}" / "checkpoint_final.pth").touch()
    (model / "dataset.json").write_text(json.dumps(content))
    plans = {"dataset_name": DATASET, "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}
    (model / "plans.json").write_text(json.dumps({**plans, "plans_name": "nnUNetPlans", "configurations": {}}))
    return model


def test_cv_scores_what_each_case_annotates(model, kind, capsys):
    assert cli.main(["cv", "-d", "900", "-f", "0", "1", "-np", "1"]) == 0
    folder = model / "crossval_results_folds_0_1"
    stock, summary = load_summary_json(str(folder / NNUNETS)), load_summary_json(str(folder / SUMMARY))
    expected = corrected(stock, read(), labels_for(kind))
    assert summary["mean"] == {output: pytest.approx(expected["mean"][output]) for output in OUTPUTS[kind]}
    assert summary["mean"][2]["Dice"] != pytest.approx(stock["mean"][2]["Dice"])
    shown = capsys.readouterr().out
    dice = summary["mean"][3]["Dice"]
    assert re.search(rf"all +kidney_tumor +{dice:.3f} +2 +0 +2\n", shown)
    assert re.search(r"KiTS +kidney_tumor +0\.\d+ +1 +0 +0\n", shown)
    assert "KiTS  liver" not in shown


@pytest.mark.parametrize("kind", ["flat"], indirect=True)
def test_an_interrupted_cv_leaves_no_summary_of_nnunets(model, monkeypatch):
    """Which takes what a case does not annotate for background."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(partial, "rewrite_summary", interrupt)
    assert cli.main(["cv", "-d", "900", "-f", "0", "1", "-np", "1"]) == cli.RC_INTERRUPTED
    assert (model / "crossval_results_folds_0_1" / "a.nii.gz").is_file()
    assert not (model / "crossval_results_folds_0_1" / SUMMARY).exists()


@pytest.mark.parametrize("kind", ["regions"], indirect=True)
def test_cv_of_whole_annotations_is_nnunets_own(model, run_command, monkeypatch, tmp_path):
    """The console script beside nnUNetv2_accumulate_crossval_results."""
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    content = json.loads((model / "dataset.json").read_text())
    del content["mastpro"]
    (model / "dataset.json").write_text(json.dumps(content))
    given = ["-c", "3d_fullres", "-tr", "nnUNetTrainerMASTPro", "-f", "0", "1"]
    run_command(["nnUNetv2_accumulate_crossval_results", "900", *given, "-o", tmp_path / "stock"])
    run_command(["mastpro", "cv", "-d", "900", *given, "-o", tmp_path / "ours"])
    stock, ours = (load_summary_json(str(tmp_path / name / SUMMARY)) for name in ("stock", "ours"))
    assert ours["mean"] == stock["mean"]
    assert ours["foreground_mean"] == stock["foreground_mean"]
    assert [e["metrics"] for e in ours["metric_per_case"]] == [e["metrics"] for e in stock["metric_per_case"]]
    assert not (model / "crossval_results_folds_0_1").exists()


def truth_of(model):
    return model.parents[2] / "nnUNet_preprocessed" / DATASET / "gt_segmentations"


def describe(model, case):
    content = json.loads((model / "dataset.json").read_text())
    content["mastpro"]["cases"][case] = {"annotated": ["liver"]}
    (model / "dataset.json").write_text(json.dumps(content))


def interrupted(model):
    (model / "fold_1" / "validation" / "d.nii.gz").unlink()
    splits = [{"train": ["b", "d"], "val": ["a", "c"]}, {"train": ["a", "c"], "val": ["b", "d"]}]
    (truth_of(model).parent / "splits_final.json").write_text(json.dumps(splits))


def drawn_anew(model):
    splits = [{"train": ["b", "c", "d"], "val": ["a"]}, {"train": ["a", "c"], "val": ["b", "d"]}]
    (truth_of(model).parent / "splits_final.json").write_text(json.dumps(splits))


def unfinished(model):
    unvalidated(model)
    (model / "fold_0" / "checkpoint_final.pth").rename(model / "fold_0" / "checkpoint_latest.pth")


def unvalidated(model):
    (model / "fold_0" / "validation" / "summary.json").unlink()


def keep(model):
    pass


@pytest.mark.parametrize("kind", ["flat"], indirect=True)
@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (
            keep,
            ["-f", "0", "1", "2"],
            r"fold 2 of .* not trained; trained: 0, 1; .* run nnUNetv2_train 900 \w+ 2 .* \w+\n",
        ),
        (unfinished, ["-f", "0", "1"], r"fold 0 .* not trained to its end; .* run nnUNetv2_train 900 .* \w+ --c\n"),
        (unvalidated, ["-f", "0", "1"], r"fold 0 of .* no finished validation; run nnUNetv2_train 900 .* --val"),
        (keep, ["-f", "0", "0"], "validated in more than one of the folds: a, c; give each fold once"),
        (keep, ["-f", "first"], "'first' is no fold"),
        (keep, ["-c", "2d"], r"holds no training; give the -c, -p and -tr of one of \w+'s \(\w+__\w+__3d_fullres\)"),
        (keep, ["-f", "0", "1", "-o", "nnUNet_results"], "nnUNet_results is not empty, and nnU-Net would empty it"),
        (keep, ["-f", "0", "1", "-np", "0"], "-np 0 is below 1"),
        (keep, ["-f", "0", "1", "-d", "901"], "no single dataset 901"),
        (interrupted, ["-f", "0", "1"], r"no prediction of d, which splits_final.json .* 3d_fullres 1 .* --val"),
        (drawn_anew, ["-f", "0"], r"has predictions of c, which .* remove this folder and run nnUNetv2_train .* --val"),
        (
            lambda model: (truth_of(model) / "b.nii.gz").unlink(),
            ["-f", "0", "1"],
            "gt_segmentations has no label of b;",
        ),
        (lambda model: describe(model, "e"), ["-f", "0", "1"], "names e, which .*gt_segmentations does not hold"),
    ],
)
def test_bad_input(model, capsys, monkeypatch, prepare, arguments, message):
    prepare(model)
    monkeypatch.chdir(model.parents[2])
    before = sorted(model.rglob("*"))
    assert cli.main(["cv", "-d", "900", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(model.rglob("*")) == before


@pytest.mark.parametrize("kind", ["flat"], indirect=True)
def test_a_prediction_of_another_shape_is_named(model, capsys):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 7), np.uint8)), str(model / "fold_0/validation/a.nii.gz"))
    assert cli.main(["cv", "-d", "900", "-f", "0", "1", "-np", "1"]) == 2
    assert re.search(r"predictions cannot be evaluated \(.*shape.*\); run nnUNetv2_train", capsys.readouterr().err)


def test_cv_without_its_variable(capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert cli.main(["cv", "-d", "900"]) == 2
    assert "nnUNet_results is not set; export nnUNet_results=FOLDER" in capsys.readouterr().err

"""Summaries and cross-validation where each case annotates some of the classes."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation.partial import NNUNETS, SUMMARY, corrected, rewrite_summary
from nnunetv2_mastpro.tasks import read_cases

DATASET = "Dataset900_Pan"
FLAT = {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3}
REGIONS = {"background": 0, "liver": [1, 2], "liver_tumor": 2, "kidney_tumor": 3}
CASES = {
    "a": {"source": "LiTS", "annotated": ["liver", "liver_tumor"]},
    "b": {"source": "LiTS", "annotated": ["liver"]},
    "c": {"source": "KiTS", "annotated": ["kidney_tumor"]},
    "d": {},
}
LABELS = ("liver", "liver_tumor", "kidney_tumor")
OUTPUTS = {"flat": [1, 2, 3], "regions": [(1, 2), 2, 3]}


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


@pytest.fixture(params=["flat", "regions"])
def kind(request):
    return request.param


@pytest.fixture
def folders(tmp_path):
    """Truth, and the predictions of two folds."""
    for number, case in enumerate(CASES):
        write(tmp_path / "truth" / f"{case}.nii.gz", number)
        write(tmp_path / f"fold_{number % 2}" / f"{case}.nii.gz", 10 + number)
        write(tmp_path / "all" / f"{case}.nii.gz", 10 + number)
    return tmp_path


def evaluate(folders, name, kind):
    arguments = [str(folders / "truth"), str(folders / name), str(folders / name / SUMMARY)]
    compute_metrics_on_folder(*arguments, SimpleITKIO(), ".nii.gz", OUTPUTS[kind], num_processes=1)
    return load_summary_json(arguments[2])


def read(annotated=True):
    return read_cases({"mastpro": {"cases": CASES if annotated else {}}}, LABELS)


def test_means_are_over_the_cases_that_annotate_the_class(folders, kind):
    before = evaluate(folders, "all", kind)
    found = corrected(before, read(), OUTPUTS[kind], ".nii.gz")
    dice = {
        Path(entry["prediction_file"]).name[0]: {
            label: entry["metrics"][output]["Dice"] for label, output in zip(LABELS, OUTPUTS[kind], strict=True)
        }
        for entry in before["metric_per_case"]
    }
    expected = {
        "liver": np.mean([dice[case]["liver"] for case in "abd"]),
        "liver_tumor": np.mean([dice[case]["liver_tumor"] for case in "ad"]),
        "kidney_tumor": np.mean([dice[case]["kidney_tumor"] for case in "cd"]),
    }
    assert [found["mean"][output]["Dice"] for output in OUTPUTS[kind]] == pytest.approx([*expected.values()])
    assert found["foreground_mean"]["Dice"] == pytest.approx(np.mean([*expected.values()]))
    told = found["mastpro"]["per_class"]
    assert {label: (told[label]["scored"], told[label]["left_out"]) for label in LABELS} == {
        "liver": (3, 1),
        "liver_tumor": (2, 2),
        "kidney_tumor": (2, 2),
    }
    lits = found["mastpro"]["per_source"]["LiTS"]
    assert lits["liver"]["Dice"] == pytest.approx(np.mean([dice[case]["liver"] for case in "ab"]))
    assert math.isnan(lits["kidney_tumor"]["Dice"])
    assert list(found["mastpro"]["per_source"]) == ["KiTS", "LiTS", "this data set"]
    left_out = {Path(entry["prediction_file"]).name[0]: entry["metrics"] for entry in found["metric_per_case"]}
    assert all(math.isnan(value) for value in left_out["b"][OUTPUTS[kind][1]].values())


def test_where_all_is_annotated_the_numbers_are_nnunets(folders, kind):
    before = evaluate(folders, "all", kind)
    found = corrected(before, read(annotated=False), OUTPUTS[kind], ".nii.gz")
    for output in OUTPUTS[kind]:
        assert found["mean"][output] == pytest.approx(before["mean"][output])
    assert found["foreground_mean"] == pytest.approx(before["foreground_mean"])
    assert found["metric_per_case"] == before["metric_per_case"]


def test_a_summary_is_rewritten_whole_or_not_at_all(folders, kind, monkeypatch):
    evaluate(folders, "all", kind)
    stock = (folders / "all" / SUMMARY).read_text()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nnunetv2_mastpro.evaluation.partial.os.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rewrite_summary(folders / "all", read(), OUTPUTS[kind], ".nii.gz")
    assert (folders / "all" / SUMMARY).read_text() == stock
    summary = rewrite_summary(folders / "all", read(), OUTPUTS[kind], ".nii.gz")
    assert (folders / "all" / NNUNETS).read_text() == stock
    again = load_summary_json(str(folders / "all" / SUMMARY))  # as nnU-Net reads it
    assert again["foreground_mean"]["Dice"] == pytest.approx(summary["foreground_mean"]["Dice"])
    assert not list((folders / "all").glob(".*"))


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
    (model / "dataset.json").write_text(json.dumps(content))
    plans = {"dataset_name": DATASET, "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}
    (model / "plans.json").write_text(json.dumps({**plans, "plans_name": "nnUNetPlans", "configurations": {}}))
    return model


def test_cv_scores_what_each_case_annotates(model, kind, capsys):
    assert cli.main(["cv", "-d", "900", "-f", "0", "1", "-np", "1"]) == 0
    folder = model / "crossval_results_folds_0_1"
    stock, summary = load_summary_json(str(folder / NNUNETS)), load_summary_json(str(folder / SUMMARY))
    expected = corrected(stock, read(), OUTPUTS[kind], ".nii.gz")
    assert summary["mean"] == {output: pytest.approx(expected["mean"][output]) for output in OUTPUTS[kind]}
    assert summary["mean"][2]["Dice"] != pytest.approx(stock["mean"][2]["Dice"])
    shown = capsys.readouterr().out
    dice = summary["mean"][3]["Dice"]
    assert re.search(rf"all +kidney_tumor +{dice:.3f} +2 +2\n", shown)
    assert re.search(r"KiTS +kidney_tumor +0\.\d+ +1 +0\n", shown)
    assert "KiTS  liver" not in shown


@pytest.mark.parametrize("kind", ["flat"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "0", "1", "2"], r"fold 2 of .* run nnUNetv2_train 900 3d_fullres 2 -p nnUNetPlans .* --val"),
        (["-f", "0", "0"], "validated in more than one of the folds: a, c; give each fold once"),
        (["-f", "first"], "'first' is no fold"),
        (["-c", "2d"], r"holds no training; give the -c, -p and -tr"),
        (["-f", "0", "1", "-o", "nnUNet_results"], "holds the model itself"),
    ],
)
def test_bad_input(model, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(model.parents[2])
    before = sorted(model.rglob("*"))
    assert cli.main(["cv", "-d", "900", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(model.rglob("*")) == before

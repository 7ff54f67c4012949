"""Summaries where each case annotates some of the classes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import load_summary_json

from nnunetv2_mastpro.evaluation.partial import NNUNETS, SUMMARY, corrected, rewrite_summary
from nnunetv2_mastpro.tasks import read_cases

from .conftest import CASES, LABELS, OUTPUTS, evaluate, read


def test_means_are_over_the_cases_that_annotate_the_class(before, kind):
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
    assert {label: [told[label][key] for key in ("scored", "empty", "left_out")] for label in LABELS} == {
        "liver": [3, 0, 1],
        "liver_tumor": [2, 0, 2],
        "kidney_tumor": [2, 0, 2],
    }
    lits = found["mastpro"]["per_source"]["LiTS"]
    assert lits["liver"]["Dice"] == pytest.approx(np.mean([dice[case]["liver"] for case in "ab"]))
    assert math.isnan(lits["kidney_tumor"]["Dice"])
    assert list(found["mastpro"]["per_source"]) == ["KiTS", "LiTS", "this data set"]
    left_out = {Path(entry["prediction_file"]).name[0]: entry["metrics"] for entry in found["metric_per_case"]}
    assert all(math.isnan(value) for value in left_out["b"][OUTPUTS[kind][1]].values())


def test_where_all_is_annotated_the_numbers_are_nnunets(before, kind):
    found = corrected(before, read(annotated=False), OUTPUTS[kind], ".nii.gz")
    for output in OUTPUTS[kind]:
        assert found["mean"][output] == pytest.approx(before["mean"][output])
    assert found["foreground_mean"] == pytest.approx(before["foreground_mean"])
    assert found["metric_per_case"] == before["metric_per_case"]


def without(metrics, output):
    """Metrics of a class that is in neither truth nor prediction."""
    metrics[output] |= dict.fromkeys(("TP", "FP", "FN", "n_pred", "n_ref"), 0)
    metrics[output] |= dict.fromkeys(("Dice", "IoU"), math.nan)


def test_a_case_with_neither_truth_nor_prediction_has_no_dice(before, kind):
    output = OUTPUTS[kind][0]
    without(before["metric_per_case"][0]["metrics"], output)  # a: annotated
    without(before["metric_per_case"][2]["metrics"], output)  # c: not annotated
    told = corrected(before, read(), OUTPUTS[kind], ".nii.gz")["mastpro"]
    assert [told["per_class"]["liver"][key] for key in ("scored", "empty", "left_out")] == [2, 1, 1]
    assert [told["per_source"]["LiTS"]["liver"][key] for key in ("scored", "empty", "left_out")] == [1, 1, 0]
    dice = [before["metric_per_case"][case]["metrics"][output]["Dice"] for case in (1, 3)]
    assert told["per_class"]["liver"]["Dice"] == pytest.approx(np.mean(dice))


def test_a_class_that_nobody_annotates_is_in_no_foreground_mean(before, kind):
    cases = read_cases(
        {"mastpro": {"cases": {case: {"annotated": ["liver", "kidney_tumor"]} for case in CASES}}}, LABELS
    )
    found = corrected(before, cases, OUTPUTS[kind], ".nii.gz")
    liver, tumor, kidney = (found["mean"][output]["Dice"] for output in OUTPUTS[kind])
    assert math.isnan(tumor)
    assert found["foreground_mean"]["Dice"] == pytest.approx((liver + kidney) / 2)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_class_that_no_case_has_makes_nnunets_foreground_mean_nan(folders, kind):
    """And ours, since the numbers are to be nnU-Net's where all is annotated."""
    for path in (folders / "truth", folders / "all"):
        for file in path.glob("*.nii.gz"):
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
            sitk.WriteImage(sitk.GetImageFromArray(np.where(values == 3, 0, values)), str(file))
    before = evaluate(folders, "all", kind)
    found = corrected(before, read(annotated=False), OUTPUTS[kind], ".nii.gz")
    assert math.isnan(before["foreground_mean"]["Dice"])
    assert found["foreground_mean"] == pytest.approx(before["foreground_mean"], nan_ok=True)
    assert found["mastpro"]["per_class"]["kidney_tumor"]["empty"] == 4


def test_a_corrected_summary_is_corrected_anew(folders, kind):
    stock = (folders / "all" / SUMMARY).read_text()
    first = rewrite_summary(folders / "all", read(), OUTPUTS[kind], ".nii.gz")
    all_known = rewrite_summary(folders / "all", read(annotated=False), OUTPUTS[kind], ".nii.gz")
    assert (folders / "all" / NNUNETS).read_text() == stock
    assert all_known["foreground_mean"]["Dice"] == pytest.approx(json.loads(stock)["foreground_mean"]["Dice"])
    assert all_known["foreground_mean"]["Dice"] != pytest.approx(first["foreground_mean"]["Dice"])
    (folders / "all" / SUMMARY).write_text(stock)  # nnU-Net validates again
    again = rewrite_summary(folders / "all", read(), OUTPUTS[kind], ".nii.gz")
    assert again["foreground_mean"] == first["foreground_mean"]


def test_a_summary_is_rewritten_whole_or_not_at_all(folders, kind, monkeypatch):
    stock = (folders / "all" / SUMMARY).read_text()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nnunetv2_mastpro.files.os.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rewrite_summary(folders / "all", read(), OUTPUTS[kind], ".nii.gz")
    assert (folders / "all" / SUMMARY).read_text() == stock
    summary = rewrite_summary(folders / "all", read(), OUTPUTS[kind], ".nii.gz")
    assert (folders / "all" / NNUNETS).read_text() == stock
    again = load_summary_json(str(folders / "all" / SUMMARY))  # as nnU-Net reads it
    assert again["foreground_mean"]["Dice"] == pytest.approx(summary["foreground_mean"]["Dice"])
    assert not list((folders / "all").glob(".*"))

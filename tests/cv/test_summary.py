"""Summaries where each case annotates some of the classes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.evaluation.cases import Job, Scoring, score_case
from nnunetv2_mastpro.evaluation.partial import (
    NNUNETS,
    SUMMARY,
    corrected,
    labels_of,
    rewrite_summary,
    with_organs,
)
from nnunetv2_mastpro.prompts.resolve import resolve_quietly
from nnunetv2_mastpro.tasks import read_cases

from .conftest import CASES, LABELS, OUTPUTS, evaluate, labels_for, read


def evaluated_dice(entry, kind):
    """As mastpro evaluate has it."""
    labels, case = labels_for(kind), Path(entry["prediction_file"]).name[0]
    scoring = Scoring(labels.classes, None, labels.reader, tolerance_mm=2.0, lesion_overlap=0.0)
    files = Path(entry["reference_file"]), Path(entry["prediction_file"])
    return {
        row["class"]: row["Dice"]
        for row in score_case(Job(case, case, None, *files, read().annotated_in(case), scoring))
    }


def test_means_are_over_the_cases_that_annotate_the_class(before, kind):
    found = corrected(before, read(), labels_for(kind))
    dice = {Path(entry["prediction_file"]).name[0]: evaluated_dice(entry, kind) for entry in before["metric_per_case"]}
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
    found = corrected(before, read(annotated=False), labels_for(kind))
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
    told = corrected(before, read(), labels_for(kind))["mastpro"]
    assert [told["per_class"]["liver"][key] for key in ("scored", "empty", "left_out")] == [2, 1, 1]
    assert [told["per_source"]["LiTS"]["liver"][key] for key in ("scored", "empty", "left_out")] == [1, 1, 0]
    dice = [evaluated_dice(before["metric_per_case"][case], kind)["liver"] for case in (1, 3)]
    assert told["per_class"]["liver"]["Dice"] == pytest.approx(np.mean(dice))


def test_a_class_that_nobody_annotates_is_in_no_foreground_mean(before, kind):
    cases = read_cases(
        {"mastpro": {"cases": {case: {"annotated": ["liver", "kidney_tumor"]} for case in CASES}}}, LABELS
    )
    found = corrected(before, cases, labels_for(kind))
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
    found = corrected(before, read(annotated=False), labels_for(kind))
    assert math.isnan(before["foreground_mean"]["Dice"])
    assert found["foreground_mean"] == pytest.approx(before["foreground_mean"], nan_ok=True)
    assert found["mastpro"]["per_class"]["kidney_tumor"]["empty"] == 4


def test_a_corrected_summary_is_corrected_anew(folders, kind):
    stock = (folders / "all" / SUMMARY).read_text()
    first = rewrite_summary(folders / "all", read(), labels_for(kind))
    all_known = rewrite_summary(folders / "all", read(annotated=False), labels_for(kind))
    assert (folders / "all" / NNUNETS).read_text() == stock
    assert all_known["foreground_mean"]["Dice"] == pytest.approx(json.loads(stock)["foreground_mean"]["Dice"])
    assert all_known["foreground_mean"]["Dice"] != pytest.approx(first["foreground_mean"]["Dice"])
    (folders / "all" / SUMMARY).write_text(stock)  # nnU-Net validates again
    again = rewrite_summary(folders / "all", read(), labels_for(kind))
    assert again["foreground_mean"] == first["foreground_mean"]


def test_a_summary_is_rewritten_whole_or_not_at_all(folders, kind, monkeypatch):
    stock = (folders / "all" / SUMMARY).read_text()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nnunetv2_mastpro.files.os.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rewrite_summary(folders / "all", read(), labels_for(kind))
    assert (folders / "all" / SUMMARY).read_text() == stock
    summary = rewrite_summary(folders / "all", read(), labels_for(kind))
    assert (folders / "all" / NNUNETS).read_text() == stock
    again = load_summary_json(str(folders / "all" / SUMMARY))  # as nnU-Net reads it
    assert again["foreground_mean"]["Dice"] == pytest.approx(summary["foreground_mean"]["Dice"])
    assert not list((folders / "all").glob(".*"))


def test_that_is_asked_pair_by_pair_where_only_some_are_nested(tmp_path):
    """The liver's tumours lie in its region, the lung's have a value of their own."""
    content = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "regions_class_order": [1, 2, 3, 4]}
    content["labels"] = {"background": 0, "liver": [1, 2], "liver_tumor": 2, "lung": 3, "lung_tumor": 4}
    plans = {"image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}
    labels = labels_of(PlansManager(plans), content, resolve_quietly(content))
    truth, found = np.zeros((2, 4, 5, 6), np.uint8)
    truth[0], truth[2:], found[0], found[2], found[3] = 1, 3, 2, 3, 4
    for folder, values in (("truth", truth), ("all", found)):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / folder / "a.nii.gz"))
    paths = [str(tmp_path / name) for name in ("truth", "all", "all/summary.json")]
    compute_metrics_on_folder(*paths, labels.reader, ".nii.gz", list(labels.outputs), num_processes=1)
    entry = load_summary_json(paths[2])["metric_per_case"][0]
    metrics = with_organs(entry, [True, False, True, False], labels)["metrics"]
    liver, _, lung, _ = labels.outputs
    assert metrics[liver]["Dice"] == metrics[lung]["Dice"] == 1.0
    assert with_organs(entry, [True, False, True, True], labels) is entry  # the lung's is a mistake there


@pytest.mark.parametrize("kind", ["flat", "regions"], indirect=True)
def test_a_tumour_that_a_case_does_not_annotate_counts_as_its_organ(folders, kind):
    """As the loss has it: case b annotates the liver, whose label may hold tumours. Elsewhere it is a mistake."""
    truth, found = np.zeros((2, 4, 5, 6), np.uint8)
    truth[:2] = 1
    found[0], found[1], found[3] = 1, 2, 3
    for name in CASES:
        for folder, values in (("truth", truth), ("all", found)):
            sitk.WriteImage(sitk.GetImageFromArray(values), str(folders / folder / f"{name}.nii.gz"))
    stock = evaluate(folders, "all", kind)
    entries = dict(zip(sorted(CASES), corrected(stock, read(), labels_for(kind))["metric_per_case"], strict=True))
    liver = OUTPUTS[kind][0]
    assert entries["b"]["metrics"][liver]["Dice"] == 1.0
    assert entries["b"]["metrics"][liver]["TP"] == 60
    assert math.isnan(entries["b"]["metrics"][2]["Dice"])
    assert entries["a"]["metrics"] == stock["metric_per_case"][0]["metrics"] | {3: entries["a"]["metrics"][3]}
    assert entries["a"]["metrics"][liver]["Dice"] == (pytest.approx(2 / 3) if kind == "flat" else 1.0)

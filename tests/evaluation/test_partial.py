"""Summaries and cross-validation where each case annotates some of the classes."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation import partial
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


@pytest.fixture(params=["flat", "regions"], scope="module")
def kind(request):
    return request.param


def evaluate(folders, name, kind):
    arguments = [str(folders / "truth"), str(folders / name), str(folders / name / SUMMARY)]
    compute_metrics_on_folder(*arguments, SimpleITKIO(), ".nii.gz", OUTPUTS[kind], num_processes=1)
    return load_summary_json(arguments[2])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, kind):
    """Truth, the predictions of two folds, and both folds' with nnU-Net's summary."""
    root = tmp_path_factory.mktemp("evaluated")
    for number, case in enumerate(CASES):
        write(root / "truth" / f"{case}.nii.gz", number)
        write(root / f"fold_{number % 2}" / f"{case}.nii.gz", 10 + number)
        write(root / "all" / f"{case}.nii.gz", 10 + number)
    evaluate(root, "all", kind)
    return root


@pytest.fixture
def folders(evaluated, tmp_path):
    """A copy of them."""
    return shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def before(folders):
    """nnU-Net's summary."""
    return load_summary_json(str(folders / "all" / SUMMARY))


def read(annotated=True):
    return read_cases({"mastpro": {"cases": CASES if annotated else {}}}, LABELS)


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
    expected = corrected(stock, read(), OUTPUTS[kind], ".nii.gz")
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

"""`mastpro evaluate` from folders to numbers, against nnU-Net's own evaluation and hand counts."""

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation.evaluate import evaluate
from nnunetv2_mastpro.evaluation.metrics import score
from nnunetv2_mastpro.prompts.resolve import foreground_labels

SPACING_MM = (2.0, 1.5, 4.0)  # x y z
CASES = ("p1_a", "p1_b", "p2_a", "p2_b", "p3_a")
FOLDERS = ("labels", "predictions")


def read_set(root, **options):
    content = json.loads((root / "predictions" / "dataset.json").read_text())
    return evaluate(root / "labels", root / "predictions", content, workers=1, **options)


def masks(root, case, values):
    read = [sitk.GetArrayFromImage(sitk.ReadImage(root / folder / f"{case}.nii.gz")) for folder in FOLDERS]
    return [np.isin(array, values) & (read[0] != 4) for array in read]


@pytest.mark.parametrize("regions", [False, True])
def test_rows_agree_with_nnunet_and_leave_out_what_is_not_annotated(tmp_path, write_set, regions):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    root = write_set(tmp_path, regions)
    content = json.loads((root / "predictions" / "dataset.json").read_text())
    labels, cases = content["labels"], content["mastpro"]["cases"]
    names = foreground_labels({"labels": labels})
    outputs = [tuple(labels[name]) if isinstance(labels[name], list) else labels[name] for name in names]
    found = read_set(root)
    rows = iter(found["rows"])
    voxel_ml = np.prod(SPACING_MM) / 1000
    for case, told in cases.items():
        files = [str(root / folder / f"{case}.nii.gz") for folder in FOLDERS]
        theirs = compute_metrics(*files, SimpleITKIO(), outputs, labels.get("ignore"))["metrics"]
        for name, output in zip(names, outputs, strict=True):
            row, expected = next(rows), theirs[output]
            annotated = name in told.get("annotated", names)
            assert (row["case"], row["class"], row["annotated"]) == (case, name, annotated)
            assert row["source"] == told.get("source")
            if not annotated:
                assert {row[key] for key in ("Dice", "NSD", "HD95_mm", "reference_ml", "lesions", "bands")} == {None}
                continue
            assert row["Dice"] == (None if np.isnan(expected["Dice"]) else pytest.approx(expected["Dice"]))
            assert row["reference_ml"] == pytest.approx(expected["n_ref"] * voxel_ml)
            assert row["prediction_ml"] == pytest.approx(expected["n_pred"] * voxel_ml)
            ignored = sitk.GetArrayFromImage(sitk.ReadImage(files[0])) == 4
            alone = score(*masks(root, case, output), SPACING_MM[::-1], 2.0, ignored)
            assert row["NSD"] == (None if np.isnan(alone["NSD"]) else alone["NSD"])
            assert row["HD95_mm"] == (None if np.isnan(alone["HD95_mm"]) else alone["HD95_mm"])
    assert next(rows, None) is None
    json.dumps(found, allow_nan=False)


def test_summary_is_what_the_rows_say(folders):
    found = read_set(folders)
    dice = {(row["case"], row["class"]): row["Dice"] for row in found["rows"]}
    classes, macro = found["summary"]["classes"], found["summary"]["macro"]
    liver = [dice[case, "liver"] for case in CASES]
    tumor = [dice[case, "liver_tumor"] for case in ("p1_a", "p1_b", "p3_a")]
    lung = [dice[case, "lung_tumor"] for case in ("p2_a", "p2_b", "p3_a")]
    assert tumor[1] == lung[0] == lung[1] == 0  # made up, missed, made up
    means = [np.mean(values) for values in (liver, tumor, lung)]
    assert [classes[name]["Dice"]["mean"] for name in found["classes"]] == pytest.approx(means)
    assert macro["classes"]["Dice"]["mean"] == pytest.approx(np.mean(means))
    assert macro["tumours"]["Dice"]["mean"] == pytest.approx(np.mean(means[1:]))
    sources = {
        "One": [np.mean(liver[:2]), np.mean(tumor[:2])],
        "Two": [np.mean(liver[2:4]), np.mean(lung[:2])],
        "this data set": [liver[4], tumor[2], lung[2]],
    }
    assert macro["sources"]["Dice"]["mean"] == pytest.approx(np.mean([np.mean(each) for each in sources.values()]))
    for source, expected in sources.items():
        shown = [
            found["summary"]["sources"][source][name]["Dice"]["mean"] for name in found["summary"]["sources"][source]
        ]
        assert shown == pytest.approx(expected)
    counts = ("annotated", "with", "left_out", "empty_in_both", "missed", "made_up")
    assert [classes["liver_tumor"][key] for key in counts] == [3, 2, 2, 0, 0, 1]
    assert [classes["lung_tumor"][key] for key in counts] == [3, 2, 2, 0, 1, 1]
    assert classes["lung_tumor"]["HD95_mm"]["cases"] == 1  # undefined where one of both is empty
    for entry in [*(classes[name]["Dice"] for name in classes), macro["classes"]["Dice"]]:
        assert entry["low"] <= entry["mean"] <= entry["high"]


def test_a_case_whose_ignored_voxels_may_hide_a_tumour_is_not_known_to_be_without_it(tmp_path, write_set):
    found = read_set(write_set(tmp_path, regions=True))
    tumor = found["summary"]["classes"]["liver_tumor"]
    assert all(row["has_ignored"] for row in found["rows"] if row["annotated"])
    assert (tumor["made_up"], tumor["without"]["cases"], tumor["cases_with_false_lesions"]) == (1, 0, 1)
    assert tumor["without"]["false_lesions"]["mean"] is None


def test_lesions_and_false_positives(folders):
    found = read_set(folders)
    tumor, lung = (found["summary"]["classes"][name] for name in ("liver_tumor", "lung_tumor"))
    small, voxel_ml = tumor["bands"]["<10 mm"], np.prod(SPACING_MM) / 1000
    assert (small["lesions"], small["lesions_predicted"], small["lesions_false"]) == (2, 3, 1)
    assert tumor["bands"]["10-20 mm"]["lesions"] == 2
    assert tumor["precision"]["mean"] == pytest.approx(
        1 - 1 / sum(b["lesions_predicted"] for b in tumor["bands"].values())
    )
    assert tumor["false_lesions"]["mean"] == pytest.approx(1 / 3)
    assert tumor["false_lesions_ml"]["mean"] == pytest.approx(8 * voxel_ml / 3)
    assert tumor["without"]["cases"] == tumor["without"]["cases_with_false_lesions"] == 1
    assert tumor["without"]["false_lesions_ml"]["mean"] == pytest.approx(8 * voxel_ml)
    assert lung["sensitivity"]["mean"] == 0.5
    assert lung["cases_with_false_lesions"] == 2
    assert [row["has_ignored"] for row in found["rows"] if row["annotated"]] == [False] * 11
    assert found["summary"]["classes"]["liver"].keys().isdisjoint({"bands", "sensitivity", "false_lesions"})


def test_lesion_overlap_and_tolerance_are_used(folders):
    strict, plain = read_set(folders, lesion_overlap=1.0, tolerance_mm=0.0), read_set(folders)
    assert strict["summary"]["classes"]["liver_tumor"]["sensitivity"]["mean"] < 1
    assert strict["summary"]["classes"]["liver"]["NSD"]["mean"] < plain["summary"]["classes"]["liver"]["NSD"]["mean"]


def test_patients_are_drawn(folders):
    by_patient, by_case = read_set(folders, patients="^(p[0-9]+)_"), read_set(folders)
    assert (by_patient["units"], by_case["units"]) == ("patients", "cases")
    assert {row["unit"] for row in by_patient["rows"]} == {"p1", "p2", "p3"}
    ours, theirs = (found["summary"]["classes"]["liver"]["Dice"] for found in (by_patient, by_case))
    assert ours["mean"] == theirs["mean"]
    assert (ours["low"], ours["high"]) != (theirs["low"], theirs["high"])


def test_one_slice_has_no_volume(folders, write_label):
    for name in CASES:
        for folder in FOLDERS:
            path = folders / folder / f"{name}.nii.gz"
            write_label(path, sitk.GetArrayFromImage(sitk.ReadImage(path))[2:3])
    found = read_set(folders)
    assert (
        {row["reference_ml"] for row in found["rows"]} == {row["false_lesions_ml"] for row in found["rows"]} == {None}
    )
    assert found["summary"]["classes"]["liver"]["Dice"]["cases"] == 5


def test_command_writes_json_csv_and_a_table(folders, run_command):
    command = ["mastpro", "evaluate", "-ref", folders / "labels", "-pred", folders / "predictions", "-np", "2"]
    done = run_command([*command, "-o", folders / "new" / "results"])
    written = folders / "new" / "results"
    assert sorted(path.name for path in written.iterdir()) == ["evaluation.csv", "evaluation.json"]
    result = json.loads((written / "evaluation.json").read_text())
    assert result == read_set(folders)
    rows = list(csv.DictReader((written / "evaluation.csv").open()))
    assert len(rows) == len(result["rows"]) == 15
    for told, row in zip(rows, result["rows"], strict=True):
        assert told["Dice"] == ("" if row["Dice"] is None else str(row["Dice"]))
    dice = result["summary"]["classes"]["liver"]["Dice"]
    assert f"liver            {dice['mean']:.3f} ({dice['low']:.3f} to {dice['high']:.3f})" in done.stdout
    for text in ("mean of tumours", "mean of sources", "liver_tumor  <10 mm", "lung_tumor   without it", "Two "):
        assert text in done.stdout
    assert (
        "Intervals from fewer than 8 cases miss the true mean more often than they say; take these as a hint.\n"
        in done.stdout
    )
    assert "lower is better for HD95" in done.stdout
    assert "5/5" in done.stderr
    assert "arning" not in done.stderr


@pytest.mark.parametrize("shift_mm", [0.01, 0.02])
def test_an_origin_may_be_off_by_a_hundredth_of_a_voxel(folders, write_label, run_evaluate, capsys, shift_mm):
    """1.5 mm at the least here."""
    path = folders / "labels" / "p1_a.nii.gz"
    write_label(path, sitk.GetArrayFromImage(sitk.ReadImage(path)), origin=(3.0 + shift_mm, -7.0, 11.0))
    assert run_evaluate(folders) == (0 if shift_mm == 0.01 else 2)
    assert ("does not lie on its reference" in capsys.readouterr().err) == (shift_mm == 0.02)


def test_one_slice_is_flat_whichever_axis_it_lies_along(tmp_path, write_set):
    """Its faces are no surface."""
    found = []
    for axis in range(3):
        root = write_set(tmp_path / str(axis))
        for folder in ("labels", "predictions"):
            for path in (root / folder).glob("*.nii.gz"):
                slice_ = sitk.GetArrayFromImage(sitk.ReadImage(path))[4]
                image = sitk.GetImageFromArray(np.moveaxis(slice_[None], 0, axis))
                spacing_mm = [2.0, 1.5]  # x, y of the slice
                spacing_mm.insert(2 - axis, 4.0)
                image.SetSpacing(spacing_mm)
                sitk.WriteImage(image, path)
        found.append(
            [
                {**row, "bands": row["bands"] and [*row["bands"].items()]}
                for row in read_set(root, tolerance_mm=0.0)["rows"]
            ]
        )
    assert found[0] == found[1] == found[2]
    assert found[0][0]["reference_ml"] is None
    assert 0 < found[0][0]["NSD"] < 1


def test_default_output_and_dataset_beside_the_labels(folders, run_evaluate):
    (folders / "predictions" / "dataset.json").rename(folders / "dataset.json")
    assert run_evaluate(folders) == 0
    assert json.loads((folders / "predictions" / "evaluation.json").read_text())["classes"][0] == "liver"
    assert run_evaluate(folders, "-d", folders / "dataset.json") == 0  # replaces it


def test_tumour_that_a_case_does_not_annotate_counts_as_its_organ(folders, write_label):
    """Source Two labels the liver with its tumours in it: who predicts one there must not lose liver for it."""
    before = read_set(folders)["rows"]
    path = folders / "predictions" / "p2_a.nii.gz"
    values = sitk.GetArrayFromImage(sitk.ReadImage(path))
    assert (values[3, 6:9, 6:9] == 1).all()
    values[3, 6:9, 6:9] = 2
    write_label(path, values)
    assert read_set(folders)["rows"] == before
    content = path.with_name("dataset.json")
    content.write_text(json.dumps({**json.loads(content.read_text()), "mastpro": {}}))
    liver = next(row for row in read_set(folders)["rows"] if (row["case"], row["class"]) == ("p2_a", "liver"))
    assert liver["Dice"] < before[6]["Dice"]


def test_a_tumour_that_is_not_annotated_counts_as_the_organ_that_it_is_in(tmp_path):
    """Of two kidneys as the one around it: in the reference, or, outside of both, in the prediction."""
    truth = np.zeros((12, 20, 40), np.uint8)
    truth[3:9, 4:14, 3:12], truth[3:9, 4:14, 28:37] = 1, 2
    found = truth.copy()
    found[4:6, 6:9, 30:33] = 3  # in the right kidney
    found[9, 4:14, 3:12] = 1  # the left one, too large by a slice, in which
    found[9, 6:8, 5:7] = 3  # a tumour is marked
    for folder, values in (("labels", truth), ("predictions", found)):
        path = tmp_path / folder / "a.nii.gz"
        path.parent.mkdir()
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(SPACING_MM)
        sitk.WriteImage(image, str(path))
    labels = {"background": 0, "kidney_left": 1, "kidney_right": 2, "kidney_tumor": 3}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    content["mastpro"] = {"cases": {"a": {"annotated": ["kidney_left", "kidney_right"]}}}
    rows = evaluate(tmp_path / "labels", tmp_path / "predictions", content, workers=1)["rows"]
    assert [row["class"] for row in rows] == ["kidney_left", "kidney_right", "kidney_tumor"]
    left, slice_more = (truth == 1).sum(), 10 * 9
    assert rows[0]["Dice"] == pytest.approx(2 * left / (2 * left + slice_more))
    assert rows[0]["prediction_ml"] == pytest.approx((left + slice_more) * np.prod(SPACING_MM) / 1000)
    assert rows[1]["Dice"] == rows[1]["NSD"] == 1
    assert rows[1]["HD95_mm"] == 0
    assert not rows[2]["annotated"]


def test_chill_leaves_out_what_is_not_predicted(folders):
    (folders / "predictions" / "p2_a.nii.gz").unlink()
    found = read_set(folders, chill=True)
    assert [row["case"] for row in found["rows"]][::3] == ["p1_a", "p1_b", "p2_b", "p3_a"]


def test_without_a_tumour_type_the_table_says_so(folders, run_evaluate, capsys):
    path = folders / "predictions" / "dataset.json"
    content = json.loads(path.read_text())
    organs = {name: {"sentence": f"The {name}.", "is_tumor": False} for name in ("liver_tumor", "lung_tumor")}
    path.write_text(json.dumps({**content, "mastpro": {"prompts": organs}}))
    assert run_evaluate(folders) == 0
    shown = capsys.readouterr().out
    assert "No class is a tumour type" in shown
    assert "Lesions" not in shown


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_cases_that_nobody_described_are_told_and_may_be_described(folders, tmp_path, capsys, command):
    """The test cases of a merged data set, which names its training cases."""
    path = folders / "predictions" / "dataset.json"
    content = json.loads(path.read_text())
    entries = {name: content["mastpro"]["cases"].pop(name) for name in ("p2_a", "p2_b")}
    path.write_text(json.dumps(content))
    shutil.copytree(folders / "predictions", folders / "others")
    predictions = [folders / "predictions", *([folders / "others"] if command == "compare" else [])]
    given = ["-ref", folders / "labels", "-pred", *predictions, "-np", "1", "-o", tmp_path / "scores"]
    assert cli.main([command, *map(str, given)]) == 0
    assert "warning: 2 of 5 cases are not in mastpro.cases" in capsys.readouterr().out
    (tmp_path / "cases.json").write_text(json.dumps(entries))
    assert cli.main([command, *map(str, given), "--cases", str(tmp_path / "cases.json")]) == 0
    assert "warning" not in capsys.readouterr().out
    if command == "evaluate":
        rows = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["rows"]
        assert not [row for row in rows if row["case"] == "p2_a" and row["class"] == "liver_tumor" and row["annotated"]]


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_labels_of_another_data_set_are_told(folders, write_label, tmp_path, capsys, command):
    """Their values are known here and mean something else: classes that the case does not annotate."""
    file = folders / "labels" / "p2_a.nii.gz"
    values = sitk.GetArrayFromImage(sitk.ReadImage(file))
    values[0, 0, :3] = 2  # a liver tumour, for which nobody looked
    write_label(file, values)
    shutil.copytree(folders / "predictions", folders / "others")
    predictions = [folders / "predictions", *([folders / "others"] if command == "compare" else [])]
    given = ["-ref", folders / "labels", "-pred", *predictions, "-np", "1", "-o", tmp_path / "scores"]
    assert cli.main([command, *map(str, given)]) == 0
    told = "warning: the references of 1 of 5 cases hold classes that these do not annotate, by dataset.json, and that"
    assert told in capsys.readouterr().out
    name = "evaluation" if command == "evaluate" else "comparison"
    assert json.loads((tmp_path / "scores" / f"{name}.json").read_text())["unexpected"] == ["p2_a"]

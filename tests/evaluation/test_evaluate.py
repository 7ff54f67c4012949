"""`mastpro evaluate` from folders to numbers, against nnU-Net's own evaluation and hand counts; what it refuses."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation.evaluate import evaluate
from nnunetv2_mastpro.evaluation.metrics import score
from nnunetv2_mastpro.prompts.resolve import foreground_labels

SHAPE, SPACING_MM = (8, 20, 16), (2.0, 1.5, 4.0)  # z y x; x y z
LABELS = {"background": 0, "liver": 1, "liver_tumor": 2, "lung_tumor": 3}
REGIONS = {"background": 0, "liver": [1, 2], "liver_tumor": 2, "lung_tumor": 3, "ignore": 4}
ONE = {"source": "One", "annotated": ["liver", "liver_tumor"]}
TWO = {"source": "Two", "annotated": ["liver", "lung_tumor"]}
CASES = {"p1_a": ONE, "p1_b": ONE, "p2_a": TWO, "p2_b": TWO, "p3_a": {}}  # the last annotates everything


def write_image(path, values, spacing_mm=SPACING_MM, origin=(3.0, -7.0, 11.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin)
    sitk.WriteImage(image, path)


def make_case(name, rng, ignore):
    reference = np.zeros(SHAPE, np.uint8)
    reference[1:7, 2:14, 2:12] = 1
    if name in ("p1_a", "p3_a"):
        reference[2:5, 4:9, 4:8] = reference[5, 11:13, 9:11] = 2  # 11.1 and 4.5 mm
    if name in ("p2_a", "p3_a"):
        reference[2:5, 16:19, 12:15] = 3
    prediction = np.roll(reference, rng.integers(0, 2), 1)
    prediction[6:8, 17:19, 2:4] = 2 if name == "p1_b" else 3
    if name == "p2_a":
        prediction[prediction == 3] = 0
    if ignore:
        reference[:, :5, :] = 4
    return reference, prediction


def write_set(root, labels=LABELS, ending=".nii.gz"):
    """Folders `labels` and `predictions`, with a dataset.json in the second."""
    rng = np.random.default_rng(0)
    for name in CASES:
        for folder, values in zip(("labels", "predictions"), make_case(name, rng, "ignore" in labels), strict=True):
            write_image(root / folder / f"{name}{ending}", values)
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ending, "numTraining": 5}
    content |= {"mastpro": {"cases": CASES}}
    if labels is REGIONS:
        content["regions_class_order"] = [1, 2, 3]
    (root / "predictions" / "dataset.json").write_text(json.dumps(content))
    return root


def read_set(root, **options):
    content = json.loads((root / "predictions" / "dataset.json").read_text())
    return evaluate(root / "labels", root / "predictions", content, workers=1, **options)


def run(root, *arguments):
    given = ["-ref", root / "labels", "-pred", root / "predictions", "-np", "1"]
    return cli.main(["evaluate", *map(str, given), *map(str, arguments)])


def masks(root, case, values):
    read = [sitk.GetArrayFromImage(sitk.ReadImage(root / folder / f"{case}.nii.gz")) for folder in FOLDERS]
    return [np.isin(array, values) & (read[0] != 4) for array in read]


FOLDERS = ("labels", "predictions")


@pytest.fixture
def folders(tmp_path):
    return write_set(tmp_path)


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions and ignore"])
def test_rows_agree_with_nnunet_and_leave_out_what_is_not_annotated(tmp_path, labels):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    root = write_set(tmp_path, labels)
    names = foreground_labels({"labels": labels})
    outputs = [tuple(labels[name]) if isinstance(labels[name], list) else labels[name] for name in names]
    found = read_set(root)
    rows = iter(found["rows"])
    voxel_ml = np.prod(SPACING_MM) / 1000
    for case, told in CASES.items():
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
            alone = score(*masks(root, case, output), SPACING_MM[::-1], 2.0)
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
    assert tumor["false_positive_ml"]["mean"] == pytest.approx(8 * voxel_ml / 3)
    assert tumor["without"]["cases"] == tumor["without"]["cases_with_false_lesions"] == 1
    assert tumor["without"]["false_positive_ml"]["mean"] == pytest.approx(8 * voxel_ml)
    assert lung["sensitivity"]["mean"] == 0.5
    assert lung["cases_with_false_lesions"] == 2
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


def test_one_slice_has_no_volume(tmp_path):
    root = write_set(tmp_path)
    for name in CASES:
        for folder in FOLDERS:
            path = root / folder / f"{name}.nii.gz"
            write_image(path, sitk.GetArrayFromImage(sitk.ReadImage(path))[2:3])
    found = read_set(root)
    assert (
        {row["reference_ml"] for row in found["rows"]} == {row["false_positive_ml"] for row in found["rows"]} == {None}
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
    assert "5/5" in done.stderr
    assert "arning" not in done.stderr


def test_default_output_and_dataset_beside_the_labels(folders):
    (folders / "predictions" / "dataset.json").rename(folders / "dataset.json")
    assert run(folders) == 0
    assert json.loads((folders / "predictions" / "evaluation.json").read_text())["classes"][0] == "liver"
    assert run(folders, "-d", folders / "dataset.json") == 0  # replaces it


def remove_case(folder):
    return lambda root: (root / folder / "p2_a.nii.gz").unlink()


def rewrite(folder, change, **geometry):
    def spoil(root):
        path = root / folder / "p2_a.nii.gz"
        values = sitk.GetArrayFromImage(sitk.ReadImage(path))
        write_image(path, change(values), **geometry)

    return spoil


def truncate(root):
    path = root / "predictions" / "p2_a.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def empty(folder):
    def spoil(root):
        for path in (root / folder).glob("*.nii.gz"):
            path.unlink()

    return spoil


def edit_dataset(**entries):
    def spoil(root):
        path = root / "predictions" / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return spoil


def same(values):
    return values


BAD = {
    "missing case": (remove_case("predictions"), [], r"lacks 1 of 5 cases, p2_a; .*--chill"),
    "no reference": (remove_case("labels"), [], r"has no reference of 1 predicted cases, p2_a; "),
    "other shape": (rewrite("predictions", lambda v: v[:-1]), [], r"p2_a.* does not lie on .*shape \(7, 20, 16\)"),
    "other spacing": (rewrite("predictions", same, spacing_mm=(2.0, 1.5, 5.0)), [], r"spacing \(5, 1.5, 2\), not"),
    "other origin": (rewrite("predictions", same, origin=(3.0, -7.0, 12.0)), [], r"origin \(3, -7, 12\), not"),
    "unknown label": (
        rewrite("predictions", lambda v: v * 7),
        [],
        r"p2_a.* the values 7, the labels of dataset.json are 0, 1, 2, 3; map",
    ),
    "unknown label in the reference": (
        rewrite("labels", lambda v: v + 3),
        [],
        r"labels/p2_a.* has the values 4, 6, the labels",
    ),
    "no label map": (rewrite("predictions", lambda v: v + np.float32(0.5)), [], "not whole numbers"),
    "damaged file": (truncate, [], r"p2_a.nii.gz is damaged or ends early"),
    "no predictions": (empty("predictions"), [], r"predictions has no files that end with .nii.gz"),
    "no references": (empty("labels"), [], r"labels has no files that end with .nii.gz"),
    "no folder": (lambda root: shutil.rmtree(root / "labels"), [], r"labels is no folder"),
    "no dataset.json": (lambda root: (root / "predictions" / "dataset.json").unlink(), [], "name the data set with -d"),
    "unknown data set": (lambda root: None, ["-d", "997"], "no single dataset 997"),
    "bad cases": (edit_dataset(mastpro={"cases": {"p1_a": {"annotated": ["livr"]}}}), [], 'did you mean "liver"'),
    "no file ending": (edit_dataset(file_ending=None), [], 'no "file_ending"'),
    "bad tolerance": (lambda root: None, ["--tolerance-mm", "-1"], "the tolerance -1 is no distance"),
    "bad overlap": (lambda root: None, ["--lesion-overlap", "1.5"], "the lesion overlap 1.5 is no share"),
    "bad pattern": (lambda root: None, ["--patients", "p[0-9]"], "--patients has 0 groups"),
    "pattern of nothing": (lambda root: None, ["--patients", "^(x)"], "finds no patient in the cases, such as p1_a"),
    "bad processes": (lambda root: None, ["-np", "0"], "-np 0 is below 1"),
    "output is a file": (
        lambda root: None,
        ["-o", "{root}/labels/p1_a.nii.gz"],
        "p1_a.nii.gz is a file; give -o a folder",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(folders, capsys, monkeypatch, name):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(folders))
    spoil, arguments, message = BAD[name]
    (folders / "predictions" / "evaluation.json").write_text("of an earlier run")
    spoil(folders)
    before = {path: path.stat().st_mtime_ns for path in folders.rglob("*")}
    assert run(folders, *(argument.format(root=folders) for argument in arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "mastpro: error: " in line]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert "Traceback" not in "".join(lines)
    assert {path: path.stat().st_mtime_ns for path in folders.rglob("*")} == before


def test_predictions_of_other_labels_are_refused(folders, capsys):
    content = json.loads((folders / "predictions" / "dataset.json").read_text())
    swapped = {**content, "labels": {**LABELS, "liver_tumor": 3, "lung_tumor": 2}}
    (folders / "dataset.json").write_text(json.dumps(swapped))
    assert run(folders, "-d", folders / "dataset.json") == 2
    assert "map the values of the predictions" in capsys.readouterr().err


def test_chill_leaves_out_what_is_not_predicted(folders):
    remove_case("predictions")(folders)
    found = read_set(folders, chill=True)
    assert [row["case"] for row in found["rows"]][::3] == ["p1_a", "p1_b", "p2_b", "p3_a"]

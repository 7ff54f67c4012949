"""`mastpro compare`: differences, tests and files of prediction folders whose scores are known."""

import csv
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import stats

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation import tables

CASES = [f"case_{index}" for index in range(9)]
LABELS = {"background": 0, "liver": 1, "liver_tumor": 2}
PNG = b"\x89PNG\r\n\x1a\n"


def write_image(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.uint8)), path)


def make_prediction(reference, missing, rng):
    """Some rows less of the liver, and a made-up tumour in one case."""
    prediction = reference.copy()
    prediction[:, 10 - missing : 10] = 0
    if rng.random() < 0.5:
        prediction[1, 12, 12] = 2
    return prediction


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """labels; good, bad (worse in each case) and again (equal to good)."""
    root = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    for index, case in enumerate(CASES):
        reference = np.zeros((4, 14, 14))
        reference[1:3, 2:10, 2:10] = 1
        if index % 3:
            reference[1:3, 3:6, 3:6] = 2
        write_image(root / "labels" / f"{case}.nii.gz", reference)
        good = make_prediction(reference, index % 2, rng)
        bad = make_prediction(reference, 3 + index % 3, rng)
        for name, prediction in (("good", good), ("bad", bad), ("again", good)):
            write_image(root / name / f"{case}.nii.gz", prediction)
    content = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 9}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def run(root, *arguments, names=("good", "bad", "again"), output="output"):
    given = ["-ref", root / "labels", "-pred", *(root / name for name in names), "-np", "1", "-o", root / output]
    return cli.main(["compare", *map(str, given), *map(str, arguments)])


@pytest.fixture(scope="module")
def result(folders):
    assert run(folders, output="shared") == 0
    return json.loads((folders / "shared" / "comparison.json").read_text())


def rows_of(result, metric, name):
    return {row["class"]: row for row in result["differences"] if (row["metric"], row["name"]) == (metric, name)}


def dice_of(root, name, value):
    found = []
    for case in CASES:
        masks = [sitk.GetArrayFromImage(sitk.ReadImage(root / f / f"{case}.nii.gz")) == value for f in ("labels", name)]
        total = sum(mask.sum() for mask in masks)
        found.append(2 * (masks[0] & masks[1]).sum() / total if total else np.nan)
    return np.array(found)


@pytest.mark.parametrize(("label", "value"), [("liver", 1), ("liver_tumor", 2)])
def test_differences_are_paired_by_case(folders, result, label, value):
    good, bad = (dice_of(folders, name, value) for name in ("good", "bad"))
    both = ~np.isnan(good) & ~np.isnan(bad)
    row = rows_of(result, "Dice", "bad")[label]
    assert (row["cases"], row["unpaired"]) == (both.sum(), (np.isnan(good) ^ np.isnan(bad)).sum())
    assert row["mean_first"] == pytest.approx(good[both].mean())
    assert row["mean"] == pytest.approx(bad[both].mean())
    assert row["difference"] == pytest.approx((bad - good)[both].mean())
    assert row["p"] == pytest.approx(stats.wilcoxon((bad - good)[both]).pvalue)
    assert row["low"] <= row["difference"] <= row["high"]


def test_the_interval_is_of_differences_not_of_scores(result):
    """Cases differ more from each other than the two predictions do in a case."""
    row = rows_of(result, "Dice", "bad")["liver"]
    summary = result["summaries"]["bad"]["classes"]["liver"]["Dice"]
    assert row["high"] < 0
    assert row["p"] < 0.01
    assert row["high"] - row["low"] != pytest.approx(summary["high"] - summary["low"])


def test_equal_predictions_do_not_differ(result):
    for metric in ("Dice", "NSD", "HD95_mm", "false_lesions", "false_lesions_ml"):
        for label, row in rows_of(result, metric, "again").items():
            assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
            assert row["p"] == (None if label is None else 1)


def test_holm_is_over_classes_and_others(result):
    found = [row for row in result["differences"] if row["metric"] == "Dice" and row["class"] is not None]
    smallest = min(found, key=lambda row: row["p"])
    assert len(found) == 4
    assert smallest["p_holm"] == pytest.approx(min(1, 4 * smallest["p"]))
    assert all(row["p_holm"] >= row["p"] for row in found)


def test_few_pairs_of_many_cases_are_told():
    def row(metric, units, low=0.1):
        return {"metric": metric, "class": "liver", "name": "B", "units": units, "low": low}

    result = {"units": "cases", "number_of_units": 12, "differences": [row("Dice", 12), row("HD95_mm", 3)]}
    (told,) = tables.too_few_pairs(result)
    assert told.endswith("take these as a hint: HD95_mm of liver for B (3).")
    assert tables.too_few_pairs({**result, "differences": [row("Dice", 12), row("HD95_mm", 1, None)]}) == []


def test_mean_of_classes(result):
    rows = rows_of(result, "Dice", "bad")
    assert rows[None]["difference"] == pytest.approx(
        np.mean([rows[label]["difference"] for label in LABELS if label in rows])
    )
    assert rows[None]["p"] is None
    assert None not in rows_of(result, "false_lesions", "bad")  # one tumour class: nothing to average


def test_files(folders, result, capsys):
    assert run(folders, "--names", "ours", "a | b", names=("good", "bad"), output="named") == 0
    shown = capsys.readouterr().out
    assert "HD95 and false findings when lower" in shown
    assert "as a hint: Dice of liver_tumor for a | b (6), Dice of the mean of classes for a | b (6)," in shown
    written = folders / "named"
    assert sorted(path.name for path in written.iterdir()) == [
        f"comparison.{end}" for end in ("csv", "json", "md", "png")
    ]
    assert (written / "comparison.png").read_bytes().startswith(PNG)
    assert (written / "comparison.md").read_text() in shown
    row = rows_of(json.loads((written / "comparison.json").read_text()), "Dice", "a | b")["liver"]
    line = next(line for line in shown.splitlines() if re.match(r"\| Dice +\| liver +\|", line))
    assert f"| {row['difference']:+.3f}" in line
    assert line.replace("\\|", "").count("|") == 11
    with (written / "comparison.csv").open() as file:
        told = next(csv.DictReader(file))
    assert (told["class"], float(told["difference"])) == ("liver", row["difference"])


def test_the_picture_shows_all_of_it(result):
    from matplotlib.figure import Figure

    from nnunetv2_mastpro.evaluation import plot

    figure = plot.figure_of(result)
    assert isinstance(figure, Figure)
    texts = {text.get_text() for axes in figure.axes for text in axes.get_yticklabels()}
    assert texts == {"liver", "liver_tumor", "mean of classes"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["good", "bad", "again"]
    middle = [container.lines[0].get_xdata()[0] for container in figure.axes[0].containers]
    expected = [result["summaries"][name]["classes"]["liver"]["Dice"]["mean"] for name in ("good", "bad", "again")]
    assert middle == pytest.approx(expected)
    change = [container.lines[0].get_xdata()[0] for container in figure.axes[3].containers]
    assert change == pytest.approx([rows_of(result, "Dice", name)["liver"]["difference"] for name in ("bad", "again")])


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (("good",), [], "-pred names one folder"),
        (("good", "good"), [], "names a folder twice"),
        (("good", "bad"), ["--names", "one"], "--names has 1 names for 2 folders"),
        (("good", "bad"), ["--names", "one", "one"], 'two folders are called "one"'),
        (("good", "nowhere"), [], "nowhere is no folder"),
        (("good", "fewer"), [], "fewer lacks 1 of 9 cases, case_4"),
        (("good", "fewer"), ["--chill"], "fewer lacks 1 cases that another has, case_4"),
        (("good", "shifted"), [], r"shifted/case_4.* does not lie on its reference"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(folders, capsys, names, arguments, message):
    for name in ("fewer", "shifted"):
        for case in CASES:
            values = sitk.GetArrayFromImage(sitk.ReadImage(folders / "good" / f"{case}.nii.gz"))
            if case == "case_4":
                values = values[1:]
            if (name, case) != ("fewer", "case_4"):
                write_image(folders / name / f"{case}.nii.gz", values)
    assert run(folders, *arguments, names=names, output="refused") == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "mastpro: error: " in line]
    assert re.search(message, error)
    assert not (folders / "refused").exists()

"""`mastpro merge --test`: the sources' labelled test cases."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.tasks import read_cases, with_cases

from .conftest import COLON, KIDNEY, LIVER, SHAPE, check_refused, write

BOX = slice(3, 7)


def add_tests(sources, name, cases, value=1, where=BOX):
    """`cases`: name -> seed of the image."""
    for case, seed in cases.items():
        for part in ("imagesTs", "labelsTs"):
            (sources.raw / name / part).mkdir(exist_ok=True)
        label = np.zeros(SHAPE, np.uint8)
        label[2:8, 2:8, where] = value
        image = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
        write(image, sources.raw / name / "imagesTs" / f"{case}_0000.nii.gz")
        write(label, sources.raw / name / "labelsTs" / f"{case}.nii.gz")


def say(sources, name, test_cases):
    """As mastpro.test_cases of a data set."""
    file = sources.raw / name / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "mastpro": {**content.get("mastpro", {}), "test_cases": test_cases}}))


@pytest.fixture
def tested(three):
    add_tests(three, LIVER, {"liver_50": 50, "liver_51": 51})
    add_tests(three, KIDNEY, {"kidney_60": 60})
    (three.raw / KIDNEY / "labelsTs" / "kidney_61.nii.gz").write_bytes(b"of no image")
    return three


def values(sources, case):
    return np.unique(sitk.GetArrayFromImage(sitk.ReadImage(sources.merged.folder / "labelsTs" / f"{case}.nii.gz")))


def test_test_cases_have_merged_labels_and_say_who_annotated_what(tested, capsys):
    assert tested.merge("-d", 3, 6, 10, "--dry-run") == 0
    assert re.search(r"^note: \d labelled test cases are left out; --test merges them", capsys.readouterr().out, re.M)
    assert tested.merge("-d", 3, 6, 10, "--test") == 0
    content = tested.merged.content
    assert content["numTraining"] == len(content["dataset"]) == len(content["mastpro"]["cases"]) == 16
    assert content["mastpro"]["test_cases"] == {
        "liver_50": {"source": LIVER, "annotated": ["liver", "liver_tumor"]},
        "liver_51": {"source": LIVER, "annotated": ["liver", "liver_tumor"]},
        "kidney_60": {"source": KIDNEY, "annotated": ["kidney_tumor"]},
    }
    assert {path.name: path.resolve() for path in (tested.merged.folder / "imagesTs").iterdir()} == {
        f"{case}_0000.nii.gz": (tested.raw / name / "imagesTs" / f"{case}_0000.nii.gz").resolve()
        for case, name in (("liver_50", LIVER), ("liver_51", LIVER), ("kidney_60", KIDNEY))
    }
    assert values(tested, "liver_50").tolist() == [0, 1]
    assert values(tested, "kidney_60").tolist() == [0, 3]
    out = capsys.readouterr().out.splitlines()
    assert f"test cases: {KIDNEY} 1, {LIVER} 2" in out or f"test cases: {LIVER} 2, {KIDNEY} 1" in out
    assert f"warning: test cases left out, since imagesTs lacks their images: kidney_61 of {KIDNEY}" in out
    assert not read_cases(content, list(content["labels"])[1:]).sources.keys() & {"kidney_60"}  # training's
    known = read_cases(with_cases(content, None), list(content["labels"])[1:])
    assert known.annotated["kidney_60"] == ("kidney_tumor",)


def test_images_without_labels_are_told(tested, capsys):
    (tested.raw / LIVER / "labelsTs" / "liver_51.nii.gz").unlink()
    assert tested.merge("-d", 3, 6, "--test") == 0
    assert f"warning: 1 test images of {LIVER} have no labels" in capsys.readouterr().out.splitlines()


def test_without_the_option_test_cases_stay_where_they_are(tested):
    assert tested.merge("-d", 3, 6) == 0
    assert "test_cases" not in tested.merged.content["mastpro"]
    assert sorted(path.name for path in tested.merged.folder.iterdir()) == ["dataset.json", "labelsTr"]


def test_what_a_source_trains_on_is_no_test_case(tested, capsys):
    add_tests(tested, COLON, {"colon_70": 3, "colon_71": 71}, value=1)  # colon_70 is the image of liver_3
    path = tested.raw.parent / "map.json"
    path.write_text(json.dumps({"sources": {LIVER: {"patients": "^liver_5?([0-9])"}}}))  # liver_51 is of liver_1
    assert tested.merge("-d", 3, 6, 10, "--test", "--map", path) == 0
    assert sorted(tested.merged.content["mastpro"]["test_cases"]) == ["colon_71", "kidney_60"]
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: test cases")]
    (line,) = [line for line in found if "since a source trains on their image or patient" in line]
    for expected in (f"liver_50 of {LIVER}", f"liver_51 of {LIVER}", f"colon_70 of {COLON}"):
        assert expected in line


def test_what_an_excluded_test_case_is_tied_to_is_none_either(tested):
    """kidney_0b is of kidney_0's patient, and liver_52 is kidney_0b's image."""
    add_tests(tested, KIDNEY, {"kidney_0b": 90})
    add_tests(tested, LIVER, {"liver_52": 90})
    path = tested.raw.parent / "map.json"
    path.write_text(json.dumps({"sources": {KIDNEY: {"patients": "^(kidney_[0-9])"}}}))
    assert tested.merge("-d", 3, 6, "--test", "--map", path) == 0
    assert sorted(tested.merged.content["mastpro"]["test_cases"]) == ["kidney_60", "liver_50", "liver_51"]


def test_one_image_of_two_sources_is_one_test_case(tested):
    add_tests(tested, COLON, {"colon_80": 60}, where=slice(9, 12))  # kidney_60's image
    arguments = ["-d", 6, 10, "--prefix", "--test", "--link"]
    assert tested.merge(*arguments) == 0
    content = tested.merged.content
    entry = {"source": KIDNEY, "annotated": ["kidney_tumor", "colon cancer"]}
    assert content["mastpro"]["test_cases"] == {"D006_kidney_60": entry}
    assert content["mastpro"]["merge"]["duplicates"] == {"D006_kidney_60": [f"{KIDNEY}/kidney_60", f"{COLON}/colon_80"]}
    (image,) = (tested.merged.folder / "imagesTs").iterdir()
    assert image.readlink() == (tested.raw / KIDNEY / "imagesTs" / "kidney_60_0000.nii.gz").resolve()
    assert tested.merge(*arguments, "--duplicates", "keep") == 0  # a second time, too
    assert sorted(tested.merged.content["mastpro"]["test_cases"]) == ["D006_kidney_60", "D010_colon_80"]


def test_evaluation_leaves_out_what_a_test_case_does_not_annotate(tested, tmp_path, capsys):
    assert tested.merge("-d", 3, 6, "--test") == 0
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for case in ("liver_50", "liver_51", "kidney_60"):
        label = np.zeros(SHAPE, np.uint8)
        label[2:8, 2:8, BOX] = 1
        label[0, 0, 0] = 3  # a kidney tumour, of which the liver cases say nothing
        write(label, predictions / f"{case}.nii.gz")
    older = {**tested.merged.content, "mastpro": {"cases": tested.merged.content["mastpro"]["cases"]}}
    (predictions / "dataset.json").write_text(json.dumps(older))  # of a model that was trained before
    arguments = ["-ref", tested.merged.folder / "labelsTs", "-pred", predictions, "-o", tmp_path / "out"]
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, arguments), "-np", "1"]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    classes = result["summary"]["classes"]
    assert (classes["kidney_tumor"]["annotated"], classes["kidney_tumor"]["left_out"]) == (1, 2)
    assert (classes["liver"]["annotated"], classes["liver"]["Dice"]["mean"]) == (2, 1.0)
    assert result["presumed_complete"] == []
    assert "warning" not in capsys.readouterr().out


def test_a_later_merge_makes_them_anew(tested):
    assert tested.merge("-d", 3, 6, "--test") == 0
    add_tests(tested, COLON, {"colon_80": 80})
    assert tested.merge("-d", 3, 10, "--map", dropped(tested)) == 0
    assert sorted(tested.merged.content["mastpro"]["test_cases"]) == ["colon_80", "liver_50", "liver_51"]
    names = sorted(path.name for path in (tested.merged.folder / "labelsTs").iterdir())
    assert names == ["colon_80.nii.gz", "liver_50.nii.gz", "liver_51.nii.gz"]
    assert values(tested, "colon_80").tolist() == [0, 3]


def dropped(sources):
    """Colon's class in the place of the kidney's, whose source is left out."""
    path = sources.raw.parent / "colon.json"
    path.write_text(json.dumps({"sources": {COLON: {"labels": {"colon cancer": "kidney_tumor"}}}}))
    return path


def test_a_first_run_with_the_option_that_was_interrupted_can_be_run_again(tested, monkeypatch):
    assert tested.merge("-d", 3, 6, 10) == 0
    moved = []

    def replace(source, target, rename=os.replace):
        if moved[-1:] == ["labelsTs"]:
            raise KeyboardInterrupt
        rename(source, target)
        moved.append(Path(target).name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert tested.merge("-d", 3, 6, 10, "--test") == 130
    assert (tested.merged.folder / "labelsTs").is_dir()
    assert tested.merge("-d", 3, 6, 10, "--test") == 0
    assert len(tested.merged.content["mastpro"]["test_cases"]) == 3


def test_a_merged_source_hands_its_test_cases_on(tested):
    assert tested.merge("-d", 3, 6, "--test") == 0
    assert tested.merge("-d", 900, 10, "--test", output="901", name="Again") == 0
    content = json.loads((tested.raw / "Dataset901_Again" / "dataset.json").read_text())
    assert content["mastpro"]["test_cases"]["kidney_60"] == {"source": KIDNEY, "annotated": ["kidney_tumor"]}


def test_a_merge_that_has_none_left_says_so(tested, capsys):
    assert tested.merge("-d", 3, 6, "--test") == 0
    for name in (LIVER, KIDNEY):
        shutil.rmtree(tested.raw / name / "labelsTs")
    assert tested.merge("-d", 3, 6) == 0
    assert "test cases: none" in capsys.readouterr().out.splitlines()
    assert tested.merged.content["mastpro"]["test_cases"] == {}
    assert not [*(tested.merged.folder / "labelsTs").iterdir(), *(tested.merged.folder / "imagesTs").iterdir()]
    add_tests(tested, KIDNEY, {"kidney_70": 70})
    assert tested.merge("-d", 3, 6) == 0  # it was asked for them once
    assert [*tested.merged.content["mastpro"]["test_cases"]] == ["kidney_70"]


def test_test_cases_of_the_users_own_stay(tested):
    assert tested.merge("-d", 3, 6) == 0
    own = {"mine": {"annotated": ["liver"]}}
    say(tested, "Dataset900_PanTumour", own)
    (tested.merged.folder / "labelsTs").mkdir()
    (tested.merged.folder / "labelsTs" / "mine.nii.gz").write_bytes(b"mine")
    assert tested.merge("-d", 3, 6) == 0
    assert tested.merged.content["mastpro"]["test_cases"] == own
    assert (tested.merged.folder / "labelsTs" / "mine.nii.gz").read_bytes() == b"mine"


def test_a_merged_sources_test_case_of_which_nothing_is_said_is_left_out(three, capsys):
    assert three.merge("-d", 3, 6) == 0
    add_tests(three, "Dataset900_PanTumour", {"own_1": 91, "own_2": 92})
    say(three, "Dataset900_PanTumour", {"own_2": {"annotated": ["liver"]}})
    assert three.merge("-d", 900, 10, "--test", output="901", name="Again") == 0
    content = json.loads((three.raw / "Dataset901_Again" / "dataset.json").read_text())
    assert {name: entry["annotated"] for name, entry in content["mastpro"]["test_cases"].items()} == {
        "own_2": ["liver"]
    }
    assert "mastpro.test_cases does not say what they annotate" in capsys.readouterr().out


def test_damaged_test_images_are_beside_the_point_without_the_option(tested):
    for image in (tested.raw / LIVER / "imagesTs").iterdir():
        image.write_bytes(b"")
    assert tested.merge("-d", 3, 6) == 0


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("none", "no source has cases in imagesTs whose labels are in labelsTs"),
        ("name", "test cases have the names of training cases: liver_2; rename the files, or"),
        ("classes", "no test case is left: test cases left out, since they annotate no class that is kept: liver_50"),
        ("disputed", 'are one image, where the same voxels are "liver" and "kidney_tumor"'),
        (
            "seen",
            "no test case is left: test cases left out, since a source trains on their image or patient: kidney_50",
        ),
        ("training", f"mastpro.test_cases of source {KIDNEY} names training cases: kidney_3"),
        ("class", 'mastpro.test_cases["kidney_9"] in dataset.json: "kidny" is no class of the data set'),
        ("values", "holds the labels 7, which its dataset.json does not declare"),
        ("folder", "labelsTs is there and was not written by mastpro merge --test"),
        ("files", "imagesTs holds more than the links of a merge: mine_0000.nii.gz; move"),
        ("section", "mastpro.test_cases in dataset.json is [], make it an object"),
    ],
)
def test_refusals(three, capsys, setting, match):
    datasets = ["-d", 3, 6]
    if setting in ("folder", "files"):
        add_tests(three, LIVER, {"liver_50": 50})
        assert three.merge(*datasets, *(["--test"] if setting == "files" else [])) == 0
        (three.merged.folder / "labelsTs").mkdir(exist_ok=True)
        if setting == "files":
            (three.merged.folder / "imagesTs" / "mine_0000.nii.gz").write_bytes(b"")
    elif setting == "name":
        add_tests(three, KIDNEY, {"liver_2": 50})
    elif setting == "classes":
        add_tests(three, LIVER, {"liver_50": 50})
        say(three, LIVER, {"liver_50": {"annotated": ["liver_tumor"]}})
        path = three.raw.parent / "map.json"
        path.write_text(json.dumps({"sources": {LIVER: {"labels": {"liver_tumor": None}}}}))
        datasets += ["--map", path]
    elif setting == "disputed":
        add_tests(three, LIVER, {"liver_50": 50})
        add_tests(three, KIDNEY, {"kidney_50": 50})
    elif setting == "seen":
        add_tests(three, KIDNEY, {"kidney_50": 13})
    elif setting == "training":
        say(three, KIDNEY, {"kidney_3": {"annotated": ["kidney_tumor"]}})
    elif setting == "class":
        say(three, KIDNEY, {"kidney_9": {"annotated": ["kidny"]}})
    elif setting == "values":
        add_tests(three, KIDNEY, {"kidney_50": 50}, value=7)
    elif setting == "section":
        say(three, LIVER, [])
        match = "mastpro.test_cases in dataset.json is []; make it an object"
    capsys.readouterr()
    check_refused(three, capsys, [*datasets, "--test"], match)


def test_a_test_case_that_is_turned_or_whose_label_lies_elsewhere(tested, capsys):
    """One is an image that is trained on, the other could not be evaluated."""
    add_tests(tested, LIVER, {"liver_52": 2})  # the image of liver_2
    for path in tested.raw.rglob("liver_52*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "SRA"), path)
    path = tested.raw / LIVER / "labelsTs" / "liver_50.nii.gz"
    label = sitk.ReadImage(path)
    label.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(label, path)
    assert tested.merge("-d", 3, 6, "--test") == 0
    out = capsys.readouterr().out
    assert f"a source trains on their image or patient: liver_52 of {LIVER}" in out
    assert (
        f"warning: label and image differ in origin or direction, which nnU-Net overlooks, in {LIVER}/liver_50" in out
    )

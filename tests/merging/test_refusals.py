"""What `mastpro merge` refuses, before a file is written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_mastpro import cli

from .conftest import KIDNEY, check_refused, write, write_model


@pytest.mark.parametrize(
    ("arguments", "output", "match"),
    [
        (["-d", "3", "77"], {}, "no single dataset 77"),
        (["-d", "3", "Dataset077_No"], {}, "source Dataset077_No has no dataset.json"),
        (["-d", "3", "6", "3"], {}, "names Dataset003_Liver twice"),
        (["-d", "3", "6"], {"output": "6"}, "the id 6 belongs to Dataset006_Kidney"),
        (["-d", "3", "6"], {"output": "6", "name": "Kidney"}, "was not written by mastpro merge"),
        (["-d", "3", "6"], {"output": "1000"}, "not within 1 and 999"),
        (["-d", "3", "6"], {"name": "a/b"}, "cannot be the name"),
        (["-d", "3", "6"], {"name": "Dataset900_Pan"}, "begins with the id, which -o gives; give -n Pan"),
        (["-d", "3", "6", "--folds", "13"], {}, "--folds 13 is not within 2 and 12"),
        (["-d", "3", "6", "--map", "absent.yaml"], {}, "--map absent.yaml cannot be read"),
    ],
)
def test_bad_arguments(three, capsys, arguments, output, match):
    check_refused(three, capsys, arguments, match, **output)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, "the channels of Dataset006_Kidney and Dataset012_More differ"),
        ({"channel_names": {"0": "MRI"}}, "['CT'] and ['MRI']"),
        (
            {"file_ending": ".nrrd"},
            "the file ending of Dataset006_Kidney and Dataset012_More differ: .nii.gz and .nrrd",
        ),
        ({"mastpro": {"prompts": {"y": {}}}}, "source Dataset012_More: mastpro.prompts in dataset.json names"),
        ({"mastpro": {"cases": {"a": {"annotated": ["b"]}}}}, 'source Dataset012_More: mastpro.cases["a"]'),
    ],
)
def test_sources_that_do_not_fit(three, capsys, more, match):
    three.write("Dataset012_More", {"x": 1}, {"a": (60, {1: slice(2, 4)})}, **more)
    check_refused(three, capsys, ["-d", 6, 12], match)


def test_a_map_to_read_and_one_to_write(three, tmp_path, capsys):
    check_refused(three, capsys, ["-d", 3, 6, "--map", "a.yaml", "--write-map", "b.yaml"], "merges nothing")


def test_labels_that_are_not_declared(three, capsys):
    three.write("Dataset012_More", {"x": 1}, {"a": (60, {1: slice(2, 4), 7: slice(5, 6)})})
    check_refused(
        three, capsys, ["-d", 6, 12], "a.nii.gz of Dataset012_More holds the labels 7, which its dataset.json"
    )


def test_an_image_and_a_label_of_two_shapes(three, capsys):
    write(np.zeros((4, 4, 4), np.uint8), three.raw / KIDNEY / "labelsTr" / "kidney_0.nii.gz")
    check_refused(three, capsys, ["-d", 3, 6], "case kidney_0 of Dataset006_Kidney: Error: Shape mismatch")


@pytest.mark.parametrize("name", ["labelsTr/kidney_0", "imagesTr/kidney_0_0000"])
def test_a_file_that_ends_early(three, capsys, name):
    """SimpleITK goes on with zeros: a background that would count as looked at."""
    file = three.raw / KIDNEY / f"{name}.nii.gz"
    file.write_bytes(file.read_bytes()[:-12])
    check_refused(three, capsys, ["-d", 3, 6], f"{Path(name).name}.nii.gz is damaged or ends early")


def test_a_file_that_is_missing(three, capsys):
    (three.raw / KIDNEY / "labelsTr" / "kidney_0.nii.gz").unlink()
    check_refused(three, capsys, ["-d", 3, 6], "source Dataset006_Kidney lacks")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"liver": [1, 2], "mass": [1, 2]}, 'class "liver" of --model .* has 2 values that no class inside it has'),
        ({"a": [1, 2], "b": [2, 3], "c": 2}, 'class "c" of --model .* lies in "a" and in "b", of which neither'),
        ({"both": [1, 2], "liver": 1, "mass": 2}, 'class "both" of --model .* has 0 values that no class inside'),
        ({"kidney_tumor": 2, "lung_tumor": 1}, 'has the class "kidney_tumor" with another value than the model'),
        (None, r"it has no plans.json\)"),
    ],
)
def test_models_that_do_not_fit(three, tmp_path, capsys, labels, message):
    assert three.merge("-d", 6) == 0
    model = tmp_path / "model" if labels is None else write_model(tmp_path / "model", labels)
    assert three.merge("-d", 6, "--model", model) == 2
    assert re.search(message, capsys.readouterr().err)


def test_what_cannot_be_added_to_a_model(three, tmp_path, capsys):
    """As mastpro add-tumour would refuse it, before anything is merged."""
    model, rules = write_model(tmp_path / "model", {"lung_tumor": 1}), tmp_path / "map.json"
    with_map = ["-d", 3, "--model", model, "--map", rules]
    rules.write_text('{"sources": {"3": {"labels": {"liver": "leber"}}}}')
    told = 'the class "leber" (liver of Dataset003_Liver) is no tumour type, and mastpro add-tumour adds nothing else'
    check_refused(three, capsys, with_map, told)
    rules.write_text('{"nest": {"liver": ["liver_tumor"]}}')
    check_refused(three, capsys, with_map, 'nest in the map puts "liver_tumor" into "liver", which')
    rules.write_text('{"sources": {"3": {"labels": {"liver": null}}}}')
    assert three.merge(*with_map, "--dry-run") == 0
    nested = write_model(tmp_path / "nested", {"liver": [1, 2], "liver_tumor": 2}, regions_class_order=[1, 2])
    rules.write_text('{"nest": {"liver_tumor": ["liver"]}}')
    check_refused(three, capsys, ["-d", 3, "--model", nested, "--map", rules], "inside of itself; remove one of")
    other = write_model(tmp_path / "other", {"lung_tumor": 1}, channel="MRI")
    check_refused(three, capsys, ["-d", 6, "--model", other], "has the channels {'0': 'CT'}, the model {'0': 'MRI'}")
    full = write_model(tmp_path / "full", {"kidney_tumor": 1})
    check_refused(three, capsys, ["-d", 6, "--model", full], "has no label that the model lacks (kidney_tumor)")


def test_a_model_that_is_not_of_mastpro(three, tmp_path, capsys):
    model = write_model(tmp_path / "model", {"lung_tumor": 1})
    plans = json.loads((model / "plans.json").read_text())
    plans["mastpro"]["network"]["ablate"] = ["text"]
    for content, match in (
        (plans, "was trained with mastpro.network.ablate=['text']"),
        ({}, "holds no MAST-Pro model"),
    ):
        (model / "plans.json").write_text(json.dumps(content))
        check_refused(three, capsys, ["-d", 6, "--model", model], match)
    (model / "plans.json").unlink()
    check_refused(three, capsys, ["-d", 6, "--model", model], "it has no plans.json); give")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["-d", "3"], "-o is missing"),
        (["-d", "3", "-o", "900"], "the data set 900 needs a name; give one with -n"),
        (["-d", "3", "-o", "900", "-n", "x", "-np", "0"], "-np 0 is below 1"),
    ],
)
def test_incomplete_arguments(three, capsys, arguments, match):
    assert cli.main(["merge", *arguments]) == 2
    assert match in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_folders_of_nnunet_are_needed(three, capsys, monkeypatch, name):
    monkeypatch.delenv(name)
    check_refused(three, capsys, ["-d", 3, 6], f"{name} is not set; export")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--folds", 1], "--folds 1 is not within 2 and 12"),
        (["--folds", 13], "--folds 13 is not within 2 and 12"),
        (["--folds-of", 10], "has no folds"),
    ],
)
def test_folds_are_checked_before_an_image_is_read(three, capsys, arguments, match):
    for path in three.raw.rglob("labelsTr/*.nii.gz"):
        path.write_bytes(b"")
    check_refused(three, capsys, ["-d", 3, 6, *arguments], match)

"""The data set's name, as scores need it."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.commands.evaluate import find_dataset_json

CANCER = {"background": 0, "liver": 1, "cancer": 2, "lung_tumor": 3}
NAME = "Dataset003_Liver"


def write_organ(folders, write_label, case, organ, tumour):
    """The organ alone as truth; in the prediction a tumour takes some of it."""
    for kind in ("predictions", "labels"):
        image = folders / kind / f"{case}.nii.gz"
        values = np.zeros_like(sitk.GetArrayFromImage(sitk.ReadImage(image)))
        values[2:5] = organ
        if kind == "predictions":
            values[3, 6:9] = tumour
        write_label(image, values)


@pytest.mark.parametrize("plans", [{"dataset_name": NAME}, {"dataset_name": "Dataset010_Colon"}, None])
def test_it_tells_whose_cancer_is_not_annotated(folders, run_evaluate, write_label, plans):
    """Beside predictions nnU-Net's plans have it. A liver's cancer counts as liver where a case leaves it out."""
    path = folders / "predictions" / "dataset.json"
    content = json.loads(path.read_text())
    cases = {name: {"annotated": ["liver", "lung_tumor"]} for name in content["mastpro"]["cases"]}
    path.write_text(json.dumps({**content, "labels": CANCER, "mastpro": {"cases": cases}}))
    if plans is not None:
        path.with_name("plans.json").write_text(json.dumps(plans))
    write_organ(folders, write_label, "p2_a", organ=1, tumour=2)
    assert run_evaluate(folders) == 0
    rows = json.loads((folders / "predictions" / "evaluation.json").read_text())["rows"]
    (dice,) = (row["Dice"] for row in rows if (row["case"], row["class"]) == ("p2_a", "liver"))
    assert (dice == 1) == (plans == {"dataset_name": NAME})


@pytest.mark.parametrize("lung", [{}, {"whole": [1, 2]}], ids=["flat", "one region"])
def test_a_tumour_beside_its_organ_counts_as_it_though_others_are_nested(folders, run_evaluate, write_label, lung):
    """A data set of regions may have organs whose tumours are not in them: those of one source, say."""
    path = folders / "predictions" / "dataset.json"
    content = json.loads(path.read_text())
    labels = {"background": 0, "liver_tumor": 1, "spleen": 2, "lung": 3, "lung_tumor": 4, **lung}
    order = {"regions_class_order": [1, 2, 3, 4, 5]} if lung else {}
    cases = {name: {"annotated": ["lung"]} for name in content["mastpro"]["cases"]}
    path.write_text(json.dumps({**content, **order, "labels": labels, "mastpro": {"cases": cases}}))
    for case in cases:
        write_organ(folders, write_label, case, organ=3, tumour=4)
    assert run_evaluate(folders) == 0
    rows = json.loads((folders / "predictions" / "evaluation.json").read_text())["rows"]
    assert {row["Dice"] for row in rows if row["class"] == "lung"} == {1.0}


@pytest.mark.parametrize(
    ("folder", "content", "name"), [(NAME, {}, NAME), ("liver", {}, None), (NAME, {"name": "x"}, "x")]
)
def test_the_folder_has_it_too(tmp_path, folder, content, name):
    path = tmp_path / folder / "dataset.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"labels": CANCER, **content}))
    assert find_dataset_json(None, [], path.with_name("labelsTr")).get("name") == name

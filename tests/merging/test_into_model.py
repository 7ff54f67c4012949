"""Merging for a trained model to which types are added."""

import json

import numpy as np
import pytest

from nnunetv2_mastpro.packs.labels import find_new_labels

from .conftest import write_model


def test_classes_of_a_model_come_first(three, tmp_path, capsys):
    prompts = {"lung_tumor": {"sentence": "A spot in the lung.", "is_tumor": True}}
    model = write_model(tmp_path / "model", {"liver_tumor": 1, "lung_tumor": 2}, prompts=prompts)
    assert three.merge("-d", 6, "--model", model) == 0
    shown = capsys.readouterr().out
    assert f"mastpro add-tumour -m {model} -d 900 " in shown
    assert "nnUNetv2_plan_and_preprocess" not in shown
    assert three.merged.content["labels"] == {"background": 0, "liver_tumor": 1, "lung_tumor": 2, "kidney_tumor": 3}
    assert {tuple(entry["annotated"]) for entry in three.merged.content["mastpro"]["cases"].values()} == {
        ("kidney_tumor",)
    }
    assert set(np.unique(three.merged.label("kidney_0"))) == {0, 3}
    assert three.merged.content["mastpro"]["prompts"]["lung_tumor"]["sentence"] == "A spot in the lung."
    assert three.merge("-d", 6, "--model", model) == 0  # again


@pytest.mark.parametrize("source", ["new type", "old and new types"])
def test_a_model_of_regions_keeps_them(three, tmp_path, source):
    """As a merge with nest made them: labels and their order are the model's, then the new type."""
    labels = {"lung": [1, 3], "liver": [2, 4], "lung_tumor": 3, "liver_tumor": [4]}
    model = write_model(tmp_path / "model", labels, regions_class_order=[1, 2, 3, 4])
    given = ["-d", *([3] if source == "old and new types" else []), 6, "--model", model]
    draft = tmp_path / "map.json"
    assert three.merge(*given, "--write-map", draft) == 0
    assert "nest" not in json.loads(draft.read_text())
    assert three.merge(*given, "--map", draft) == 0
    content = three.merged.content
    assert list(content["labels"].items()) == [("background", 0), *labels.items(), ("kidney_tumor", 5)]
    assert content["regions_class_order"] == [1, 2, 3, 4, 5]
    assert find_new_labels(json.loads((model / "dataset.json").read_text()), content, "merged") == ["kidney_tumor"]
    assert set(np.unique(three.merged.label("kidney_0"))) == {0, 5}
    if source == "old and new types":
        assert set(np.unique(three.merged.label("liver_0"))) == {0, 2, 4}
    assert three.merge(*given, "--map", draft) == 0  # again

"""Which cases the benchmark of a rare type trains on, and how its trainings differ."""

import json

import pytest

from benchmarks import rare_type
from nnunetv2_mastpro.demo import design


@pytest.fixture
def demo(tmp_path):
    """The sources of a demo's folder, their files empty."""
    layout = design.Layout(tmp_path / "demo")
    for number, (name, annotated) in enumerate(design.SOURCES.items()):
        source = layout.raw.parent / design.source_name(number, name)
        for folder, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
            (source / folder).mkdir(parents=True)
            for case in range(design.NUM_TRAINING):
                (source / folder / f"phantom_{number}{case}{ending}.nii.gz").touch()
        content = {"labels": {"background": 0, **{kind: place for place, kind in enumerate(annotated, 1)}}}
        (source / "dataset.json").write_text(json.dumps({**content, "numTraining": design.NUM_TRAINING}))
    return layout


def test_two_cases_of_the_rare_type_beside_21_of_the_others(demo, tmp_path):
    raw = tmp_path / "raw"
    rare_type.take_cases(demo, raw, 2)
    labels = {path.name: json.loads((path / "dataset.json").read_text())["labels"] for path in raw.iterdir()}
    annotating = [name for name, known in labels.items() if rare_type.RARE in known]
    assert annotating == [rare_type.FEW]
    assert sum(len([*(raw / name / "labelsTr").iterdir()]) for name in labels if name != rare_type.FEW) == 21
    assert sorted(path.name for path in (raw / rare_type.FEW / "imagesTr").iterdir()) == [
        "phantom_20_0000.nii.gz",
        "phantom_21_0000.nii.gz",
    ]
    assert json.loads((raw / rare_type.FEW / "dataset.json").read_text())["numTraining"] == 2


def test_plans_differ_in_the_temperature_alone(tmp_path):
    block = {"training": {"sampling_temperature": 0.5, "learning_rate": 0.003}}
    written = {}
    for temperature in (0.5, 1.0):
        overlay, change = rare_type.plans_steps(tmp_path, ("-d", "531"), temperature)
        overlay.outputs[0].write_text(json.dumps({"plans_name": "before", "mastpro": block}))
        change.function(None)
        written[temperature] = json.loads((tmp_path / f"{rare_type.plans_name(temperature)}.json").read_text())
    assert written[0.5]["mastpro"] == block
    assert written[1.0]["mastpro"]["training"] == {"sampling_temperature": 1.0, "learning_rate": 0.003}
    assert [plans["plans_name"] for plans in written.values()] == ["RarePlans50", "RarePlans100"]

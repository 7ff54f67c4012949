"""Table and page from a small folder that looks like a finished demo."""

import json
import re

import numpy as np
import pytest

from nnunetv2_mastpro.commands import demo as command
from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.demo.dataset import write_volume
from nnunetv2_mastpro.demo.report import dice_rows, text_table
from nnunetv2_mastpro.demo.results import read_counts, read_dice
from nnunetv2_mastpro.state import State

NAN = float("nan")


def fake_summary(path, dice):
    """Two cases; no lung tumour in either, no kidney tumour in the second, where the network marked one."""
    cases = [
        {
            "metrics": {
                "1": {"Dice": dice[0], "n_ref": 9, "n_pred": 9},
                "2": {"Dice": 0.0 if second else dice[1], "n_ref": 0 if second else 9, "n_pred": 3},
                "3": {"Dice": NAN, "n_ref": 0, "n_pred": 0},
            }
        }
        for second in (False, True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    mean = {"1": {"Dice": dice[0]}, "2": {"Dice": dice[1] / 2}, "3": {"Dice": NAN}}  # as nnU-Net has it
    path.write_text(json.dumps({"metric_per_case": cases, "mean": mean}))


@pytest.fixture
def finished(tmp_path, write_model):
    """A demo of two test cases and two models, all steps recorded."""
    layout = design.Layout(tmp_path)
    state = State(tmp_path, pipeline.settings(0))
    rng = np.random.default_rng(0)
    models = (design.MASTPRO, design.BASELINE)
    folders = {
        "imagesTs": layout.unseen / "imagesTs",
        "labelsTs": layout.unseen / "labelsTs",
        "maps": layout.maps,
        **{model.key: layout.predictions(model) for model in models},
    }
    for kind, folder in folders.items():
        folder.mkdir(parents=True)
        for number in range(2):
            volume = rng.integers(-200, 250, (6, 20, 30)).astype(np.int16)
            if kind != "imagesTs":
                volume = np.zeros((6, 20, 30), np.uint8)
                volume[2:4, 5:12, 8:16] = 1 + number
            write_volume(folder / f"c{number}{'_0000' * (kind == 'imagesTs')}.nii.gz", volume, (5.0, 5.0, 5.0))
    labels = {"background": 0, **{name: value for value, name in enumerate(design.TYPES, 1)}}
    shared = {"channel_names": {"0": "CT"}, "numTraining": 2, "file_ending": ".nii.gz"}
    write_model(layout.results(models[0]), {**shared, "labels": labels})
    fake_summary(layout.summary(models[0]), (0.61, 0.5))
    fake_summary(layout.summary(models[1]), (0.4, 0.0))
    for step in (*pipeline.preparation(layout, 0), *pipeline.model_steps(layout, models[0])):
        state.finish(step, 61.0)
    return layout, state, models


def test_rows_hold_each_type_and_the_mean():
    dice = {"A": {"liver_tumor": 0.614, "mean": 0.614}, "B": {"liver_tumor": NAN, "mean": 0.0}}
    counts = {"A": {"liver_tumor": (3, 1), "mean": (4, 1)}, "B": {"liver_tumor": (3, 0), "mean": (4, 0)}}
    assert dice_rows(dice, counts) == [
        ["Dice on unseen cases", "cases", "A", "B", "false, A", "false, B"],
        ["liver tumor", "3", "0.61", "-", "1", "0"],
        ["mean of types", "4", "0.61", "0.00", "1", "0"],
    ]


def test_the_text_table_is_aligned():
    rows = [["Dice on unseen cases", "cases", "A", "B"], ["liver", "3", "0.61", "-"], ["mean", "4", "0.61", "0.00"]]
    lines = text_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["Dice", "on", "unseen", "cases", "cases", "A", "B"]


def test_dice_is_the_mean_over_cases_that_have_the_type(finished):
    layout, _, models = finished
    dice = read_dice(layout.summary(models[0]), design.TYPES)
    assert dice["liver_tumor"] == 0.61
    assert dice["mean"] == pytest.approx((0.61 + 0.5) / 2)
    assert dice["kidney_tumor"] == 0.5
    assert np.isnan(dice["lung_tumor"])
    assert read_counts(layout.summary(models[0]), design.TYPES) == {
        "liver_tumor": (2, 0),
        "kidney_tumor": (1, 1),
        "lung_tumor": (0, 0),
        "mean": (2, 1),
    }


def test_the_result_is_a_table_and_the_models_report(finished, capsys, monkeypatch):
    layout, state, models = finished
    monkeypatch.setattr(pipeline, "WORKERS", 1)  # each process imports MONAI
    command.show_result(layout, state, 0, list(models), design.DEMO, {"nnUNet_raw": "/a b/raw", "MASTPRO_SEED": "0"})
    shown = capsys.readouterr().out
    assert re.search(r"liver tumor +2 +0\.61 +0\.40 +0 +0", shown)
    assert re.search(r"kidney tumor +1 +0\.25 +0\.00 +1 +1", shown)  # one was made up
    assert re.search(r"mean of types +2 +0\.43 +0\.20 +1 +1", shown)
    assert "env.sh" in shown
    assert (layout.folder / "env.sh").read_text().splitlines()[1:] == ["export nnUNet_raw='/a b/raw'"]
    assert "AdamW" in shown
    page = (layout.folder / "index.html").read_text()
    assert "<title>MAST-Pro demo: tumours in a CT phantom</title>" in page
    for expected in (
        "0.61",
        "nnUNetv2_train 500 3d_fullres 0",
        "host organ",
        "export nnUNet_raw=&#x27;/a b/raw&#x27;",
        "1 min 1 s",
        "seed 0",
        "nnunetv2",
        'id="viewer-data"',
        "c1, kidney tumor, Dice 1.00",
    ):
        assert expected in page
    assert "as the names of the folders tell" not in page
    assert ">Merge the sources into one data set that knows who annotated what</th>" in page  # without the path
    assert "Make the page of MAST-Pro" in shown
    pictures = sorted(path.name for path in (layout.folder / "pictures").iterdir())
    assert [name[:3] for name in pictures] == [f"{place:02d}_" for place in range(1, len(pictures) + 1)]
    assert "c1_kidney_tumor.png" in [name[3:] for name in pictures]


def test_the_progress_of_the_training_names_its_types(finished):
    layout, _, models = finished
    training = pipeline.model_steps(layout, models[0])[0]
    (layout.results(models[0]) / "fold_0" / "training_log_2026_2_2.txt").write_text("Pseudo dice [0.5, nan, 0.25]\n")
    assert training.follow()[1].endswith("pseudo-Dice liver 0.50 kidney - lung 0.25")


@pytest.mark.parametrize("seed", [0, 3])
def test_sources_annotate_some_types_and_no_case_comes_twice(seed):
    *sources, unseen = design.phantom_sets(seed)
    assert [source.annotated for source in sources] == list(design.SOURCES.values())
    assert len(sources) == 5
    assert unseen.annotated == design.TYPES
    for source in sources:  # the first tumour of a phantom is of the type at its seed modulo types
        assert {design.TYPES[number % 3] for number in source.training} == {*source.annotated}
        assert len(source) == design.NUM_TRAINING
    seeds = [number for phantoms in (*sources, unseen) for number in (*phantoms.training, *phantoms.test)]
    assert len(set(seeds)) == len(seeds) == 5 * design.NUM_TRAINING + design.NUM_TEST
    assert {number // 10_000 for number in seeds} == {seed}


def test_commands_are_the_stock_ones_with_one_set_of_names(tmp_path):
    layout = design.Layout(tmp_path)
    steps = [*pipeline.preparation(layout, 0), *pipeline.model_steps(layout, design.MASTPRO)]
    commands = {step.command[0]: step.command for step in steps if step.command}
    assert list(commands) == [
        "mastpro",
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_predict",
        "nnUNetv2_evaluate_folder",
    ]
    for name in ("nnUNetv2_train", "nnUNetv2_predict"):
        arguments = commands[name]
        assert arguments[arguments.index("-tr") + 1] == design.MASTPRO.trainer
        assert arguments[arguments.index("-p") + 1] == design.ANATOMY_PLANS
    assert commands["nnUNetv2_predict"][-7:-5] == ("-prev_stage_predictions", str(layout.maps))


def test_variables_keep_the_users_trainers(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/mine")
    values = pipeline.variables(design.Layout(tmp_path), 5)
    assert values["nnUNet_extTrainer"].split(":")[0] == "/mine"
    assert values["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")
    assert values["MASTPRO_SEED"] == "5"

"""The table benchmarks' cells: what they are, run and refuse."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from benchmarks import real_sts, runs, table
from benchmarks.cells import EXTRA, MASTPRO, PAPER, ROWS, design_of, model_of, rows_of
from benchmarks.runs import Phantom, per_case
from nnunetv2_mastpro.demo.design import DEMO, phantom_sets
from nnunetv2_mastpro.planning.overlay import known_overlays

from .conftest import REPOSITORY, TYPES


def test_rows_are_trainers_that_exist():
    from nnunetv2_mastpro.training import ablations, controls, trainer, universal

    known = {name for module in (ablations, controls, trainer, universal) for name in vars(module)}
    own = runs.find_own_trainers({"nnUNet_extTrainer": "theirs"})["nnUNet_extTrainer"]
    assert own.startswith(f"theirs{os.pathsep}")
    for name in ("nnUNetTrainerMASTProSGD", "nnUNetTrainerMASTProSGD_10epochs"):
        found = recursive_find_python_class(own.split(os.pathsep)[-1], name, None)
        assert issubclass(found, trainer.nnUNetTrainerMASTPro)
        known.add(found.__name__)
    rows = [row for name in ROWS for row in (*ROWS[name], *EXTRA[name])]
    assert {model_of(row).trainer for row in rows} <= known
    for name in ROWS:
        keys = [row.key for row in (*ROWS[name], *EXTRA[name])]
        assert len(set(keys)) == len(keys)
        assert {row.paper for row in ROWS[name] if row.paper} <= {*PAPER[name]}
        assert not [row.key for row in EXTRA[name] if row.paper]  # the paper has no figures of other sizes
    combinations = {row.trainer.removeprefix("nnUNetTrainerMASTPro") for row in ROWS["table2"]}
    assert len(combinations) == 9  # every one of AP, TP, D-MoE, and shuffled text


def test_the_designs():
    assert design_of(3, None, None, "unet", False) == replace(DEMO, overlay="demo", num_test=18)
    five = design_of(5, None, None, "swin", True)
    assert five.overlay == "demo_swin"
    assert five.overlay in known_overlays()
    *sources, unseen = phantom_sets(0, five)
    assert [len(source) for source in sources] == [16] * 5
    assert len(unseen) == 12
    assert all(source.annotated == five.types for source in sources)
    partial = phantom_sets(0, design_of(5, None, None, "swin", False))
    assert [source.training for source in partial[:-1]] == [source.training for source in sources]  # the same patients
    counts = [sum(name in source.annotated for source in partial[:-1]) for name in five.types]
    assert counts == [2] * 5
    *alone, unseen = phantom_sets(0, design_of(5, None, None, "unet", False, alone=True))
    assert [source.annotated for source in alone] == [(name,) for name in five.types]
    assert [len(source) for source in alone] == [16] * 5
    assert unseen.annotated == five.types
    assert design_of(3, None, None, "unet", False, patches=True) == replace(DEMO, num_test=18)
    assert design_of(5, 300, 4, "unet", False).steps_per_epoch == 30


def test_other_sizes_are_other_plans(tmp_path):
    (row,) = rows_of("table2", ["few"])
    layout = runs.Layout(tmp_path / "cell", tmp_path)
    layout.preprocessed.mkdir(parents=True)
    block = {"network": {"generic_experts": 4, "rank": 8}}
    (layout.preprocessed / "MASTProPlans.json").write_text(json.dumps({"plans_name": "MASTProPlans", "mastpro": block}))
    (step,) = runs.changed_plans(layout, model_of(row).plans, row.network)
    step.function(None)
    plans = json.loads((layout.preprocessed / "MASTProPlansFew.json").read_text())
    assert plans["plans_name"] == model_of(row).plans == "MASTProPlansFew"
    assert plans["mastpro"]["network"] == {"rank": 8, **row.network}
    assert runs.changed_plans(layout, model_of(MASTPRO).other_plans, {}) == []


@pytest.mark.slow
def test_cells_of_the_phantom_are_trained_predicted_and_scored(tmp_path, monkeypatch):
    """MAST-Pro, and its types one by one: after ten steps, which find nothing."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    argv = ["-o", tmp_path, "--types", "3", "--patches", "--steps", "10", "--cases", "3", "--seeds", "0"]
    command = [sys.executable, "-m", "benchmarks.table1", *argv, "--cells", "mastpro", "selected"]
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "cells" / "unet_three_patches"
    cells = {path.stem.removesuffix("_seed_0"): json.loads(path.read_text()) for path in folder.iterdir()}
    assert set(cells) == {"mastpro", "selected"}
    for cell in cells.values():
        assert (cell["setting"]["steps"], cell["setting"]["cases"], cell["setting"]["unseen"]) == (10, 3, 18)
        assert all(0 <= dice <= 1 for dice in cell["dice"].values())
        assert {key.split()[1] for key in cell["cases"]} == {"1", "2", "3"}
    assert cells["selected"]["cases"].keys() == cells["mastpro"]["cases"].keys()
    assert cells["mastpro"]["seconds_per_step"] > 0
    trained = tmp_path / "unet_three_patches_mastpro_seed_0"
    assert len([*trained.rglob("checkpoint_final.pth")]) == 1  # the types are predicted by the same model
    assert "| MAST-Pro, true type selected | 1 |" in (tmp_path / "table1_unet_three_patches.md").read_text()


@pytest.mark.slow
def test_cells_of_sarcoma_are_trained_predicted_and_scored(tmp_path, monkeypatch, sarcoma):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    argv = ["-o", tmp_path, "--sts", sarcoma, "--steps", "10", "--seeds", "0", "--cells", "none"]
    command = [sys.executable, "-m", "benchmarks.table2", *argv]
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    cell = json.loads((tmp_path / "cells" / "sts" / "none_seed_0.json").read_text())
    assert cell["setting"] == {"steps": 10}
    assert len(cell["cases"]) == 8
    assert all(0 <= dice <= 1 for dice in cell["cases"].values())
    assert cell["false"] is None  # not counted
    assert str(sarcoma) not in (tmp_path / "table2_sts.md").read_text()


def test_a_cell_is_run_once_and_told_what_made_it(tmp_path, monkeypatch, capsys):
    asked = []
    found = {"dice": {**dict.fromkeys(TYPES, 0.5), "mean": 0.5}, "cases": {"a 1": 0.5}, "false": 0, "seconds": 9.0}
    monkeypatch.setattr(Phantom, "run", lambda self, row, seed: asked.append((row.key, seed)) or found)
    arguments = ["-o", str(tmp_path), "--seeds", "0", "1", "--cells", "tp", "mastpro"]
    table.main("table2", "", arguments)
    assert asked == [("tp", 0), ("mastpro", 0), ("tp", 1), ("mastpro", 1)]
    assert "4 trainings of 2000 steps to go: about 2.0 h on 2 idle cores, 4 CPU hours" in capsys.readouterr().out
    table.main("table2", "", [*arguments, "none"])
    assert asked[4:] == [("none", 0), ("none", 1)]
    cell = json.loads((tmp_path / "cells" / "unet" / "tp_seed_1.json").read_text())
    assert cell["setting"] == {"types": 5, "steps": 2000, "cases": 16, "unseen": 12, "backbone": "unet", "data_seed": 0}
    assert cell["run"]["command"] == "python -m benchmarks.table2 -o OUT --seeds 0 1 --cells tp mastpro"
    assert {*cell["run"]} == {"commit", "command", "hardware", "date"}
    table.main("table2", "", ["-o", str(tmp_path), "--summarise"])
    assert len(asked) == 6
    assert "Finished cells: 6, all with types 5, steps 2000, cases 16," in (tmp_path / "table2.md").read_text()
    for cells in ("tp", "experts"):  # the second has no cell yet: rows compare at equal steps alone
        with pytest.raises(SystemExit, match=r"seed_0.json was made with steps=2000 \(now 1000\); give the same"):
            table.main("table2", "", ["-o", str(tmp_path), "--cells", cells, "--steps", "1000"])
    assert len(asked) == 6
    table.main("table2", "", ["-o", str(tmp_path), "--alone", "--seeds", "0", "--cells", "tp"])
    alone = json.loads((tmp_path / "cells" / "unet_alone" / "tp_seed_0.json").read_text())
    assert alone["setting"] == {**cell["setting"], "alone": True}
    assert (tmp_path / "table2_unet_alone.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "teq"], "--cells names 'teq', which table2 does not have; known: none, ap, tp"),
        (["--steps", "25"], "--steps 25 is not a multiple of 10"),
        (["--summarise"], "holds no finished cell; run without --summarise first"),
        (["--patches", "--backbone", "swin"], "2"),
        (["--alone", "--types", "3"], "2"),  # argparse's own status; it says why
        (["--sts", "nowhere"], "has no dataset.json"),
        (["--sts", "nowhere", "--cells", "ap"], "none of --cells is of use with one class"),
    ],
)
def test_what_is_refused(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        table.main("table2", "", ["-o", str(tmp_path), *arguments])


def test_cases_count_where_the_class_is(tmp_path):
    nan = float("nan")
    metrics = {"1": {"Dice": 0.5, "n_ref": 9}, "2": {"Dice": nan, "n_ref": nan}, "3": {"Dice": 0.0, "n_ref": 0}}
    entry = {"reference_file": "/labels/case_1.nii.gz", "metrics": metrics}
    (tmp_path / "summary.json").write_text(json.dumps({"metric_per_case": [entry]}))
    assert per_case(tmp_path / "summary.json") == {"case_1 1": 0.5}


def test_a_step_is_that_of_the_median_epoch(tmp_path):
    log = "".join(f"2026: Epoch time: {seconds} s\n" for seconds in (90.0, 50.0, 40.0))
    (tmp_path / "training_log_2026_1_1.txt").write_text(log)
    assert real_sts.seconds_per_step(tmp_path, 100) == 0.5


@pytest.mark.parametrize("script", sorted((REPOSITORY / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))  # as scripts they import each other
    assert importlib.import_module(f"benchmarks.{script.stem}").__doc__

"""The table benchmarks, from made-up cells: what they write, run, refuse, and put into the results."""

import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # a wheel does not carry them

from benchmarks import real_sts, results, runs, summary, table, table3  # noqa: E402
from benchmarks.cells import EXTRA, MASTPRO, PAPER, ROWS, design_of, model_of, rows_of  # noqa: E402
from benchmarks.runs import Datasets, Phantom, Sarcoma, per_case  # noqa: E402
from nnunetv2_mastpro.demo.design import DEMO, phantom_sets  # noqa: E402
from nnunetv2_mastpro.errors import MASTProError  # noqa: E402
from nnunetv2_mastpro.planning.overlay import known_overlays  # noqa: E402

TYPES = ("liver_tumor", "kidney_tumor")
RUN = {
    "commit": "abc1234",
    "command": "python -m benchmarks.table2 -o out",
    "hardware": "2 cores",
    "date": "2026-01-02T",
}


def write_cell(folder: Path, row: str, seed: int, dice: float, name: str = "unet") -> dict:
    """Two cases with both types; the second is 0.1 better."""
    cases = {f"case_{case} {value}": dice + 0.1 * case - 0.05 for case in (0, 1) for value in (1, 2)}
    cell = {
        "row": row,
        "seed": seed,
        "setting": {"steps": 20},
        "run": RUN,
        "dice": {**dict.fromkeys(TYPES, dice), "mean": dice},
        "cases": cases,
        "false": seed,
        "seconds": 1800.0,
        "seconds_per_step": 0.5 + seed,
    }
    file = folder / "cells" / name / f"{row}_seed_{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(cell))
    return cell


@pytest.fixture
def finished(tmp_path) -> Path:
    """Two rows of table 2, of which the whole network has two seeds."""
    for row, seed, dice in (("mastpro", 0, 0.6), ("mastpro", 1, 0.7), ("none", 0, 0.5)):
        write_cell(tmp_path, row, seed, dice)
    return tmp_path


def test_rows_are_trainers_that_exist():
    from nnunetv2_mastpro.training import ablations, controls, trainer, universal

    known = {name for module in (ablations, controls, trainer, universal) for name in vars(module)}
    rows = [row for name in ROWS for row in (*ROWS[name], *EXTRA[name])]
    assert {model_of(row).trainer for row in rows} <= known
    for name in ROWS:
        keys = [row.key for row in (*ROWS[name], *EXTRA[name])]
        assert len(set(keys)) == len(keys)
        assert {row.paper for row in ROWS[name] if row.paper} <= {*PAPER[name]}
        assert not [row.key for row in EXTRA[name] if row.paper]  # the paper has no figures of other sizes
    combinations = {row.trainer.removeprefix("nnUNetTrainerMASTPro") for row in ROWS["table2"]}
    assert len(combinations) == 9  # every one of AP, TP, D-MoE, and shuffled text


def test_the_table_tells_means_spread_difference_and_the_papers_figures(finished):
    path = summary.write_summary("table2", "unet", finished)
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == (
        "| row | seeds | liver_tumor | kidney_tumor | mean Dice | mastpro minus row (95 %) | false findings | "
        "s a step | paper, mean DSC |"
    )
    whole = next(line for line in lines if line.startswith("| AP / TP / D-MoE |"))
    assert whole == "| AP / TP / D-MoE | 2 | 0.650 ± 0.071 | 0.650 ± 0.071 | 0.650 ± 0.071 |  | 0.5 | 1.00 | 68.71 % |"
    plain = next(line for line in lines if line.startswith("| - / - / - |"))
    assert plain == "| - / - / - | 1 | 0.500 | 0.500 | 0.500 | +0.100 (+0.100 to +0.100) | 0.0 | 0.50 | 61.10 % |"
    assert len(lines) == 4
    text = path.read_text()
    assert "Finished cells: 3." in text
    assert "Commit abc1234; `python -m benchmarks.table2 -o out`; 2 cores; 2026-01-02 to 2026-01-02." in text
    assert "Training took 1.5 h in all." in text
    assert "cannot confirm or refute the paper's figures" in text
    rows = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    assert len(rows) == 3 * 3
    assert {"row": "mastpro", "title": "AP / TP / D-MoE", "seed": "1", "column": "mean", "dice": "0.7000"} in rows
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_paired_over_cases_and_seeds():
    first = [{"seed": 0, "cases": {"a 1": 0.5, "a 2": 0.7, "b 1": 0.4}}, {"seed": 1, "cases": {"a 1": 0.9}}]
    second = [{"seed": 0, "cases": {"a 1": 0.4, "a 2": 0.4, "b 1": 0.4}}]
    found, low, high = summary.difference(first, second)
    assert found == pytest.approx(((0.1 + 0.0) / 2 + 0.3) / 2)  # as the mean Dice: over cases, then over classes
    assert low < found < high
    columns = {"a 1": "Liver", "a 2": "Liver", "b 1": "Lung"}
    assert summary.difference([{**first[0], "columns": columns}], second)[0] == pytest.approx((0.2 + 0.0) / 2)
    assert summary.difference(first, [{"seed": 3, "cases": {}}]) is None


def test_a_step_is_that_of_the_median_epoch(tmp_path):
    log = "".join(f"2026: Epoch time: {seconds} s\n" for seconds in (90.0, 50.0, 40.0))
    (tmp_path / "training_log_2026_1_1.txt").write_text(log)
    assert real_sts.seconds_per_step(tmp_path, 100) == 0.5


@pytest.mark.parametrize(("dice", "told"), [(0.6, "within"), (0.5, "outside")])
def test_the_calibration_is_told(tmp_path, dice, told):
    write_cell(tmp_path, "complete", 0, dice)
    text = summary.write_summary("table1", "unet", tmp_path).read_text()
    assert f"reaches {dice:.3f}, {told} the wanted 0.55 to 0.75" in text


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
    assert cell["setting"] == {"types": 5, "steps": 2000, "cases": 16, "backbone": "unet", "data_seed": 0}
    assert cell["run"]["command"] == "python -m benchmarks.table2 -o OUT --seeds 0 1 --cells tp mastpro"
    assert {*cell["run"]} == {"commit", "command", "hardware", "date"}
    table.main("table2", "", ["-o", str(tmp_path), "--summarise"])
    assert len(asked) == 6
    assert "Finished cells: 6." in (tmp_path / "table2.md").read_text()
    with pytest.raises(SystemExit, match=r"tp_seed_0.json was made with steps=2000 \(now 1000\); give the same"):
        table.main("table2", "", [*arguments, "--steps", "1000"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "teq"], "--cells names 'teq', which table2 does not have; known: none, ap, tp"),
        (["--steps", "25"], "--steps 25 is not a multiple of 10"),
        (["--summarise"], "holds no finished cell; run without --summarise first"),
        (["--sts", "nowhere"], "has no dataset.json"),
        (["--sts", "nowhere", "--cells", "ap"], "none of --cells is of use with one class"),
    ],
)
def test_what_is_refused(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        table.main("table2", "", ["-o", str(tmp_path), *arguments])


def test_the_designs():
    assert design_of(3, None, None, "unet", False) == DEMO
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


def test_cases_count_where_the_class_is(tmp_path):
    nan = float("nan")
    metrics = {"1": {"Dice": 0.5, "n_ref": 9}, "2": {"Dice": nan, "n_ref": nan}, "3": {"Dice": 0.0, "n_ref": 0}}
    entry = {"reference_file": "/labels/case_1.nii.gz", "metrics": metrics}
    (tmp_path / "summary.json").write_text(json.dumps({"metric_per_case": [entry]}))
    assert per_case(tmp_path / "summary.json") == {"case_1 1": 0.5}


def test_own_data_sets_are_trained_by_the_stock_command(tmp_path):
    runner = Datasets(("3", "6"), "3d_fullres", "nnUNetPlans", "MASTProPlans", 50, "cuda")
    command = " ".join(runner.command(MASTPRO, "6", 2))
    assert command == ("nnUNetv2_train 6 3d_fullres 2 -p MASTProPlans -tr nnUNetTrainerMASTPro_50epochs -device cuda")
    (universal,) = rows_of("table1", ["universal"])
    assert runner.command(universal, "6", 2)[5] == "nnUNetPlans"
    assert table.told(runner)["ids"] == ["3", "6"]
    assert "data" not in table.told(Sarcoma(tmp_path, tmp_path))


def test_own_data_sets_are_scored_by_source_and_tumour_type(tmp_path):
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "liver_tumor": 2},
        "file_ending": ".nii.gz",
        "mastpro": {"cases": {"a": {"source": "Dataset003_Liver"}}},
    }
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    metrics = {"1": {"Dice": 0.9, "n_ref": 9}, "2": {"Dice": 0.5, "n_ref": 9}}
    entries = [{"reference_file": f"/x/{case}.nii.gz", "metrics": metrics} for case in ("a", "b")]
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    assert runs.scores_of(fold) == [("Dataset003_Liver", "a 2", 0.5), (None, "b 2", 0.5)]


def test_own_data_sets_with_regions_are_scored_by_nnunets_keys(tmp_path):
    """Organs first, so that no type stands at the place of its value; and a case whose name has dots."""
    labels = {"background": 0, "liver": [1, 2], "kidney": [3, 4], "liver_tumor": 2, "kidney_tumor": [4]}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    content["regions_class_order"] = [1, 3, 2, 4]
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    (tmp_path / "dataset.json").write_text(
        json.dumps({**content, "mastpro": {"cases": {"a.1": {"source": "Dataset003_Liver"}}}})
    )
    metrics = {key: {"Dice": 0.1 * place, "n_ref": 9} for place, key in enumerate(("(1, 2)", "(3, 4)", "2", "(4,)"))}
    entries = [{"reference_file": f"/x/a.{case}.nii.gz", "metrics": metrics} for case in (1, 2)]
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    assert [(source, key) for source, key, _ in runs.scores_of(fold)] == [
        ("Dataset003_Liver", "a.1 2"),
        ("Dataset003_Liver", "a.1 (4,)"),
        (None, "a.2 2"),
        (None, "a.2 (4,)"),
    ]


def test_a_difference_draws_cases_where_classes_are_regions():
    """Two regions of a case go together: with one case there is no interval."""
    first, second = ([{"seed": 0, "cases": {"a (1, 2)": dice, "a (3, 4)": 2 * dice}}] for dice in (0.4, 0.2))
    _, low, high = summary.difference(first, second)
    assert (low, high) == pytest.approx((float("nan"),) * 2, nan_ok=True)


def test_folds_may_have_other_columns(tmp_path):
    for row, seed, name in (("mastpro", 0, "Liver"), ("mastpro", 1, "Lung"), ("none", 0, "Liver")):
        cell = write_cell(tmp_path, row, seed, 0.5, "datasets")
        file = tmp_path / "cells" / "datasets" / f"{row}_seed_{seed}.json"
        file.write_text(json.dumps({**cell, "dice": {name: 0.5, "mean": 0.5}, "false": None}))
    lines = summary.write_summary("table2", "datasets", tmp_path).read_text().splitlines()
    assert "| AP / TP / D-MoE | 2 | 0.500 | 0.500 | 0.500 ± 0.000 |  |  | 1.00 | 68.71 % |" in lines
    assert "| - / - / - | 1 | 0.500 |  | 0.500 | +0.000 (+0.000 to +0.000) |  | 0.50 | 61.10 % |" in lines


def test_own_data_sets_that_are_trained_are_not_trained_again(tmp_path, monkeypatch, capsys):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, dice in (("Dataset003_Liver", 0.5), ("Dataset006_Lung", 0.7)):
        (tmp_path / "nnUNet_preprocessed" / name).mkdir(parents=True)
        model = tmp_path / "nnUNet_results" / name / "nnUNetTrainerMASTPro_1epoch__MASTProPlans__3d_fullres"
        (model / "fold_0" / "validation").mkdir(parents=True)
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "liver_tumor": 1},
            "file_ending": ".nii.gz",
        }
        (model / "dataset.json").write_text(json.dumps(content))
        entry = {"reference_file": f"/x/{name[-4:]}.nii.gz", "metrics": {"1": {"Dice": dice, "n_ref": 5}}}
        (model / "fold_0" / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": [entry]}))
    arguments = ["-o", str(tmp_path / "out"), "--datasets", "3", "6", "--cells", "mastpro", "--epochs", "1"]
    table.main("table2", "", arguments)
    assert "| AP / TP / D-MoE | 1 | 0.500 | 0.700 | 0.600 |" in (tmp_path / "out" / "table2_datasets.md").read_text()
    cell = json.loads((tmp_path / "out" / "cells" / "datasets" / "mastpro_seed_0.json").read_text())
    assert cell["cases"] == {"Dataset003_Liver/iver 1": 0.5, "Dataset006_Lung/Lung 1": 0.7}
    assert cell["columns"] == {key: key.partition("/")[0] for key in cell["cases"]}
    monkeypatch.setattr(runs, "find_executable", lambda name: "false")
    with pytest.raises(SystemExit, match="nnUNetv2_train ended with status 1"):
        table.main("table2", "", [*arguments, "--folds", "1"])
    with pytest.raises(SystemExit, match="no single dataset 7 in .*; give the id or the name of one"):
        table.main("table2", "", [*arguments, "-o", str(tmp_path / "other"), "--datasets", "3", "7"])
    assert "$ nnUNetv2_train 3 3d_fullres 1 -p MASTProPlans -tr nnUNetTrainerMASTPro_1epoch" in capsys.readouterr().out


def test_results_take_the_tables_between_their_marks(finished, tmp_path):
    summary.write_summary("table2", "unet", finished)
    file = tmp_path / "results.md"
    file.write_text("# Results\nkept\n<!-- table2:start -->\nold\n<!-- table2:end -->\nkept too\n")
    argv = [sys.executable, "-m", "benchmarks.results", str(finished), "--file", str(file)]
    for _ in range(2):
        subprocess.run(argv, cwd=REPOSITORY, check=True, capture_output=True)
    text = file.read_text()
    assert text.startswith("# Results\nkept\n<!-- table2:start -->\nFinished cells: 3.")
    assert text.endswith("<!-- table2:end -->\nkept too\n")
    assert text.count("AP / TP / D-MoE |") == 1
    assert "old" not in text
    grown = results.put(text, "table3", "| a |")
    assert grown.endswith("## Table 3 of the paper: cost\n<!-- table3:start -->\n| a |\n<!-- table3:end -->\n")
    with pytest.raises(MASTProError, match="must come once each, in this order"):
        results.put("<!-- table1:start -->", "table1", "")
    with pytest.raises(MASTProError, match="holds no table1.md"):
        results.tables(tmp_path / "nothing")


def test_table3_tells_cost_beside_the_papers(tmp_path):
    networks = {
        "plain": {"parameters": 62.19, "trainable": 62.19, "kept_mib": 15755.0},
        "MAST-Pro, PEFT": {"parameters": 63.34, "trainable": 1.16, "kept_mib": 5471.0},
    }
    folder = tmp_path / "cells" / "table3"
    folder.mkdir(parents=True)
    assert table3.write_summary(tmp_path) is None
    content = {"run": RUN, "size": {"side": 64}, "networks": networks}
    (folder / "memory.json").write_text(json.dumps(content))
    text = table3.write_summary(tmp_path).read_text()
    assert "| MAST-Pro, PEFT | 63.34 | 1.16 | 21.04 | 5471 | 8961 |" in text
    assert "| ZePT |  |  | 495.10 |  | 24705 |" in text
    spent = {name: {"step_s": 5.2, "prediction_s": 2.6, "growth_mib": 717.0} for name in networks}
    (folder / "times.json").write_text(json.dumps({**content, "networks": spent}))
    text = table3.write_summary(tmp_path).read_text()
    assert "| MAST-Pro, PEFT | 63.34 | 1.16 | 21.04 | 5471 | 8961 | 5.20 | 2.60 | 717 |" in text
    assert (tmp_path / "table3.png").is_file()


@pytest.mark.parametrize("script", sorted((REPOSITORY / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))  # as scripts they import each other
    assert importlib.import_module(f"benchmarks.{script.stem}").__doc__

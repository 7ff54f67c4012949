"""What the table benchmarks make of finished cells, and put into the results."""

import csv
import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace

import pytest

from benchmarks import differences, results, summary, table3
from nnunetv2_mastpro.errors import MASTProError

from .conftest import REPOSITORY, RUN, write_cell


def test_the_table_tells_means_spread_difference_and_the_papers_figures(finished):
    path = summary.write_summary("table2", "unet", finished)
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == (
        "| row | seeds | liver_tumor | kidney_tumor | mean Dice | mastpro minus row (95 %) | false findings | "
        "s a step | paper, mean DSC |"
    )
    whole = next(line for line in lines if line.startswith("| AP / TP / D-MoE |"))
    assert "Finished cells: 3, all with steps 20. Mean over seeds" in path.read_text()
    assert whole == "| AP / TP / D-MoE | 2 | 0.650 ± 0.071 | 0.650 ± 0.071 | 0.650 ± 0.071 |  | 0.5 | 1.00 | 68.71 % |"
    plain = next(line for line in lines if line.startswith("| - / - / - |"))
    assert plain == "| - / - / - | 1 | 0.500 | 0.500 | 0.500 | +0.100 (+0.100 to +0.100) | 0.0 | 0.50 | 61.10 % |"
    assert lines[4:6] == [
        "| AP / - / - (in the paper) |  |  |  |  |  |  |  | 63.47 % |",
        "| - / - / D-MoE (in the paper) |  |  |  |  |  |  |  | 63.01 % |",
    ]
    by_seed = ["| mean Dice by seed | 0 | 1 |", "| --- | --- | --- |"]
    assert lines[6:] == [*by_seed, "| - / - / - | 0.500 |  |", "| AP / TP / D-MoE | 0.600 | 0.700 |"]
    text = path.read_text()
    one, two = (f"`{RUN['command']} --seeds {seeds}`" for seeds in ("0 --cells none", "0 1 --cells mastpro"))
    assert f"Commit abc1234; {one}, {two}; 2 cores; 2026-01-02 to 2026-01-02." in text
    assert "Training took 1.5 h in all." in text
    assert "cannot confirm or refute the paper's figures" in text
    rows = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    assert len(rows) == 3 * 3
    assert {"row": "mastpro", "title": "AP / TP / D-MoE", "seed": "1", "column": "mean", "dice": "0.7000"} in rows
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_commands_that_differ_in_seeds_and_rows_alone_are_told_as_one():
    table = "python -m benchmarks.table1 -o OUT"
    made = {
        ("partial", 1): f"{table} --seeds 1 --cells partial --patches",
        ("partial", 0): f"{table} --patches --cells stock partial --seeds 0 1 2",
        ("text", 0): f"{table} --patches --seeds 0 1 --cells text",
        ("text", 1): f"{table} --patches --seeds 0 1 --cells text",
        ("mastpro", 0): f"{table.replace('table1', 'table2')} --patches",
    }
    cells = [{"row": row, "seed": seed, "run": {"command": command}} for (row, seed), command in made.items()]
    assert summary.commands(cells) == (
        f"`{table} --patches --seeds 0 1 --cells partial text`, "
        f"`{table.replace('table1', 'table2')} --patches --seeds 0 --cells mastpro`"
    )
    for command in ("--datasets 3 7 --folds 2 4", "--datasets 3 7"):
        folds = [{"row": "partial", "seed": 2, "run": {"command": f"{table} {command}"}}]
        assert summary.commands(folds) == f"`{table} --datasets 3 7 --folds 2 --cells partial`"


def test_a_difference_is_paired_over_cases_and_seeds():
    first = [{"seed": 0, "cases": {"a 1": 0.5, "a 2": 0.7, "b 1": 0.4}}, {"seed": 1, "cases": {"a 1": 0.9}}]
    second = [{"seed": 0, "cases": {"a 1": 0.4, "a 2": 0.4, "b 1": 0.4}}]
    found, low, high = differences.difference(first, second)
    assert found == pytest.approx(((0.1 + 0.0) / 2 + 0.3) / 2)  # as the mean Dice: over cases, then over classes
    assert low < found < high
    columns = {"a 1": "Liver", "a 2": "Liver", "b 1": "Lung"}
    assert differences.difference([{**first[0], "columns": columns}], second)[0] == pytest.approx((0.2 + 0.0) / 2)
    assert differences.difference(first, [{"seed": 3, "cases": {}}]) is None


def test_a_difference_draws_cases_where_classes_are_regions():
    """Two regions of a case go together: with one case there is no interval."""
    first, second = ([{"seed": 0, "cases": {"a (1, 2)": dice, "a (3, 4)": 2 * dice}}] for dice in (0.4, 0.2))
    _, low, high = differences.difference(first, second)
    assert (low, high) == pytest.approx((float("nan"),) * 2, nan_ok=True)


def test_folds_may_have_other_columns(tmp_path):
    for row, seed, name in (("mastpro", 0, "Liver"), ("mastpro", 1, "Lung"), ("none", 0, "Liver")):
        cell = write_cell(tmp_path, row, seed, 0.5, "datasets")
        file = tmp_path / "cells" / "datasets" / f"{row}_seed_{seed}.json"
        file.write_text(json.dumps({**cell, "dice": {name: 0.5, "mean": 0.5}, "false": None}))
    lines = summary.write_summary("table2", "datasets", tmp_path).read_text().splitlines()
    assert "| AP / TP / D-MoE | 2 | 0.500 | 0.500 | 0.500 ± 0.000 |  |  | 1.00 | 68.71 % |" in lines
    assert "| - / - / - | 1 | 0.500 |  | 0.500 | +0.000 (+0.000 to +0.000) |  | 0.50 | 61.10 % |" in lines


def test_each_part_is_told_over_all_rows_that_differ_in_it_alone(tmp_path):
    """Additive here, but for the organ masks, which gain less where there is text."""
    dice = {"none": 0.4, "ap": 0.5, "tp": 0.42, "experts": 0.39, "ap_tp": 0.50, "ap_experts": 0.49, "tp_experts": 0.41}
    for row, mean in dice.items():
        write_cell(tmp_path, row, 0, mean)
    assert "Each part" not in summary.write_summary("table2", "unet", tmp_path).read_text()  # of seven rows
    write_cell(tmp_path, "mastpro", 1, 0.49)  # of another seed
    assert "Each part" not in summary.write_summary("table2", "unet", tmp_path).read_text()
    (tmp_path / "cells" / "unet" / "mastpro_seed_1.json").unlink()
    write_cell(tmp_path, "mastpro", 0, 0.49)
    text = summary.write_summary("table2", "unet", tmp_path).read_text()
    assert "| AP | +0.090 (+0.090 to +0.090) |" in text  # 0.1, 0.08, 0.1, 0.08
    assert "| TP | +0.010 (+0.010 to +0.010) |" in text  # 0.02, 0, 0.02, 0
    assert "| D-MoE | -0.010 (-0.010 to -0.010) |" in text


def test_the_papers_swin_unetr_stands_beside_that_backbone_alone(tmp_path):
    for name in ("unet", "swin"):
        write_cell(tmp_path, "partial", 0, 0.5, name)
    unet, swin = (summary.write_summary("table1", name, tmp_path).read_text() for name in ("unet", "swin"))
    assert "| fixed head, partial-label loss | 1 | 0.500 | 0.500 | 0.500 |  | 0.0 | 0.50 |  |" in unet
    assert "| Swin UNETR (in the paper) |  |  |  |  |  |  |  | 61.10 % |" in unet
    assert "| fixed head, partial-label loss | 1 | 0.500 | 0.500 | 0.500 |  | 0.0 | 0.50 | 61.10 % |" in swin
    assert "Swin UNETR (in" not in swin


def test_cells_of_other_settings_do_not_make_one_table(finished):
    file = finished / "cells" / "unet" / "none_seed_0.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "setting": {"steps": 40}}))
    with pytest.raises(MASTProError, match=r"none_seed_0.json was made with steps=40 \(now 20\)"):
        summary.write_summary("table2", "unet", finished)
    assert not (finished / "table2.md").exists()


@pytest.mark.parametrize(("dice", "told"), [(0.6, "within"), (0.5, "outside")])
def test_the_calibration_is_told(tmp_path, dice, told):
    write_cell(tmp_path, "complete", 0, dice)
    text = summary.write_summary("table1", "unet", tmp_path).read_text()
    assert f"reaches {dice:.3f}, {told} the wanted 0.55 to 0.75" in text


def test_results_take_the_tables_between_their_marks(finished, tmp_path):
    summary.write_summary("table2", "unet", finished)
    file = tmp_path / "results.md"
    file.write_text("# Results\nkept\n<!-- table2:start -->\nold\n<!-- table2:end -->\nkept too\n")
    argv = [sys.executable, "-m", "benchmarks.results", str(finished), "--file", str(file)]
    for _ in range(2):
        subprocess.run(argv, cwd=REPOSITORY, check=True, capture_output=True)
    text = file.read_text()
    assert text.startswith("# Results\nkept\n<!-- table2:start -->\nFinished cells: 3, ")
    assert text.endswith("<!-- table2:end -->\nkept too\n")
    assert text.count("| AP / TP / D-MoE | 2 |") == 1
    assert "old" not in text
    assert f"![table2]({os.path.relpath(finished / 'table2.png', tmp_path)})\n<!-- table2:end -->" in text
    grown = results.put(text, "table3", "| a |")
    assert grown.endswith("## Table 3 of the paper: cost\n<!-- table3:start -->\n| a |\n<!-- table3:end -->\n")
    with pytest.raises(MASTProError, match="must come once each, in this order"):
        results.put("<!-- table1:start -->", "table1", "")
    with pytest.raises(MASTProError, match="holds no table1.md"):
        results.tables(tmp_path / "nothing")


@pytest.mark.slow
def test_table3_measures_what_it_tells(tmp_path, monkeypatch):
    """On networks as small as SwinUNETR gets."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.setattr(table3, "PAPER_SIZE", (12, 64, 1))
    args = Namespace(output=tmp_path, feature_size=12, side=64, batch=1, repeats=1)
    for name in table3.CELLS:
        table3.run_cell(name, args, "python -m benchmarks.table3")
    cells = {name: json.loads((tmp_path / "cells" / "table3" / f"{name}.json").read_text()) for name in table3.CELLS}
    assert cells["memory"]["size"] == cells["times"]["size"] == {"feature_size": 12, "side": 64, "batch": 1}
    memory, times = (cells[name]["networks"] for name in ("memory", "times"))
    plain, fused, universal, whole, peft = memory.values()
    assert plain["parameters"] == fused["parameters"] < universal["parameters"]
    assert peft["trainable"] < 0.5 * whole["trainable"]
    assert whole["parameters"] == peft["parameters"]
    assert peft["kept_mib"] < fused["kept_mib"] < plain["kept_mib"]
    assert list(times) == list(memory)
    assert all(value > 0 for found in times.values() for value in found.values())
    with pytest.raises(MASTProError, match=r"times.json was made at .*'side': 64.*, not .*'side': 96"):
        table3.run_cell("times", Namespace(**{**vars(args), "side": 96}), "")
    table3.run_cell("memory", Namespace(**{**vars(args), "side": 96}), "")  # of the paper's size, whatever is given
    assert "| MAST-Pro, PEFT |" in table3.write_summary(tmp_path).read_text()


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


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "docs" / "tables").glob("table*.md")))
def test_the_results_are_those_of_the_cells_that_lie_beside_them(tmp_path, name):
    """Not written by hand, nor of other cells."""
    table, _, kind = name.partition("_")
    cells = REPOSITORY / "docs" / "tables" / "cells" / (kind or "unet")
    cells = cells.with_name(table) if table == "table3" else cells
    shutil.copytree(cells, tmp_path / "cells" / cells.name)
    made = table3.write_summary(tmp_path) if table == "table3" else summary.write_summary(table, cells.name, tmp_path)
    assert made.read_text() == (REPOSITORY / "docs" / "tables" / made.name).read_text()
    assert made.read_text().strip() in (REPOSITORY / "docs" / "results.md").read_text()

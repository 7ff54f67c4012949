"""The benchmarks, which a wheel does not carry, and made-up cells of their tables."""

import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

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

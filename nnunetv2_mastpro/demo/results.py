"""What the demo's commands wrote, read again: nnU-Net's summaries."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_dice(summary: Path, types: Sequence[str]) -> dict[str, float]:
    """Mean Dice of each type over the cases that have it, from nnUNetv2_evaluate_folder's file, and of the types."""
    cases = _read_cases(summary)
    dice = {}
    for value, name in enumerate(types, 1):
        found = [case["metrics"][str(value)]["Dice"] for case in cases if case["metrics"][str(value)]["n_ref"]]
        dice[name] = sum(found) / len(found) if found else math.nan
    return _with_mean(dice)


def read_means(summary: Path, types: Sequence[str]) -> dict[str, float]:
    """nnU-Net's own mean Dice of each type, in which a tumour made up in a case without it is 0, and of the types."""
    found = json.loads(summary.read_text(encoding="utf-8"))["mean"]
    return _with_mean({name: found[str(value)]["Dice"] for value, name in enumerate(types, 1)})


def read_counts(summary: Path, types: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Test cases that have a tumour of the type, and cases without one in which the network found one."""
    cases = _read_cases(summary)
    counts = {
        name: (
            sum(case["metrics"][str(value)]["n_ref"] > 0 for case in cases),
            sum(case["metrics"][str(value)]["n_ref"] == 0 < case["metrics"][str(value)]["n_pred"] for case in cases),
        )
        for value, name in enumerate(types, 1)
    }
    return {**counts, "mean": (len(cases), sum(false for _, false in counts.values()))}


def _with_mean(dice: Mapping[str, float]) -> dict[str, float]:
    """And the mean of the types that have one."""
    present = [value for value in dice.values() if not math.isnan(value)]
    return {**dice, "mean": sum(present) / len(present) if present else math.nan}


def _read_cases(summary: Path) -> list[dict]:
    return json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]

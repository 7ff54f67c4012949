"""Dice and false positives of predictions before and after they were cleaned, by nnU-Net's own evaluation."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder

from nnunetv2_mastpro.evaluation.predicted import Model
from nnunetv2_mastpro.listing import table


def evaluate(reference: Path, folder: Path, summary: Path | None, model: Model, num_processes: int) -> dict:
    """nnU-Net's own evaluation of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a class that no case has
        return compute_metrics_on_folder(
            str(reference),
            str(folder),
            None if summary is None else str(summary),
            model.plans.image_reader_writer_class(),
            model.dataset_json["file_ending"],
            list(model.outputs),
            model.ignore_label,
            num_processes,
        )


def read_scores(summary: dict, model: Model, voxel_ml: dict[str, float], cases) -> dict[str, dict[str, dict]]:
    """Case -> class that it annotates -> Dice, false-positive volume in ml, and whether the case has the class.

    `cases`: tasks.Cases.
    """
    scores = {}
    for entry in summary["metric_per_case"]:
        case = Path(entry["prediction_file"]).name.removesuffix(model.dataset_json["file_ending"])
        metrics = {
            label: entry["metrics"][key]
            for label, key, known in zip(cases.labels, model.outputs, cases.annotated_in(case), strict=True)
            if known
        }
        scores[case] = {
            label: {"dice": found["Dice"], "fp_ml": found["FP"] * voxel_ml[case], "present": found["n_ref"] > 0}
            for label, found in metrics.items()
        }
    return scores


def describe_scores(before: dict, after: dict) -> list[str]:
    """Per class: nnU-Net's mean Dice, and false-positive volume per case."""
    rows = [("class", "cases with it", "Dice before -> after", "false positives, ml per case before -> after")]
    for label in dict.fromkeys(label for classes in before.values() for label in classes):
        dice, volume = [], []
        for scores in (before, after):
            entries = [classes[label] for classes in scores.values() if label in classes]
            found = [entry["dice"] for entry in entries if not math.isnan(entry["dice"])]
            dice.append(f"{sum(found) / len(found):.3f}" if found else "-")
            volume.append(f"{sum(entry['fp_ml'] for entry in entries) / len(entries):.2f}")
        with_it = sum(classes[label]["present"] for classes in after.values() if label in classes)
        rows.append((label, str(with_it), " -> ".join(dice), " -> ".join(volume)))
    return ["", *table(rows)]

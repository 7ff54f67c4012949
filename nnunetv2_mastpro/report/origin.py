"""Which model and folds made the predictions, as far as their folder tells.

nnUNetv2_predict copies the model's plans.json there and records its arguments, of which the folds are none. A fold's
validation lies in its folder, without such files; nnUNetv2_find_best_configuration collects those of several folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.datasets import is_trained, read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.report.model import Model

COLLECTED = "crossval_results_folds_"  # and the folds, between "_"
KEYS = ("dataset_name", "plans_name")


@dataclass(frozen=True)
class Origin:
    """Of predictions. `folds`: those that predicted, empty where they are not known."""

    folds: tuple[str, ...] = ()
    is_validation: bool = False  # which the trainings wrote
    is_told: bool = False  # whether files tell the model's data set and plans


def find_origin(predictions: Path, model: Model) -> Origin:
    """Raises MASTProError for predictions of another data set, other plans or other labels.

    Another trainer's, or configuration's, have the same files beside them.
    """
    root = model.folder.resolve()
    parent, folds = _validated(predictions.resolve())
    if folds and (parent / "plans.json").is_file():
        if parent != root:
            raise MASTProError(f"-pred {predictions} is of the model {parent}, -m is {model.folder}; give -m that one")
        return Origin(folds, is_validation=True, is_told=True)
    plans = predictions / "plans.json"
    if plans.is_file():
        theirs, ours = (tuple(content.get(key) for key in KEYS) for content in (read_json_object(plans), model.plans))
        if theirs != ours:
            raise MASTProError(
                f"-pred {predictions} was predicted by a model of {theirs[0]} with {theirs[1]} (its plans.json), -m "
                f"{model.folder} is of {ours[0]} with {ours[1]}; give -m the model that predicted"
            )
    _check_labels(predictions, model)
    if not plans.is_file():
        return Origin()
    trained = tuple(path.name for path in sorted(root.glob("fold_*")) if is_trained(path))
    return Origin(trained if len(trained) == 1 else (), is_told=True)


def _validated(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Model and folds whose validation has its place there; no folds where none has."""
    fold = folder.parent
    if folder.name == "validation" and fold.name.startswith("fold_"):
        return fold.parent, (fold.name,)
    if folder.name.startswith(COLLECTED):
        return folder.parent, tuple(f"fold_{name}" for name in folder.name.removeprefix(COLLECTED).split("_"))
    return folder, ()


def _check_labels(predictions: Path, model: Model) -> None:
    """By the dataset.json beside the predictions: what mastpro unpack wrote keeps the names in plans.json."""
    file, ours = predictions / "dataset.json", model.dataset_json["labels"]
    theirs = read_json_object(file).get("labels") if file.is_file() else ours
    if theirs != ours:
        raise MASTProError(
            f"{file} has the labels {theirs}, -m {model.folder} has {ours}; give -m the model that predicted"
        )

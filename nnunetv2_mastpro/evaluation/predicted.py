"""What a folder that nnUNetv2_predict wrote tells of the model that predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.datasets import read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.partial import outputs_of
from nnunetv2_mastpro.planning.hosts import host_values

COPIED = ("dataset.json", "plans.json")


@dataclass(frozen=True)
class Model:
    """What a folder of predictions says about the model that made them."""

    dataset_json: dict
    plans: object  # nnU-Net's PlansManager
    resolved: object  # config.Resolved
    outputs: tuple  # nnU-Net's labels or regions, in the order of resolved.classes
    ignore_label: int | None


def read_model(predictions: Path) -> Model:
    """Raises MASTProError where the folder is not a prediction of a model with a host table."""
    for name in COPIED:
        if not (predictions / name).is_file():
            raise MASTProError(f"{predictions} has no {name}; give a folder that nnUNetv2_predict wrote")
    dataset_json, plans = (read_json_object(predictions / name) for name in COPIED)
    resolved = MASTProConfig.from_dict(plans.get("mastpro", {})).resolved
    if resolved is not None and not resolved.hosts:  # trained without organ masks, but the table is the data set's
        resolved = replace(resolved, hosts=host_values(dataset_json, resolved.classes))
    if resolved is None:
        raise MASTProError(f"{predictions} was not predicted by a MAST-Pro model; train with nnUNetTrainerMASTPro")
    if not any(entry.is_tumor and _hosted(resolved, index) for index, entry in enumerate(resolved.classes)):
        raise MASTProError(
            f"the model of {predictions} knows no host organ of a tumour class, so nothing can be outside of one; "
            "give host_structures in mastpro.prompts of dataset.json before training"
        )
    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset_json)
    return Model(dataset_json, manager, resolved, tuple(outputs_of(labels)), labels.ignore_label)


def _hosted(resolved, index: int) -> bool:
    return any(index in host.classes for host in resolved.hosts)

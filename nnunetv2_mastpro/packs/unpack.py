"""Packs of several types, trained apart on one base, into one model folder of nnU-Net's kind."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.datasets import label_values
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import with_prompts
from nnunetv2_mastpro.packs.model import Model
from nnunetv2_mastpro.packs.pack import Pack, check_fits, check_tensors
from nnunetv2_mastpro.planning.hosts import host_values
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.weights.convert import build_network
from nnunetv2_mastpro.weights.owned import append_types, take_type

COPIED = ("dataset_fingerprint.json",)
NOT_VALIDATED = "mastpro unpack put this model together; nothing was validated"


def unpack(model: Model, packs: Sequence[Pack], target: Path, fold: str) -> tuple[ClassSpec, ...]:
    """Writes the model with the packs' types after its own, in the order given; gives all its classes.

    Raises MASTProError, before anything is written, for a pack that does not fit and for a type that is there already.
    """
    if target.exists():
        raise MASTProError(f"{target} is there already; give -o a new folder")
    labels, added = [entry.label for entry in model.classes], any(entry.added for entry in model.classes)
    for pack in packs:
        if pack.spec.label in labels:
            raise MASTProError(
                f"{pack.path} holds {pack.spec.label}, which the model or an earlier pack has already; leave it out"
            )
        check_fits(pack, model)
        if added and not pack.spec.added:
            raise MASTProError(
                f"{pack.path} holds {pack.spec.label}, which was trained with its model and not added to it; it cannot "
                "follow a type that was added; give it before the packs of such types, to a model without any"
            )
        added = added or pack.spec.added
        labels.append(pack.spec.label)
    classes = (*model.classes, *(pack.spec for pack in packs))
    dataset_json = extend_dataset_json(model.dataset_json, model.classes, [pack.spec for pack in packs])
    config = extend_config(model.config, classes, dataset_json)
    plans = {**copy.deepcopy(model.plans), "mastpro": config.to_dict()}
    init_args = {**model.checkpoint["init_args"], "plans": plans, "dataset_json": dataset_json}
    untrained = build_network(plans, init_args["configuration"], dataset_json).state_dict()
    for index, pack in enumerate(packs, len(model.classes)):
        check_tensors(pack, take_type(untrained, classes, index))
    checkpoint = {
        "network_weights": append_types(model.weights, classes, [pack.tensors for pack in packs]),
        "init_args": init_args,
        "trainer_name": model.checkpoint["trainer_name"],
        "inference_allowed_mirroring_axes": model.checkpoint.get("inference_allowed_mirroring_axes"),
    }
    _write_folder(target, model, fold, plans, dataset_json, checkpoint)
    return classes


def extend_dataset_json(dataset_json: dict, old: Sequence[ClassSpec], new: Sequence[ClassSpec]) -> dict:
    """With the new labels, each of the next value, and the prompts of all classes, so that they resolve as they are.

    Raises MASTProError where two classes have one sentence.
    """
    extended = copy.deepcopy(dataset_json)
    labels = extended["labels"]
    ignore = "ignore" in labels
    labels.pop("ignore", None)
    for entry in new:
        highest = max(map(max, label_values(extended).values()))
        labels[entry.label] = highest + 1
        if "regions_class_order" in extended:
            extended["regions_class_order"].append(highest + 1)
    if ignore:  # nnU-Net wants it highest
        labels["ignore"] = 1 + max(map(max, label_values(extended).values()))
    extended = with_prompts(extended, (*old, *new))
    resolve_prompts(extended)
    return extended


def extend_config(config: MASTProConfig, classes: tuple[ClassSpec, ...], dataset_json: dict) -> MASTProConfig:
    """The block that rebuilds the network of these classes."""
    hosts = host_values(dataset_json, classes) if config.resolved.hosts else ()
    return dataclasses.replace(
        config,
        prompts=dataclasses.replace(config.prompts, added=tuple(entry.label for entry in classes if entry.added)),
        training=dataclasses.replace(config.training, new_types=()),
        prediction=dataclasses.replace(config.prediction, tasks=None),  # else the packs' types would be left out
        resolved=dataclasses.replace(config.resolved, classes=classes, hosts=hosts),
    )


def _write_folder(target: Path, model: Model, fold: str, plans: dict, dataset_json: dict, checkpoint: dict) -> None:
    """Whole or not at all. What nnU-Net's export asks for besides is copied, or says that it is not there."""
    if not target.parent.is_dir():
        raise MASTProError(f"{target.parent} is no folder; make it, or give -o a folder in one that is there")
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        inner = staged / f"fold_{fold}"
        (inner / "validation").mkdir(parents=True)
        for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
            (staged / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        for source in (*(model.folder / name for name in COPIED), model.file.parent / "progress.png"):
            if source.is_file():
                shutil.copyfile(source, staged / source.relative_to(model.folder))
        (inner / "validation" / "summary.json").write_text(json.dumps({"note": NOT_VALIDATED}), encoding="utf-8")
        torch.save(checkpoint, inner / "checkpoint_final.pth")
        staged.chmod(0o755)
        os.rename(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)

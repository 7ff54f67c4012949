"""What a data set must share with a trained model whose types it adds to: channels, labels, prompts."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.resolve import Prompt, channel_names, foreground_labels

if TYPE_CHECKING:
    from nnunetv2_mastpro.packs.model import Model


def check_unablated(config: MASTProConfig, folder: Path) -> None:
    """Raise MASTProError unless the folder's plans are of a trained MAST-Pro model with all its parts."""
    if config.resolved is None:
        raise MASTProError(f"{folder} holds no MAST-Pro model; train one with -tr nnUNetTrainerMASTPro")
    if config.network.ablate:
        raise MASTProError(
            f"{folder} was trained with mastpro.network.ablate={list(config.network.ablate)}; types are added to, "
            "packed from and unpacked into whole networks only, so give a model of -tr nnUNetTrainerMASTPro"
        )


def find_new_labels(known: dict, dataset_json: dict, where: str) -> list[str]:
    """Labels after the model's. `known`: its dataset.json; `where`: the file of the other, for messages.

    Raises MASTProError unless the data set has the model's channels, and its labels in their order and with their
    values, and then at least one more with the next value.
    """
    ours, theirs = map(channel_names, (known, dataset_json))
    if ours != theirs:
        raise MASTProError(f"{where} has the channels {theirs}, the model {ours}; give images of the same channels")
    old, names = foreground_labels(known), foreground_labels(dataset_json)
    rule = "the model's labels come first, in its order and with its values, then the new types with the next values"
    missing = [label for label in old if label not in names]
    if missing:
        raise MASTProError(
            f"{where} lacks the label {missing[0]} of the model; {rule}, and cases need not annotate all"
        )
    for label in old:
        have, want = dataset_json["labels"][label], known["labels"][label]
        if have != want:
            raise MASTProError(f"{where} gives {label} the value {have}, the model {want}; {rule}")
    if names[: len(old)] != old:
        raise MASTProError(f"{where} has the classes {', '.join(names)}, the model {', '.join(old)}; {rule}")
    new = list(names[len(old) :])
    if not new:
        raise MASTProError(
            f"{where} has no label that the model lacks ({', '.join(old)}); add the new type to its labels"
        )
    before, after = (json_.get("regions_class_order", []) for json_ in (known, dataset_json))
    if after[: len(before)] != before or bool(before) != bool(after):
        raise MASTProError(
            f"{where} has the regions_class_order {after}, the model {before}; append the new types to it"
        )
    return new


def with_prompts(dataset_json: dict, classes: Sequence[ClassSpec]) -> dict:
    """With entries in mastpro.prompts from which these classes resolve to the sentences that they have."""
    changed = copy.deepcopy(dataset_json)
    prompts = changed.setdefault("mastpro", {}).setdefault("prompts", {})
    prompts.update({entry.label: _entry(entry, hosts=True) for entry in classes})
    return changed


def check_prompts(model: Model, prompts: Sequence[Prompt], where: str) -> None:
    """Raise MASTProError unless the model's classes have its prompts, and all that follow are tumour types."""
    known = model.classes
    for entry, prompt in zip(known, prompts, strict=False):
        wanted = _entry(entry, bool(model.config.resolved.hosts))
        if _entry(prompt, bool(model.config.resolved.hosts)) != wanted:
            raise MASTProError(
                f"{where} gives {entry.label} another prompt than the model has, "
                f"{json.dumps(wanted, ensure_ascii=False)}; --write-prompts writes the model's into its mastpro.prompts"
            )
    for prompt in prompts[len(known) :]:
        if not prompt.is_tumor:
            raise MASTProError(
                f"the new label {prompt.label} in {where} is no tumour type, and others own nothing that could be "
                f'trained alone; if it is one, write "is_tumor": true into its entry of mastpro.prompts'
            )


def _entry(prompt: Prompt | ClassSpec, hosts: bool) -> dict:
    entry = {"sentence": prompt.sentence, "is_tumor": prompt.is_tumor}
    return {**entry, "host_structures": list(prompt.host_structures)} if hosts else entry

"""What is settled before a training starts: the plans' block, the prompts, the run's folder."""

import dataclasses
import json
import time
import warnings
from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig, NetworkConfig, Resolved
from nnunetv2_mastpro.datasets import is_trained, label_values
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.network.inject import choose_sites, choose_swin_sites
from nnunetv2_mastpro.network.planned import SWIN_DEPTHS, SWIN_FEATURES, is_swin, refuse
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE, host_table
from nnunetv2_mastpro.prompts.encoder import Embeddings, embed
from nnunetv2_mastpro.prompts.resolve import Prompt, resolve_prompts


def resolve(plans: dict, dataset_json: dict, ablate: tuple[str, ...] = ()) -> tuple[MASTProConfig, Embeddings]:
    """Complete the plans' "mastpro" block from the data set's prompts, and embed their sentences (Eq. 1).

    `ablate`: parts that the trainer replaces, besides those of the plans. Raises MASTProError for bad prompts, a bad
    block, or an encoder that cannot be had.
    """
    block = plans.get("mastpro", {})
    if isinstance(block, dict):
        block = {key: value for key, value in block.items() if key != "resolved"}
    config = MASTProConfig.from_dict(block)
    config = dataclasses.replace(config, network=config.network.without(ablate))
    prompts = resolve_prompts(dataset_json, plans["dataset_name"])
    _check_shuffled(config, prompts)
    embeddings = embed([prompt.sentence for prompt in prompts], config.prompts.encoder)
    _check_added(config, prompts)
    classes = tuple(
        ClassSpec(p.label, p.sentence, p.is_tumor, tuple(p.host_structures), p.label in config.prompts.added)
        for p in prompts
    )
    has_regions = any(len(values) > 1 for values in label_values(dataset_json).values())
    stages = [configuration.get("previous_stage") for configuration in plans["configurations"].values()]
    hosts = host_table(dataset_json, prompts) if ANATOMY_STAGE in stages else ()
    resolved = Resolved(classes, embeddings.vectors.shape[1], has_background=not has_regions, hosts=hosts)
    completed = dataclasses.replace(config, resolved=resolved)
    _check_top_k(completed)
    return completed, embeddings


def check_network(configuration: dict, network: NetworkConfig) -> None:
    """Raise MASTProError where the planned network cannot take the planned patch, or has no such stages to adapt."""
    reason = refuse(configuration)
    if reason:
        raise MASTProError(f"{reason} (in the plans)")
    if network.anatomy_encoder == "swin" and not (
        is_swin(configuration) and configuration.get("previous_stage") == ANATOMY_STAGE
    ):
        raise MASTProError(
            "anatomy_encoder 'swin' reads organ masks beside a SwinUNETR backbone, and the plans lack one of both; set "
            "mastpro.network.anatomy_encoder in them to 'small', or make plans by mastpro plan --anatomy --overlay "
            "swinunetr"
        )
    kwargs = configuration["architecture"]["arch_kwargs"]
    features, chosen = kwargs.get("features_per_stage"), (network.encoder_stages, network.decoder_stages)
    try:
        if is_swin(configuration):
            choose_swin_sites(kwargs.get("feature_size", SWIN_FEATURES), kwargs.get("depths", SWIN_DEPTHS), *chosen)
        elif isinstance(features, list):
            choose_sites(features, features[-2::-1], *chosen)
    except ValueError as error:
        raise MASTProError(str(error)) from error


def settle(plans: dict, configuration: str, config: MASTProConfig, trainer: str) -> None:
    """Put the resolved block into the plans. Raises MASTProError where network or the run's folder do not allow it."""
    check_network(PlansManager(plans).get_configuration(configuration).configuration, config.network)
    plans["mastpro"] = config.to_dict()
    if nnUNet_results.is_set():
        run = f"{trainer}__{plans['plans_name']}__{configuration}"
        check_same_run(Path(nnUNet_results, plans["dataset_name"], run), plans["mastpro"])


def check_same_run(folder: Path, block: dict) -> None:
    """Raise MASTProError where the folder holds checkpoints of a run with another "mastpro" block."""
    plans_file = folder / "plans.json"
    if not plans_file.is_file() or not any(map(is_trained, folder.glob("fold_*"))):
        return
    other = MASTProConfig.from_dict(_read_settled(plans_file).get("mastpro", {})).to_dict()
    changed = _differences(other, block)
    if changed:
        raise MASTProError(
            f"{folder} holds a run with other prompts or settings: {some(changed)}; restore those of that run, or move "
            "its folder away to train anew"
        )


def _differences(before: dict, now: dict) -> list[str]:
    """Of two blocks, in words; what hosts which class is told by the classes where these tell it."""
    theirs, ours = _flat(before), _flat(now)
    changed = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    told = [key for key in changed if key != "resolved.hosts"] or changed
    return [f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}" for key in told]


def _flat(block: dict) -> dict:
    found = {}
    for section, values in block.items():
        for key, value in (values or {}).items() if section != "prediction" else ():
            if key != "classes":
                found[f"{section}.{key}"] = value
                continue
            found["classes"] = ", ".join(entry["label"] for entry in value)
            for entry in value:
                found |= {f"{name} of {entry['label']}": told for name, told in entry.items() if name != "label"}
    return found


def check_same_classes(checkpoint: dict, resolved: dict, file: str) -> None:
    """Raise MASTProError where a trainer's checkpoint was made for other classes, in number, name or order."""
    theirs = checkpoint["init_args"]["plans"].get("mastpro", {}).get("resolved")
    if theirs is None:
        raise MASTProError(
            f"{file} is not a MAST-Pro checkpoint; train with -tr nnUNetTrainerMASTPro, "
            "or continue it with the trainer that wrote it"
        )
    have, want = ([entry["label"] for entry in block["classes"]] for block in (theirs, resolved))
    if have != want:
        raise MASTProError(
            f"{file} has the classes {', '.join(have)}, the data set {', '.join(want)}; "
            "use the checkpoint with its own data set, or train anew"
        )


def check_goes_on(checkpoint: dict, file: str) -> None:
    """Raise MASTProError for a checkpoint that no training wrote: nnU-Net loads the optimizer for --c and --val."""
    if "optimizer_state" not in checkpoint:
        raise MASTProError(
            f"{file} has no optimizer's state, since mastpro weights or mastpro unpack made it: it is for prediction; "
            "give --c and --val the checkpoint that a training wrote"
        )


def check_same_embeddings(saved: Tensor, own: Tensor, file: str) -> None:
    """Raise MASTProError where the encoder gives other embeddings (T, D) than when the checkpoint was trained."""
    if not torch.allclose(saved, own, atol=1e-3):
        raise MASTProError(
            f"{file} was trained with other embeddings of the same sentences, so the text encoder has changed; "
            "restore the encoder, or move the run's folder away to train anew"
        )


def find_changed_prompts(loaded: Tensor, own: Tensor, labels: list[str]) -> list[str]:
    """Labels whose prompt differs between pretrained weights and data set, by their embeddings (T, D).

    Raises MASTProError where the weights hold one class of the data set in another's place.
    """
    same = torch.isclose(loaded[:, None], own[None], atol=1e-3).all(2)  # (T, T)
    for place, label in enumerate(labels):
        others = [labels[other] for other in same[place].nonzero().flatten().tolist()]
        if others and label not in others:
            raise MASTProError(
                f"-pretrained_weights has the class {others[0]} in the place of {label}, and experts are taken over by "
                "place; give the labels in dataset.json the order of the checkpoint's"
            )
    return [label for place, label in enumerate(labels) if not same[place, place]]


def _read_settled(file: Path) -> dict:
    """A JSON file that the training of another fold may be writing just now."""
    for _ in range(10):
        try:
            return json.loads(file.read_text())
        except ValueError:
            time.sleep(0.5)
    raise MASTProError(f"{file} is not valid JSON; move its folder away to train anew, or restore the file")


def _check_shuffled(config: MASTProConfig, prompts: tuple[Prompt, ...]) -> None:
    if "text_shuffled" in config.network.ablate and len(prompts) < 2:
        raise MASTProError(
            f"the only class, {prompts[0].label}, has no other sentence to take; use another trainer than that of "
            "shuffled text, or take text_shuffled out of mastpro.network.ablate in the plans"
        )


def _check_added(config: MASTProConfig, prompts: tuple[Prompt, ...]) -> None:
    """Refuse added types that are no tumour types of the data set, and new ones that are not added."""
    if config.prompts.added and config.network.ablate:
        raise MASTProError(
            f"mastpro.network.ablate={list(config.network.ablate)} with added types: a type is added to a whole "
            "network only; train with nnUNetTrainerMASTPro"
        )
    tumors = [prompt.label for prompt in prompts if prompt.is_tumor]
    for where, names, known in (
        ("prompts.added", config.prompts.added, tumors),
        ("training.new_types", config.training.new_types, config.prompts.added),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise MASTProError(
                f"mastpro.{where} in the plans names {unknown[0]!r}, which is none of {', '.join(known) or 'none'}; "
                "use the plans that mastpro add-tumour wrote, with their own data set"
            )


def _check_top_k(config: MASTProConfig) -> None:
    """Refuse a k_t that exceeds the experts of all tumour types; warn where routing is dense."""
    tasks = sum(entry.is_tumor for entry in config.resolved.classes)
    network = config.network
    if "experts" in network.ablate:
        return
    if tasks and network.top_k_specific > network.specific_experts * tasks:
        raise MASTProError(
            f"top_k_specific={network.top_k_specific} exceeds the {network.specific_experts * tasks} experts of "
            f"{tasks} tumour types; lower mastpro.network.top_k_specific in the plans"
        )
    for group, top_k, experts in (
        ("generic", network.top_k_generic, network.generic_experts),
        ("specific", network.top_k_specific, network.specific_experts * tasks),
    ):
        if top_k >= experts > 0:
            warnings.warn(
                f"routing is dense: top_k_{group}={top_k} keeps all {experts} {group} experts; "
                f"lower mastpro.network.top_k_{group} in the plans",
                stacklevel=3,
            )

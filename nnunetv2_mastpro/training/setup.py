"""What is settled before a training starts: the plans' block, the prompts, the run's folder."""

import json
import warnings
from pathlib import Path

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig, Resolved
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.unet import refuse_patch
from nnunetv2_mastpro.prompts.encoder import Embeddings, embed
from nnunetv2_mastpro.prompts.resolve import resolve_prompts


def resolve(plans: dict, dataset_json: dict) -> tuple[MASTProConfig, Embeddings]:
    """Complete the plans' "mastpro" block from the data set's prompts, and embed their sentences (Eq. 1).

    Raises MASTProError for bad prompts, a bad block, or an encoder that cannot be had.
    """
    block = {key: value for key, value in plans.get("mastpro", {}).items() if key != "resolved"}
    config = MASTProConfig.from_dict(block)
    prompts = resolve_prompts(dataset_json, plans["dataset_name"])
    embeddings = embed([prompt.sentence for prompt in prompts], config.prompts.encoder)
    classes = tuple(ClassSpec(p.label, p.sentence, p.is_tumor, tuple(p.host_structures)) for p in prompts)
    has_regions = any(isinstance(label, (list, tuple)) and len(label) > 1 for label in dataset_json["labels"].values())
    resolved = Resolved(classes, embeddings.vectors.shape[1], has_background=not has_regions)
    completed = MASTProConfig(config.network, config.prompts, config.training, resolved)
    _warn_if_dense(completed)
    return completed, embeddings


def check_patch(configuration: dict) -> None:
    """Raise MASTProError where the planned network cannot take the planned patch."""
    kwargs = configuration["architecture"]["arch_kwargs"]
    reason = refuse_patch(configuration["patch_size"], kwargs["strides"]) if "strides" in kwargs else None
    if reason:
        raise MASTProError(f"{reason} in the plans")


def check_same_run(results_folder: str, block: dict) -> None:
    """Raise MASTProError where the folder holds checkpoints of a run with another "mastpro" block."""
    folder = Path(results_folder)
    plans_file = folder / "plans.json"
    if not plans_file.is_file() or not any(folder.glob("fold_*/checkpoint_*.pth")):
        return
    other = json.loads(plans_file.read_text()).get("mastpro", {})
    changed = [key for key in block if block[key] != other.get(key)]
    if changed:
        raise MASTProError(
            f"{folder} holds a run whose mastpro block differs in {', '.join(changed)}; restore the "
            "prompts and plans of that run, or move its folder away to train anew"
        )


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


def _warn_if_dense(config: MASTProConfig) -> None:
    tasks = sum(entry.is_tumor for entry in config.resolved.classes)
    network = config.network
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

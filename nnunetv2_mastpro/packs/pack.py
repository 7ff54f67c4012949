"""Expert packs: a safetensors file with what one tumour type owns, and in its header what that fits on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunetv2_mastpro.checkpoints import read_with_header, told_as, version_header
from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import check_new, write_atomically
from nnunetv2_mastpro.listing import nearest
from nnunetv2_mastpro.packs.model import Model
from nnunetv2_mastpro.weights.owned import shared_hash, take_type

FORMAT = "nnunetv2_mastpro pack 3"
NOT_SAID = "not said"
WANTED = "give files that mastpro pack wrote"


@dataclass(frozen=True)
class Pack:
    """One tumour type. `base_sha256`: of the shared parts that it was trained on."""

    path: Path
    spec: ClassSpec
    network: dict
    encoder: str
    base_sha256: str
    configuration: str
    licence: str
    tensors: dict[str, Tensor]


def write_pack(model: Model, label: str, path: Path, licence: str | None = None) -> None:
    """Packs the tumour type `label` of a model. Raises MASTProError, before anything is written."""
    from safetensors.torch import save

    tumors = [entry.label for entry in model.classes if entry.is_tumor]
    if label not in tumors:
        raise MASTProError(
            f"--type {label!r} is no tumour type of {model.folder}; {nearest(label, tumors)}Known: {', '.join(tumors)}"
        )
    check_new(path)
    index = [entry.label for entry in model.classes].index(label)
    metadata = {
        "format": FORMAT,
        "class": json.dumps(dataclasses.asdict(model.classes[index])),
        "network": json.dumps(dataclasses.asdict(model.config.network)),
        "encoder": model.config.prompts.encoder,
        "base_sha256": shared_hash(model.weights),
        "configuration": model.checkpoint["init_args"]["configuration"],
        "licence": licence or NOT_SAID,
        "versions": version_header(),
    }
    tensors = {name: tensor.contiguous() for name, tensor in take_type(model.weights, model.classes, index).items()}
    write_atomically({path: save(tensors, metadata=metadata)})


def read_pack(path: Path) -> Pack:
    """Raises MASTProError for what is no pack, or a damaged one."""
    with told_as(path, "a pack", WANTED):
        metadata, tensors = read_with_header(path, FORMAT, "pack", WANTED)
        entry = json.loads(metadata["class"])
        spec = ClassSpec(**{**entry, "host_structures": tuple(entry["host_structures"])})
        values = {key: metadata[key] for key in ("encoder", "base_sha256", "configuration", "licence")}
        network = json.loads(metadata["network"])
    return Pack(path, spec, network, tensors=tensors, **values)


def check_fits(pack: Pack, model: Model) -> None:
    """Raise MASTProError unless the pack was trained on just this base, with networks of these sizes."""
    own, defaults = (config.to_dict()["network"] for config in (model.config, MASTProConfig()))
    packed = {**defaults, **pack.network}  # a pack may be older than a setting
    differing = [name for name in own if packed[name] != own[name]]
    if differing:
        told = ", ".join(f"{name}={packed[name]} ({own[name]} in the model)" for name in differing)
        raise MASTProError(f"{pack.path} was trained with {told}; give packs that were trained on {model.folder}")
    configuration = model.checkpoint["init_args"]["configuration"]
    for name, theirs, ours in (
        ("configuration", pack.configuration, configuration),
        ("text encoder", pack.encoder, model.config.prompts.encoder),
    ):
        if theirs != ours:
            raise MASTProError(
                f"{pack.path} was trained with the {name} {theirs}, the model with {ours}; they must agree"
            )
    base = shared_hash(model.weights)
    if pack.base_sha256 != base:
        raise MASTProError(
            f"{pack.path} was trained on the base {pack.base_sha256}, {model.file} is {base}; unpack it into the model "
            "that its training started from (mastpro add-tumour -m)"
        )


def check_tensors(pack: Pack, wanted: Mapping[str, Tensor]) -> None:
    """Raise MASTProError unless the pack has tensors of these names and shapes, all numbers finite."""
    found, shapes = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (pack.tensors, wanted)
    )
    wrong = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
    if wrong:
        raise MASTProError(
            f"{pack.path} has {wrong[0]} of shape {found.get(wrong[0])}, not {shapes.get(wrong[0])}; pack it again"
        )
    if not all(tensor.isfinite().all() for tensor in pack.tensors.values()):
        raise MASTProError(f"{pack.path} holds numbers that are not finite; pack another checkpoint of its training")

"""Which tensors of a network's state a tumour type owns, and which all types share. T classes, D text width."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nnunetv2_mastpro.config import ClassSpec, NetworkConfig
from nnunetv2_mastpro.network.experts import DMoE

FACTORS = ("down", "up", "filters")  # of an expert; filters where mastpro.network.expert_kernel is above 1
OF_A_TYPE = rf"router\.specific\.\d+|({'|'.join(FACTORS)})\.[1-9]\d*"
OWNED = re.compile(rf"experts\.\w+\.({OF_A_TYPE})|offsets\.\d+|embeddings|trained")
SITE = re.compile(r"experts\.(\w+)\.router\.generic")


def shared_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Backbone, generic experts, fusion, anatomy encoder, mask proposal, background: all that no type owns."""
    return sorted(name for name in weights if not OWNED.fullmatch(name))


def hash_tensors(weights: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """SHA-256 over names, types, shapes and bytes, by sorted name."""
    digest = hashlib.sha256()
    for name in sorted(names):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def shared_hash(weights: Mapping[str, Tensor]) -> str:
    """Of what is shared."""
    return hash_tensors(weights, shared_names(weights))


def sites(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Adapted stage -> its channels."""
    found = {match[1]: weights[name].shape[1] for name in weights if (match := SITE.fullmatch(name))}
    return dict(sorted(found.items()))


def filter_axes(weights: Mapping[str, Tensor], site: str) -> int:
    """Over how many axes the experts of a stage filter; 0 where they do not."""
    filters = weights.get(f"experts.{site}.filters.0")
    return 0 if filters is None else filters.ndim - 2


def owned_names(weights: Mapping[str, Tensor], classes: Sequence[ClassSpec], index: int) -> dict[str, str]:
    """Name in a pack -> name in the state, of what tumour type `index` of the classes owns, but its embedding."""
    names = [f"experts.{site}.{part}" for site in sites(weights) for part in ("router", *FACTORS)]
    places = {name: _place(name, classes, index) for name in [*names, *["offset"] * classes[index].added]}
    return {name: place for name, place in places.items() if place in weights}


def take_type(weights: Mapping[str, Tensor], classes: Sequence[ClassSpec], index: int) -> dict[str, Tensor]:
    """Everything that tumour type `index` owns, by the names of a pack."""
    own = {name: weights[key].clone() for name, key in owned_names(weights, classes, index).items()}
    return {**own, "embedding": weights["embeddings"][index].clone()}


def fresh_type(weights: Mapping[str, Tensor], network: NetworkConfig, embedding: Tensor) -> dict[str, Tensor]:
    """What a new type owns before it is trained: experts whose way up is zero, and an offset of zero."""
    own = {"embedding": embedding.clone(), "offset": torch.zeros_like(embedding)}
    for site, channels in sites(weights).items():
        moe = DMoE(
            dim=channels,
            rank=network.rank,
            num_generic=network.generic_experts,
            num_specific=network.specific_experts,
            num_tasks=1,
            top_k_generic=network.top_k_generic,
            top_k_specific=network.top_k_specific,
            joint_router=network.router == "joint",
            kernel=network.expert_kernel,
            axes=filter_axes(weights, site),
        )
        for name, parameter in zip(("router", *FACTORS), moe.own_parameters(0), strict=False):
            own[f"experts.{site}.{name}"] = parameter.detach()
    return own


def append_types(
    weights: Mapping[str, Tensor], classes: Sequence[ClassSpec], types: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """A new state with the types at its end. `classes`: all of the new state, the appended ones last."""
    grown = dict(weights)
    for index, own in enumerate(types, len(classes) - len(types)):
        for name, tensor in own.items():
            if name == "embedding":
                grown["embeddings"] = torch.cat([grown["embeddings"], tensor[None].to(grown["embeddings"])])
            else:
                grown[_place(name, classes, index)] = tensor
    return grown


def _place(name: str, classes: Sequence[ClassSpec], index: int) -> str:
    task = sum(entry.is_tumor for entry in classes[:index])
    if name == "offset":
        return f"offsets.{sum(entry.added for entry in classes[:index])}"
    site, part = name.rsplit(".", 1)
    return f"{site}.router.specific.{task}" if part == "router" else f"{site}.{part}.{1 + task}"

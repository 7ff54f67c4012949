"""Which tensors of a network's state a tumour type owns, and which all types share. T classes, D text width."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nnunetv2_mastpro.checkpoints import hash_tensors
from nnunetv2_mastpro.config import ClassSpec
from nnunetv2_mastpro.network.parts import WITH_ADDED

FACTORS = ("down", "up")  # of an expert
OWNED = re.compile(
    r"experts\.\w+\.(router\.specific\.\d+|(down|up)\.[1-9]\d*)|added_updates\.\d+\..+"
    r"|offsets\.\d+|embeddings|trained"
)
UPDATES = "updates."  # in a pack: those of the weights of backbone, fusion and head
SITE = re.compile(r"experts\.(\w+)\.router\.generic")


def shared_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Backbone, generic experts, fusion, anatomy encoder, mask proposal, background: all that no type owns."""
    return sorted(name for name in weights if not OWNED.fullmatch(name))


def shared_hash(weights: Mapping[str, Tensor]) -> str:
    """Of what is shared."""
    return hash_tensors(weights, shared_names(weights))


def sites(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of stages."""
    return sorted(match[1] for name in weights if (match := SITE.fullmatch(name)))


def owned_names(weights: Mapping[str, Tensor], classes: Sequence[ClassSpec], index: int) -> dict[str, str]:
    """Name in a pack -> name in the state, of what tumour type `index` of the classes owns, but its embedding."""
    names = [f"experts.{site}.{part}" for site in sites(weights) for part in ("router", *FACTORS)]
    if classes[index].added:
        own = _place(UPDATES, classes, index)
        names += ["offset", *(f"{UPDATES}{name.removeprefix(own)}" for name in weights if name.startswith(own))]
    places = {name: _place(name, classes, index) for name in names}
    return {name: place for name, place in places.items() if place in weights}


def take_type(weights: Mapping[str, Tensor], classes: Sequence[ClassSpec], index: int) -> dict[str, Tensor]:
    """Everything that tumour type `index` owns, by the names of a pack."""
    own = {name: weights[key].clone() for name, key in owned_names(weights, classes, index).items()}
    return {**own, "embedding": weights["embeddings"][index].clone()}


def append_types(
    weights: Mapping[str, Tensor], classes: Sequence[ClassSpec], types: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """A new state with the types at its end. `classes`: all of the new state, the appended ones last."""
    grown = {**weights, "trained": torch.tensor(int(weights["trained"]) | WITH_ADDED)}
    for index, own in enumerate(types, len(classes) - len(types)):
        for name, tensor in own.items():
            if name == "embedding":
                grown["embeddings"] = torch.cat([grown["embeddings"], tensor[None].to(grown["embeddings"])])
            else:
                grown[_place(name, classes, index)] = tensor
    return grown


def _place(name: str, classes: Sequence[ClassSpec], index: int) -> str:
    task, added = sum(entry.is_tumor for entry in classes[:index]), sum(entry.added for entry in classes[:index])
    if name == "offset":
        return f"offsets.{added}"
    if name.startswith(UPDATES):
        return f"added_updates.{added}.{name.removeprefix(UPDATES)}"
    site, part = name.rsplit(".", 1)
    return f"{site}.router.specific.{task}" if part == "router" else f"{site}.{part}.{1 + task}"

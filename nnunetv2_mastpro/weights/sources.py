"""Whose weights can start a MAST-Pro network: per source one function from the file's names to the network's.

A function gives None for a file that is not its own. References: MONAI's networks/nets/swin_unetr.py (load_from),
Project-MONAI/research-contributions SwinUNETR/Pretrain, ljwztc/CLIP-Driven-Universal-Model model/Universal_model.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nnunetv2_mastpro.config import ClassSpec
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.parts import BACKBONE
from nnunetv2_mastpro.weights.owned import owned_names, shared_names
from nnunetv2_mastpro.weights.read import Weights

BY_CLASS = re.compile(r"text\.vectors|head\.layers\..+|head\.presence")  # of ablations: a row for each class
SWIN = "backbone.swinViT."
Names = dict[str, str] | None  # of the file -> of the network; what the network lacks of them is ignored


def from_mastpro(given: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassSpec]) -> Names:
    """What types share as it is; what a type owns where a tumour type of its name is in both."""
    if "network_weights" not in given.content or "embeddings" not in given.state:
        return None
    names = {name: name for name in shared_names(given.state)}
    if [entry.label for entry in given.classes] != [entry.label for entry in classes]:
        names = {name: place for name, place in names.items() if not BY_CLASS.fullmatch(name)}
    places = {entry.label: index for index, entry in enumerate(classes) if entry.is_tumor}
    for index, entry in enumerate(given.classes):
        if entry.is_tumor and entry.label in places:
            here = owned_names(own, classes, places[entry.label])
            theirs = owned_names(given.state, given.classes, index)
            names |= {name: here[part] for part, name in theirs.items() if part in here}
    _check_updates(given, own)
    return names


def _check_updates(given: Weights, own: Mapping[str, Tensor]) -> None:
    """Raise MASTProError where a backbone would be taken without its trained updates, which experts and head rest on.

    Without trained ones it is sound: new updates start at zero.
    """

    def rank(state: Mapping[str, Tensor]) -> int:
        return max((len(state[name]) for name in state if name.startswith("updates.down.")), default=0)

    changes = [t for name, t in given.state.items() if name.startswith(("updates.up.", "updates.shift."))]
    if any(bool(tensor.any()) for tensor in changes) and rank(given.state) != rank(own):
        raise MASTProError(
            f"{given.file} was trained with backbone_rank={rank(given.state)}, the plans have another; set "
            f"mastpro.network.backbone_rank in the plans to {rank(given.state)}"
        )


def from_nnunet(given: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassSpec]) -> Names:
    """The planned network, which the backbone is but for its segmentation layers; nnUNetTrainerUniversal has ours."""
    if "network_weights" not in given.content:
        return None
    ours = {name: name for name in given.state if name.startswith(BACKBONE)}
    return ours or {name: BACKBONE + name for name in given.state}


def from_universal(given: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassSpec]) -> Names:
    """`net` of the CLIP-Driven Universal Model: backbone beside controller, organ_embedding, GAP, precls_conv."""
    if "controller.weight" not in given.state or not any(name.startswith(BACKBONE) for name in given.state):
        return None
    return {name: name for name in given.state if name.startswith(BACKBONE)}


def from_swinunetr(given: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassSpec]) -> Names:
    """MONAI's own names."""
    if not {"swinViT.patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight"} <= given.state.keys():
        return None
    return {name: BACKBONE + name for name in given.state}


def from_swin_encoder(given: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassSpec]) -> Names:
    """model_swinvit.pt and what MONAI's pretraining writes: bare or under swin_vit; fc became linear."""
    bare = {name: name.removeprefix("swinViT.").removeprefix("swin_vit.") for name in given.state}
    if not {"patch_embed.proj.weight", "layers1.0.blocks.0.attn.qkv.weight"} <= set(bare.values()):
        return None
    return {name: SWIN + rest.replace(".mlp.fc", ".mlp.linear") for name, rest in bare.items()}


@dataclass(frozen=True)
class Source:
    """`covers`: the start of the names of the part of the backbone that such a file holds."""

    name: str
    rename: Callable[[Weights, Mapping[str, Tensor], Sequence[ClassSpec]], Names]
    covers: str = BACKBONE


SOURCES = (  # the first that knows the file
    Source("a MAST-Pro checkpoint", from_mastpro),
    Source("a checkpoint of nnU-Net", from_nnunet),
    Source("a checkpoint of the CLIP-Driven Universal Model", from_universal),
    Source("weights of MONAI's SwinUNETR", from_swinunetr),
    Source("MONAI's self-supervised Swin encoder", from_swin_encoder, SWIN),
)


def recognise(given: Weights, own: Mapping[str, Tensor], classes: Sequence[ClassSpec]) -> tuple[Source, dict[str, str]]:
    """The source of a file and the network's names of its tensors. Raises MASTProError where none is known."""
    for source in SOURCES:
        names = source.rename(given, own, classes)
        if names is not None:
            return source, names
    known = "; ".join(source.name for source in SOURCES)
    raise MASTProError(
        f"{given.file} has names such as {sorted(given.state)[0]!r}, which no known network has; give one of: {known}"
    )

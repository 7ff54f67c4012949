"""Small checkpoints: what was trained on top of a frozen network, and the hash of what was frozen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunetv2_mastpro.checkpoints import hash_tensors, read_with_header, told_as, version_header
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.network.parts import ANATOMY, BACKBONE

NAME = "checkpoint_adapters.safetensors"
FORMAT = "nnunetv2_mastpro adapters 1"
WANTED = f"give the {NAME} of a PEFT training"


@dataclass(frozen=True)
class Adapters:
    """`tensors`: trained parameters, and buffers that are not the backbone's. `init_args` as nnU-Net has them."""

    file: Path
    tensors: dict[str, Tensor]
    frozen_sha256: str
    init_args: dict
    trainer_name: str
    mirroring_axes: tuple[int, ...] | None
    checkpoint: str  # the file that was saved with it


def write_adapters(
    network: MASTProNet, init_args: dict, trainer_name: str, mirroring_axes: tuple[int, ...] | None, checkpoint: Path
) -> None:
    """Beside the checkpoint, in place of an earlier one. Where the backbone is trained there are none."""
    if network.backbone_is_trained:
        checkpoint.with_name(NAME).unlink(missing_ok=True)  # of an earlier training in this folder
        return
    from safetensors.torch import save

    weights = network.state_dict()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in network.named_buffers() if not name.startswith((BACKBONE, ANATOMY))}
    names = [name for name in weights if name in trained | buffers]
    told = {key: init_args[key] for key in ("plans", "configuration", "fold", "dataset_json")}
    metadata = {
        "format": FORMAT,
        "checkpoint": checkpoint.name,
        "trainer_name": trainer_name,
        "frozen_sha256": hash_tensors(weights, weights.keys() - set(names)),
        "classes": json.dumps(told["plans"]["mastpro"]["resolved"]["classes"]),
        "inference_allowed_mirroring_axes": json.dumps(mirroring_axes),
        "versions": version_header(),
        **{key: json.dumps(value) for key, value in told.items()},
    }
    tensors = {name: weights[name].detach().cpu().contiguous() for name in names}
    write_atomically({checkpoint.with_name(NAME): save(tensors, metadata=metadata)})


def read_adapters(file: Path) -> Adapters:
    """Raises MASTProError for anything else, and for a damaged file."""
    with told_as(file, "adapters", WANTED):
        metadata, tensors = read_with_header(file, FORMAT, "file of adapters", WANTED)
        axes = json.loads(metadata["inference_allowed_mirroring_axes"])
        return Adapters(
            file=file,
            tensors=tensors,
            frozen_sha256=metadata["frozen_sha256"],
            init_args={key: json.loads(metadata[key]) for key in ("plans", "configuration", "fold", "dataset_json")},
            trainer_name=metadata["trainer_name"],
            mirroring_axes=None if axes is None else tuple(axes),
            checkpoint=metadata["checkpoint"],
        )

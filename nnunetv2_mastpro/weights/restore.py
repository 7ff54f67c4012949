"""From a frozen network and what was trained on top of it to the checkpoint that was saved with both."""

from __future__ import annotations

from nnunetv2_mastpro.adapters import Adapters
from nnunetv2_mastpro.checkpoints import hash_tensors
from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.weights.convert import build_network, fill, percent
from nnunetv2_mastpro.weights.read import Weights


def restore(given: Weights, adapters: Adapters) -> dict:
    """A checkpoint for prediction, without an optimizer's state; its network is equal to the bit.

    `given`: whatever the backbone came from. Raises MASTProError where that is another than the adapters' own.
    """
    init_args = adapters.init_args
    config = MASTProConfig.from_dict(init_args["plans"].get("mastpro", {}))
    if config.resolved is None:
        raise MASTProError(f"{adapters.file} has no mastpro.resolved in its plans; give it as the training wrote it")
    network = build_network(init_args["plans"], init_args["configuration"], init_args["dataset_json"])
    receipt = fill(network, config.resolved.classes, given)
    weights = network.state_dict()
    found = hash_tensors(weights, weights.keys() - adapters.tensors.keys())
    if found != adapters.frozen_sha256:
        raise MASTProError(
            f"{adapters.file} was trained on the network of SHA-256 {adapters.frozen_sha256}, {given.file} "
            f"({receipt.source}, {percent(receipt.whole)} of the backbone matched) gives {found}; give --from the file "
            "that its training started from"
        )
    trained = adapters.tensors["trained"].to(weights["trained"].dtype)  # of files of before a bool
    tensors = {**adapters.tensors, "trained": trained}
    wrong = [
        name
        for name, tensor in tensors.items()
        if name not in weights or (weights[name].shape, weights[name].dtype) != (tensor.shape, tensor.dtype)
    ]
    if wrong:
        raise MASTProError(f"{adapters.file} has {wrong[0]}, which its own plans do not describe; restore the file")
    return {
        "network_weights": {name: tensors.get(name, tensor) for name, tensor in weights.items()},
        "init_args": init_args,
        "trainer_name": adapters.trainer_name,
        "inference_allowed_mirroring_axes": adapters.mirroring_axes,
    }

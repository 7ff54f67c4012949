"""From a file of weights to the network that plans describe, with a receipt of what was matched."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.nn import Parameter

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import some, table
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.network.parts import ANATOMY, BACKBONE
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE
from nnunetv2_mastpro.training.build import build_planned
from nnunetv2_mastpro.training.recipe import read_number
from nnunetv2_mastpro.training.setup import check_network, resolve
from nnunetv2_mastpro.weights.read import Weights
from nnunetv2_mastpro.weights.sources import SWIN, recognise

TRAINER = "nnUNetTrainerMASTPro"
PRETRAINED = f"{ANATOMY}pretrained"  # a frozen encoder of organ masks has the weights of a file
SET_HERE = ("embeddings", "trained", PRETRAINED)


def percent(share: float) -> str:
    """Rounded down: 100.0% is all of it."""
    return f"{int(1000 * share) / 10:.1f}%"


@dataclass(frozen=True)
class Receipt:
    """Names -> how many numbers each holds; an alias counts with its first name. Shares are of parameters.

    `share` is over the part of the backbone that `covers` names and the kind of source holds, `whole` over all of it.
    """

    file: Path
    source: str
    covers: str
    loaded: Mapping[str, int]
    fresh: Mapping[str, int]
    ignored: Mapping[str, int]
    share: float
    whole: float

    def lines(self) -> list[str]:
        """For the terminal."""
        kinds = (("loaded", self.loaded), ("re-initialised", self.fresh), ("ignored", self.ignored))
        rows = [
            (kind, f"{len(names):,} tensors", f"{sum(names.values()):,} numbers", some([*names], 3))
            for kind, names in kinds
        ]
        shares = f"matched {percent(self.share)} of the parameters of {self.covers.rstrip('.')}"
        if self.covers != BACKBONE:
            shares += f", the part that such a file holds, and {percent(self.whole)} of the backbone"
        return [f"{self.file} is {self.source}", *table(rows), shares]


@dataclass(frozen=True)
class Start:
    """What was matched, and the checkpoint made of it."""

    receipt: Receipt
    checkpoint: dict

    @property
    def freezes(self) -> bool:
        """Whether the trainer will freeze the backbone."""
        return bool(self.checkpoint["network_weights"]["trained"])


def build_network(plans: dict, configuration: str, dataset_json: dict) -> MASTProNet:
    """The network of plans whose "mastpro" block is resolved. Its numbers are new; MASTPRO_SEED seeds them."""
    seed = read_number("MASTPRO_SEED", 0)
    if seed is not None:
        torch.manual_seed(seed)
    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, settings, dataset_json)
    outputs = manager.get_label_manager(dataset_json).num_segmentation_heads
    return build_planned(manager, settings, channels, outputs)


def fill(network: MASTProNet, classes: Sequence[ClassSpec], given: Weights) -> Receipt:
    """Writes what fits into the network. `classes`: the network's. Raises MASTProError for an unknown source."""
    own = network.state_dict(keep_vars=True)
    source, names = recognise(given, own, classes)
    loaded: set[int] = set()
    ignored: dict[str, int] = {}
    for name, tensor in given.state.items():
        places = [own.get(place) for place in places_of(names.get(name, ""), names)]
        fitting = [place for place in places if place is not None and place.shape == tensor.shape]
        if not fitting:
            ignored[name] = tensor.numel()
        for place in fitting:
            with torch.no_grad():
                place.copy_(tensor)
            loaded.add(id(place))
    if PRETRAINED in own:
        frozen = [tensor for name, tensor in own.items() if name.startswith(ANATOMY) and isinstance(tensor, Parameter)]
        sound = given.state.get(PRETRAINED, given.state.get("trained", True))
        own[PRETRAINED].fill_(bool(sound) and all(id(tensor) in loaded for tensor in frozen))
    first: dict[int, str] = {}
    for name, tensor in own.items():
        first.setdefault(id(tensor), name)
    sizes = {name: own[name].numel() for name in first.values() if name not in SET_HERE}
    matched = {name: size for name, size in sizes.items() if id(own[name]) in loaded}
    backbone = [name for name in sizes if name.startswith(BACKBONE) and isinstance(own[name], Parameter)]
    return Receipt(
        file=given.file,
        source=source.name,
        covers=source.covers,
        loaded=matched,
        fresh={name: size for name, size in sizes.items() if name not in matched},
        ignored=ignored,
        share=_share(matched, [name for name in backbone if name.startswith(source.covers)], sizes),
        whole=_share(matched, backbone, sizes),
    )


def places_of(name: str, names: Mapping[str, str]) -> list[str]:
    """Where a tensor goes: one of the Swin transformer also into a frozen encoder of organ masks, which the file itself
    does not have.
    """
    twin = name.replace(SWIN, f"{ANATOMY}swin.", 1)
    return [name] if twin == name or twin in names.values() else [name, twin]


def _share(matched: Mapping[str, int], names: Sequence[str], sizes: Mapping[str, int]) -> float:
    total = sum(sizes[name] for name in names)
    return sum(sizes[name] for name in names if name in matched) / total if total else 0.0


def convert(given: Weights, plans: dict, configuration: str, dataset_json: dict, min_share: float) -> Start:
    """A checkpoint that -pretrained_weights takes, with the data set's own prompts.

    It counts as trained, so that the trainer freezes its backbone, where the file gave the whole of that and is not
    itself untrained. Raises MASTProError where less than `min_share` of the part that such a file holds was matched.
    """
    config, embeddings = resolve(plans, dataset_json)
    plans = {**copy.deepcopy(plans), "mastpro": config.to_dict()}
    check_network(PlansManager(plans).get_configuration(configuration).configuration, config.network)
    network = build_network(plans, configuration, dataset_json)
    receipt = fill(network, config.resolved.classes, given)
    if receipt.share < min_share:
        raise MASTProError(
            f"{given.file} is {receipt.source} that matches {percent(receipt.share)} of the parameters of "
            f"{receipt.covers.rstrip('.')} in {plans['plans_name']} {configuration}, less than --min-share "
            f"{min_share:g}; give plans of the file's own network, or another file"
        )
    network.embeddings.copy_(embeddings.vectors)
    if receipt.whole == 1 and bool(given.state.get("trained", True)):
        network.mark_trained()
    init_args = {"plans": plans, "configuration": configuration, "dataset_json": dataset_json}
    checkpoint = {"network_weights": network.state_dict(), "init_args": init_args, "trainer_name": TRAINER}
    return Start(receipt, checkpoint)


def network_differences(given: Weights, init_args: dict) -> list[str]:
    """Where a MAST-Pro file's network has other settings than the plans, which is why tensors are left out or new."""

    def settings(args: dict) -> dict:
        plans = args["plans"]
        stage = PlansManager(plans).get_configuration(args["configuration"]).previous_stage_name
        network = MASTProConfig.from_dict(plans.get("mastpro", {})).to_dict()["network"]
        return {**network, "organ masks": "yes" if stage == ANATOMY_STAGE else "no"}

    theirs = given.content.get("init_args", {})
    if not given.classes or not {"plans", "configuration"} <= theirs.keys():
        return []
    before, now = settings(theirs), settings(init_args)
    found = [f"{key} {before[key]} (plans: {now[key]})" for key in now if before[key] != now[key]]
    if not found:
        return []
    return [
        f"note: the file's network, of {theirs['plans']['plans_name']}, has {', '.join(found)}; are the plans right?"
    ]


def write_checkpoint(checkpoint: dict, file: Path) -> None:
    """Whole or not at all."""
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    write_atomically({file: stream.getvalue()})

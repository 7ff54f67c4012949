"""Organ masks as nnU-Net's previous stage: which configurations take them, and which class lives in what.

nnU-Net feeds the label map of a previous stage to a network, one channel per foreground label. No stage of this name
is ever planned or trained: its maps are the host-organ maps that `mastpro anatomy` writes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.hosts import host_values

ANATOMY_STAGE = "anatomy"


def add_anatomy_stage(plans: dict) -> dict:
    """New plans in which every configuration without a previous stage has the organ masks as such.

    Stages of nnU-Net's cascade keep their own. data_identifier stays, so that preprocessed data are used again.
    Raises MASTProError where no configuration is left to take the masks.
    """
    plans = copy.deepcopy(plans)
    configurations = plans["configurations"]
    stages = {name: inherited(configurations, name, "previous_stage") for name in configurations}
    for name, stage in stages.items():
        if stage is None:
            configurations[name]["previous_stage"] = ANATOMY_STAGE
    if all(stage not in (None, ANATOMY_STAGE) for stage in stages.values()):
        raise MASTProError(
            f"every configuration of the plans is a cascade stage already ({', '.join(stages)}) and cannot take organ "
            "masks; give plans with 3d_fullres"
        )
    return plans


def inherited(configurations: dict, name: str, key: str):
    """A value as nnU-Net's PlansManager resolves it: a configuration's own, else of the one that it inherits from.

    None where nothing on the way has it. Raises MASTProError for a circle and for an unknown name.
    """
    visited: list[str] = []
    while name in configurations and name not in visited:
        if key in configurations[name]:
            return configurations[name][key]
        if "inherits_from" not in configurations[name]:
            return None
        visited.append(name)
        name = configurations[name]["inherits_from"]
    raise MASTProError(
        f"configuration {visited[-1] if visited else name} in the plans inherits from {name}, "
        f"which {'leads back to it' if name in visited else 'is not there'}; correct inherits_from"
    )


def plans_files(folder: Path | None) -> Iterator[tuple[Path, dict]]:
    """A data set's plans, by name; other and unreadable files of its preprocessed folder are passed over."""
    for path in sorted(folder.glob("*.json")) if folder is not None else ():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and isinstance(content.get("configurations"), dict):
            yield path, content


def anatomy_data(plans: dict) -> list[str]:
    """data_identifiers of the configurations that take organ masks; none where they inherit in a circle."""
    configurations = plans["configurations"]
    try:
        found = [
            inherited(configurations, name, "data_identifier")
            for name in configurations
            if inherited(configurations, name, "previous_stage") == ANATOMY_STAGE
        ]
    except MASTProError:
        return []
    return list(dict.fromkeys(identifier for identifier in found if identifier))


def host_table(dataset_json: dict, prompts: Sequence) -> tuple[HostValue, ...]:
    """As planning.hosts.host_values. Raises MASTProError where no class has a host structure, too."""
    hosts = host_values(dataset_json, prompts)
    if not hosts:
        raise MASTProError(
            f"none of the classes {', '.join(prompt.label for prompt in prompts)} has a host structure, so organ masks "
            "would say nothing; give host_structures in mastpro.prompts of dataset.json (mastpro prompts -d DATASET "
            "--write prepares the section), or leave --anatomy out"
        )
    return hosts

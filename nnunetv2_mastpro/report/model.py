"""What a results folder tells of a model: classes, prompts, host organs, and of each fold curves, experts, cost."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.config import HostValue, MASTProConfig
from nnunetv2_mastpro.datasets import CHECKPOINTS, find_folds, label_values, read_trained
from nnunetv2_mastpro.errors import MASTProError

COLORS = ("#ff5f56", "#ffd23f", "#3ddc97", "#4cc9f0", "#f78cff", "#ff9f43", "#9aff5a", "#b8b8ff")
LENGTH = re.compile(r"\d+ epochs? of (\d+) training steps")  # training/partial.py
PARTS_ROW = re.compile(r"^([a-z][a-z ]*?) +([\d,]+) +([\d,]+) *$", re.MULTILINE)


@dataclass(frozen=True)
class Output:
    """A foreground class: its values in a label map, its prompt, the map values of its host organs."""

    label: str
    values: tuple[int, ...]
    color: str
    is_tumor: bool
    sentence: str
    host_structures: tuple[str, ...]
    host_values: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """For a reader."""
        return self.label.replace("_", " ")

    def marks(self, labelmap: np.ndarray) -> bool:
        """Whether the class is there."""
        return bool(np.isin(labelmap, self.values).any())


@dataclass(frozen=True)
class Fold:
    """One training. Curves are nnU-Net's logging, a value per epoch; empty where the checkpoint holds none."""

    name: str
    checkpoint: Path
    trainer: str
    configuration: str
    curves: dict = field(default_factory=dict)
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)  # parameters: all, trained
    steps_per_epoch: int | None = None  # where the log tells
    machine: dict[str, str] = field(default_factory=dict)
    usage: dict | None = None  # expert_usage.json


@dataclass(frozen=True)
class Model:
    """A trained model. `config` is None for one that MAST-Pro's trainers did not make."""

    folder: Path
    dataset_json: dict
    plans: dict
    config: MASTProConfig | None
    classes: tuple[Output, ...]
    hosts: tuple[HostValue, ...]
    folds: tuple[Fold, ...]

    @property
    def names(self) -> tuple[str, str, str]:
        """Trainer, plans, configuration."""
        fold = self.folds[0]
        return fold.trainer, self.plans.get("plans_name", ""), fold.configuration

    @property
    def is_in_results(self) -> bool:
        """Whether the folder is named as nnU-Net's commands find it; what mastpro unpack writes is not."""
        return self.folder.resolve().name == "__".join(self.names)

    @property
    def configuration(self) -> dict:
        """Its entry in the plans."""
        return self.plans.get("configurations", {}).get(self.names[2], {})

    @property
    def shown(self) -> tuple[Output, ...]:
        """The classes that pictures are about: tumour types where there are any."""
        return tuple(entry for entry in self.classes if entry.is_tumor) or self.classes

    @property
    def shown_colors(self) -> dict[str, str]:
        """Name -> colour of the classes that pictures are about, for a legend."""
        return {entry.name: entry.color for entry in self.shown}

    @property
    def allowed(self) -> frozenset[int]:
        """Values of a prediction."""
        return frozenset({0}).union(*(entry.values for entry in self.classes))

    @property
    def ignored(self) -> int | None:
        """The value of what was not looked at, if labels have one."""
        return label_values(self.dataset_json).get("ignore", (None,))[0]

    @property
    def value_colors(self) -> dict[int, tuple[str, str]]:
        """Value of a label map -> name and colour: the class with fewest values that has it."""
        ordered = sorted(self.classes, key=lambda entry: -len(entry.values))
        return {value: (entry.name, entry.color) for entry in ordered for value in entry.values}


def read_model(folder: Path, wanted: list[str] | None, with_maps: bool) -> Model:
    """Raises MASTProError where the folder is none of nnU-Net's. `with_maps`: host-organ maps are going to be shown."""
    plans, dataset_json = read_trained(folder)
    config = MASTProConfig.from_dict(plans["mastpro"]) if "mastpro" in plans else None
    if config is not None and config.resolved is None:
        config = None  # a stock trainer with plans that hold the block
    classes, hosts = _classes(dataset_json, plans.get("dataset_name", ""), config, with_maps)
    folds = tuple(_read_fold(path) for path in find_folds(folder, wanted, CHECKPOINTS))
    return Model(folder, dataset_json, plans, config, classes, hosts, folds)


def _classes(dataset_json: dict, dataset_name: str, config: MASTProConfig | None, with_maps: bool):
    """Outputs in the order of the network, and the table of the host-organ maps."""
    from nnunetv2_mastpro.planning.hosts import host_values
    from nnunetv2_mastpro.prompts.resolve import resolve_quietly

    if config:
        entries, hosts = config.resolved.classes, config.resolved.hosts
    else:
        entries, hosts = resolve_quietly(dataset_json, dataset_name), ()
    labels = dataset_json["labels"]
    strange = [entry.label for entry in entries if entry.label not in labels]
    if strange:
        raise MASTProError(
            f"plans.json has the class {strange[0]}, dataset.json has not; restore the model's own files"
        )
    if with_maps and not hosts:  # trained without organ masks, but the table is the data set's
        hosts = host_values(dataset_json, entries)
    outputs = tuple(
        Output(
            label=entry.label,
            values=tuple(map(int, value)) if isinstance(value := labels[entry.label], list) else (int(value),),
            color=_color(index),
            is_tumor=entry.is_tumor,
            sentence=entry.sentence,
            host_structures=tuple(entry.host_structures),
            host_values=tuple(host.value for host in hosts if index in host.classes),
        )
        for index, entry in enumerate(entries)
    )
    return outputs, hosts


def _color(index: int) -> str:
    """One for each class: those of the table, then hues that lie apart."""
    if index < len(COLORS):
        return COLORS[index]
    channels = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def _read_fold(folder: Path) -> Fold:
    from nnunetv2_mastpro.evaluation.experts import USAGE, read_usage
    from nnunetv2_mastpro.packs.model import read_checkpoint

    file = next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)
    if file is None:
        raise MASTProError(f"{folder} has none of {', '.join(CHECKPOINTS)}; give -f of a fold that was trained")
    saved = read_checkpoint(file)
    newest_first = sorted(folder.glob("training_log_*.txt"), reverse=True)
    logs = [log.read_text(encoding="utf-8", errors="replace") for log in newest_first]
    return Fold(
        name=folder.name,
        checkpoint=file,
        trainer=saved["trainer_name"],
        configuration=saved["init_args"].get("configuration", ""),
        curves=saved.get("logging") or {},
        parts=_parts(logs),
        steps_per_epoch=_steps_per_epoch(logs),
        machine=_machine(folder),
        usage=read_usage(folder) if (folder / USAGE).is_file() else None,
    )


def _parts(logs: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Parameters by part from the start-up table of the newest log that has one."""
    for log in logs:
        _, found, text = log.rpartition("MAST-Pro: parameters by part")
        if found:
            rows = PARTS_ROW.findall(text.split("Stages with experts")[0])
            return {name: tuple(int(number.replace(",", "")) for number in row) for name, *row in rows}
    return {}


def _steps_per_epoch(logs: Sequence[str]) -> int | None:
    """By the newest log that has it; MASTPRO_EPOCH_ITERATIONS may have shortened the epochs."""
    return next((int(found[1]) for log in logs if (found := LENGTH.search(log))), None)


def _machine(folder: Path) -> dict[str, str]:
    """What nnU-Net's debug.json tells of where the training ran."""
    try:
        known = json.loads((folder / "debug.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    titles = {"device": "device", "gpu_name": "GPU", "torch_version": "torch of the training"}
    return {title: str(known[key]) for key, title in titles.items() if known.get(key)}

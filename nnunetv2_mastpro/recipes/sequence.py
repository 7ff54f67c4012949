"""A recipe with the user's choices -> steps to run, or lines to read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.datasets import CHECKPOINTS, is_trained
from nnunetv2_mastpro.recipes.experiment import DataSet, Experiment, Stage, Template
from nnunetv2_mastpro.steps import Step
from nnunetv2_mastpro.training_log import read_training_log

Value = str | tuple[str, ...]
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
UNSEEN = ("images", "labels")  # of further cases, which the user may have
TRAINING = "train"


@dataclass(frozen=True)
class Choices:
    """What the command line says. `downloads`: data set -> folder; `masks`: arguments of mastpro anatomy."""

    work: Path
    downloads: Mapping[str, Path]
    chosen: tuple[DataSet, ...]
    overlay: str
    fold: str
    trainer_suffix: str
    epochs: int
    device: str
    gpus: int
    masks: tuple[str, ...]
    images: Path | None
    labels: Path | None
    processes: int | None

    def folder(self, name: str) -> Path:
        """nnUNet_raw and its like."""
        return self.work / name


def stages_of(experiment: Experiment, choices: Choices) -> list[tuple[Stage, list[DataSet]]]:
    """Stages with the chosen data sets that take part; without those that have none."""
    parts = [
        (stage, [dataset for dataset in choices.chosen if stage.number in dataset.stages])
        for stage in experiment.stages
    ]
    return [(stage, datasets) for stage, datasets in parts if datasets]


def maps(experiment: Experiment, choices: Choices) -> dict[Path, str]:
    """The files that mastpro merge --map reads."""
    return {
        map_file(choices, stage): _json(experiment.mapping(datasets))
        for stage, datasets in stages_of(experiment, choices)
    }


def _json(mapping: dict) -> str:
    """A line for each source."""
    sources = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in mapping["sources"].items())
    return f'{{"sources": {{\n{sources}\n}},\n"nest": {json.dumps(mapping["nest"])}}}\n'


def map_file(choices: Choices, stage: Stage) -> Path:
    return choices.work / f"map_stage{stage.number}.json"


def steps(experiment: Experiment, choices: Choices, complete: bool) -> list[Step]:
    """In order. `complete`: also what needs images to predict where none are given, to be read only."""
    found = [convert_step(dataset, choices) for dataset in choices.chosen]
    for stage, datasets in stages_of(experiment, choices):
        values = stage_values(experiment, choices, stage, datasets)
        missing = [name for name in UNSEEN if getattr(choices, name) is None]
        for template in stage.steps:
            if complete or not any(f"{{{name}}}" in argument for name in missing for argument in template.command):
                found.append(make_step(template, stage, values, choices))
    done = {path for step in found for path in step.outputs}
    return [step for step in found if complete or _inputs_are_made(step, done, choices)]


def _inputs_are_made(step: Step, made: set[Path], choices: Choices) -> bool:
    """Whether what the command names in the folder for predictions is made by a step that is left."""
    inside = {choices.work / name for name in ("maps", "predictions")}
    return all(path in made for path in inside if str(path) in step.command)


def convert_step(dataset: DataSet, choices: Choices) -> Step:
    """nnU-Net's converter begins anew, ours goes on."""
    download = choices.downloads.get(dataset.name)
    values = {
        "download": str(download) if download else dataset.download or f"{dataset.name}_DOWNLOAD",
        "id": str(dataset.id),
        **processes(choices),
    }
    command = fill(dataset.convert, values)
    return Step(
        f"convert_{dataset.name}",
        f"Convert {dataset.name} ({dataset.page}; licence: {dataset.licence})",
        (choices.folder("nnUNet_raw") / dataset.folder,),
        command,
        resume=(lambda: command) if command[0] == "mastpro" else None,
        source=True,
    )


def make_step(template: Template, stage: Stage, values: Mapping[str, Value], choices: Choices) -> Step:
    """A training goes on from its checkpoint, and shows its epochs; host-organ maps that are there stay."""
    outputs = tuple(Path(fill_text(text, values)) for text in template.outputs)
    command = fill(template.command, values)
    name, title = f"stage{stage.number}_{template.name}", f"Stage {stage.number}: {template.title}"
    step = Step(name, title, outputs, command, keeps=command[:2] == ("mastpro", "anatomy"))
    if template.name != TRAINING:
        return step
    fold = outputs[0]

    def resume() -> tuple[str, ...] | None:
        if not is_trained(fold):
            return None
        return tuple(_without(command, "-pretrained_weights")) + ("--c",)

    return Step(
        step.name, step.title, outputs, command, None, choices.epochs, lambda: read_training_log(fold), resume=resume
    )


def _without(command: Sequence[str], option: str) -> list[str]:
    """The command without an option and its value: nnU-Net refuses this one together with --c."""
    place = command.index(option) if option in command else len(command)
    return [*command[:place], *command[place + 2 :]]


def stage_values(
    experiment: Experiment, choices: Choices, stage: Stage, datasets: Sequence[DataSet]
) -> dict[str, Value]:
    """What the placeholders of a stage's commands stand for; a tuple is several arguments, or none."""
    raw, preprocessed, results = (str(choices.folder(name)) for name in FOLDERS)
    settings = experiment.settings
    first = experiment.stages[0]
    trained = f"{first.trainer}{choices.trainer_suffix}__{settings['plans']}__{settings['configuration']}"
    fold = choices.folder("nnUNet_results") / first.folder / trained / f"fold_{choices.fold}"
    on_cuda = choices.device == "cuda"
    return {
        "work": str(choices.work),
        "raw": raw,
        "preprocessed": preprocessed,
        "results": results,
        "first": str(first.id),
        "id": str(stage.id),
        "name": stage.name,
        "folder": stage.folder,
        "trainer": f"{stage.trainer}{choices.trainer_suffix}",
        "plans": settings["plans"],
        "configuration": settings["configuration"],
        "folds": str(settings["folds"]),
        "overlay": choices.overlay,
        "fold": choices.fold,
        "sources": tuple(str(dataset.id) for dataset in datasets),
        "map": str(map_file(choices, stage)),
        "masks": choices.masks,
        "pretrained": str(fold / CHECKPOINTS[0]),
        "start": str(choices.work / "stage1_weights.pth"),
        "images": str(choices.images or "IMAGES"),
        "labels": str(choices.labels or "LABELS"),
        "train_on": ("-num_gpus", str(choices.gpus)) if on_cuda else ("-device", choices.device),
        "predict_on": (*processes(choices)["npredict"], *(() if on_cuda else ("-device", choices.device))),
        **processes(choices),
    }


def processes(choices: Choices) -> dict[str, tuple[str, ...]]:
    """-np, as nnU-Net's commands spell it; nothing where the user leaves it to them."""
    number = str(choices.processes)
    given = choices.processes is not None
    return {
        "np": ("-np", number) if given else (),
        "npfp": ("-npfp", number) if given else (),
        "npredict": ("-npp", number, "-nps", number) if given else (),
    }


def fill(command: Sequence[str], values: Mapping[str, Value]) -> tuple[str, ...]:
    """Arguments for placeholders; one that stands alone may become several, or none."""
    arguments: list[str] = []
    for text in command:
        whole = values.get(text[1:-1]) if re.fullmatch(r"{\w+}", text) else None
        arguments += whole if isinstance(whole, tuple) else [fill_text(text, values)]
    return tuple(arguments)


def fill_text(text: str, values: Mapping[str, Value]) -> str:
    return text.format_map(values)


def variables(choices: Choices) -> dict[str, str]:
    """What the commands need beyond the user's environment."""
    from nnunetv2_mastpro.resources import ext_trainers

    return {**{name: str(choices.folder(name)) for name in FOLDERS}, "nnUNet_extTrainer": ext_trainers()}


def script(experiment: Experiment, choices: Choices) -> list[str]:
    """The whole sequence, for a shell."""
    lines = [f"# {experiment.description}", f"# {experiment.paper}", *(f"# {note}" for note in experiment.notes), ""]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables(choices).items()]
    lines.append(shlex.join(["mkdir", "-p", *(str(choices.folder(name)) for name in FOLDERS)]))
    for path, text in maps(experiment, choices).items():
        lines += [f"cat > {shlex.quote(str(path))} <<'END'", text.rstrip("\n"), "END"]
    for step in steps(experiment, choices, complete=True):
        lines += ["", f"# {step.title}", shlex.join(step.command)]
    return lines

"""Runs a cell by stock commands: on the phantom, on real CT of sarcoma, or on data sets that nnU-Net knows.

Each gives Dice by column (tumour type or data set), by case, and how long it took. A finished step is not run again.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks import real_sts
from benchmarks.cells import EPOCHS, Row, design_of, model_of
from nnunetv2_mastpro.datasets import CHECKPOINTS, dataset_name, is_trained, read_json_object
from nnunetv2_mastpro.demo import pipeline
from nnunetv2_mastpro.demo.design import ANATOMY_PLANS, Design, Layout, Model
from nnunetv2_mastpro.demo.results import read_counts, read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.processes import find_executable, shell_line
from nnunetv2_mastpro.resources import ext_trainers, nnunet_folder, trainers_dir
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps


def find_own_trainers(environ: dict[str, str]) -> dict[str, str]:
    """With the trainers that only benchmarks use."""
    own = Path(__file__).with_name("trainers")
    return {**environ, "nnUNet_extTrainer": ext_trainers(environ["nnUNet_extTrainer"], own)}


def per_case(summary: Path, ending: str = ".nii.gz") -> dict[str, float]:
    """ "case value" -> Dice, where the reference has the class; nnU-Net's nan counts as 0 there."""
    return {
        f"{Path(case['reference_file']).name.removesuffix(ending)} {value}": 0.0
        if np.isnan(found["Dice"])
        else found["Dice"]
        for case in json.loads(summary.read_text())["metric_per_case"]
        for value, found in case["metrics"].items()
        if (found.get("n_ref") or 0) > 0  # nan where the case does not annotate it
    }


@dataclass(frozen=True)
class Phantom:
    """The phantom with partial labels, in folders under `out`: data_partial, data_complete, one for each cell."""

    out: Path
    types: int = 5
    steps: int | None = None
    cases: int | None = None
    backbone: str = "unet"
    data_seed: int = 0
    alone: bool = False
    patches: bool = False

    @property
    def kind(self) -> str:
        """Of folders and cells."""
        told = {"three": self.types == 3, "alone": self.alone, "patches": self.patches}
        return "_".join([self.backbone, *(name for name, is_so in told.items() if is_so)])

    def design(self, complete: bool = False) -> Design:
        return design_of(self.types, self.steps, self.cases, self.backbone, complete, self.alone, self.patches)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.design().types

    def prepare(self, complete: bool) -> Path:
        """The folder of the data, made if it is not there."""
        design = self.design(complete)
        layout = Layout(self.out / f"data_{'complete' if complete else 'partial'}_{self.kind}")
        told = {**pipeline.settings(self.data_seed, design), "complete": complete}
        state = State(layout.folder, {key: value for key, value in told.items() if key != "steps"}, "phantom")
        environ = {**os.environ, **pipeline.variables(layout, self.data_seed, design)}
        run_steps(pipeline.preparation(layout, self.data_seed, design), state, layout.logs, environ, wait=True)
        return layout.folder

    def trained(self, row: Row, key: str, seed: int) -> tuple[Layout, State]:
        """Where the row `key` with this seed is trained, and what of it is finished."""
        layout = Layout(self.out / f"{self.kind}_{key}_seed_{seed}", self.prepare(row.complete))
        settings = {**pipeline.settings(seed, self.design(row.complete)), "network": dict(row.network)}
        return layout, State(layout.folder, settings, "cell")

    def run(self, row: Row, seed: int) -> dict:
        design = self.design(row.complete)
        model = replace(model_of(row), key="mastpro" if row.selected else row.key)
        layout, state = self.trained(row, model.key, seed)
        environ = find_own_trainers({**os.environ, **pipeline.variables(layout, seed, design)})
        steps = [*changed_plans(layout, model.other_plans, row.network), *pipeline.model_steps(layout, model, design)]
        run_steps(steps, state, layout.logs, environ)
        if row.selected:
            return self.run_selected(layout, model, state, environ)
        return {
            "dice": read_dice(layout.summary(model), design.types),
            "cases": per_case(layout.summary(model)),
            "false": read_counts(layout.summary(model), design.types)["mean"][1],
            "seconds": state.seconds(pipeline.model_steps(layout, model, design)[0]),
            "seconds_per_step": real_sts.seconds_per_step(layout.results(model) / "fold_0", design.steps_per_epoch),
        }

    def run_selected(self, layout: Layout, model: Model, state: State, environ: Mapping[str, str]) -> dict:
        """Every type predicted by itself, by the trained model."""
        dice, cases, false = {}, {}, 0
        for value, name in enumerate(self.columns, 1):
            alone = replace(model, key=f"selected_{name}", title=f"MAST-Pro, {name} selected")
            steps = pipeline.prediction_steps(layout, alone, layout.maps, self.design())
            run_steps(steps, state, layout.logs, {**environ, "MASTPRO_TASKS": name})
            summary = layout.summary(alone)
            dice[name] = read_dice(summary, self.columns)[name]
            false += read_counts(summary, self.columns)[name][1]
            cases |= {key: found for key, found in per_case(summary).items() if key.endswith(f" {value}")}
        return {"dice": {**dice, "mean": mean(dice.values())}, "cases": cases, "false": false, "seconds": None}


def changed_plans(layout: Layout, name: str | None, network: Mapping) -> list[Step]:
    """Plans with organ masks whose mastpro.network differs, beside the others; none where nothing does."""
    if name is None:
        return []
    file = layout.preprocessed / f"{name}.json"

    def write(show) -> None:
        plans = json.loads((layout.preprocessed / f"{ANATOMY_PLANS}.json").read_text())
        plans["mastpro"]["network"].update(network)
        write_atomically({file: json.dumps({**plans, "plans_name": name}, indent=4).encode()})

    return [Step("plans", f"Plans with mastpro.network {dict(network)}: {file}", (file,), function=write)]


@dataclass(frozen=True)
class Sarcoma:
    """Real CT of soft-tissue sarcoma: one class, no organ masks, eight test patients (real_sts.py)."""

    out: Path
    data: Path
    steps: int = 600

    columns = ("soft_tissue_sarcoma",)

    def run(self, row: Row, seed: int) -> dict:
        real_sts.read_cases(self.data)
        folder, trainer = self.out / "sts", model_of(row).trainer
        state = State(folder, {"data": str(self.data), "steps": self.steps}, "cell")
        environ = {
            **os.environ,
            **{name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")},
            "nnUNet_results": str(folder / f"seed_{seed}"),
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "2",
            "MASTPRO_EPOCH_ITERATIONS": str(self.steps // EPOCHS),
            "MASTPRO_SEED": str(seed),
        }
        environ = find_own_trainers(environ)
        run_steps(real_sts.preparation(self.data, folder), state, folder / "logs", environ)
        steps = real_sts.run_steps_of(folder, trainer, seed)
        run_steps(steps, state, folder / "logs", environ)
        found = real_sts.read_run(folder, trainer, seed, self.steps // EPOCHS)
        return {
            "dice": {self.columns[0]: found["mean_dice"], "mean": found["mean_dice"]},
            "cases": {f"{case} 1": dice for case, dice in found["dice"].items()},
            "false": None,  # not counted: every patient has the tumour
            "seconds": state.seconds(steps[0]),
            "seconds_per_step": found["seconds_per_step"],
        }


@dataclass(frozen=True)
class Datasets:
    """Data sets of the user's nnU-Net folders, planned and preprocessed; what the paper's columns are.

    A column is a data set, or a source of a merged one. Trains folds in place of seeds, into the user's nnUNet_results.
    """

    ids: tuple[str, ...]
    configuration: str
    plans: str
    anatomy_plans: str
    epochs: int | None
    device: str

    def command(self, row: Row, dataset: str, fold: int) -> tuple[str, ...]:
        """nnUNetv2_train, for a row of a table."""
        length = "" if self.epochs is None else f"_{self.epochs}epoch{'s' if self.epochs > 1 else ''}"
        plans = self.anatomy_plans if row.anatomy else self.plans
        return ("nnUNetv2_train", dataset, self.configuration, str(fold), "-p", plans) + (
            *("-tr", row.trainer + length),
            *("-device", self.device),
        )

    def run(self, row: Row, seed: int) -> dict:
        """`seed` is the fold."""
        from nnunetv2.utilities.file_path_utilities import get_output_folder

        scores, seconds, seen_whole = {}, 0.0, True
        names = {dataset: dataset_name(dataset, [nnunet_folder("nnUNet_preprocessed")]) for dataset in self.ids}
        for dataset, name in names.items():
            command = self.command(row, dataset, seed)
            fold = Path(get_output_folder(name, command[7], command[5], self.configuration, seed))
            done_before = (fold / "validation" / "summary.json").is_file()
            going_on = () if done_before else going_on_with(fold)
            seen_whole &= not (done_before or going_on)
            if not done_before:
                print(f"$ {shell_line((*command, *going_on))}", flush=True)
                started = time.monotonic()
                environ = find_own_trainers({**os.environ, "nnUNet_extTrainer": ext_trainers()})
                argv = [find_executable(command[0]), *command[1:], *going_on]
                done = subprocess.run(argv, check=False, env=environ)
                if done.returncode:
                    raise MASTProError(
                        f"{command[0]} ended with status {done.returncode}; repair what it names, run again"
                    )
                seconds += time.monotonic() - started
            scores[name] = scores_of(fold)
        every = [
            (source or name, f"{name}/{key}", dice) for name, found in scores.items() for source, key, dice in found
        ]
        by_column: dict[str, list[float]] = {}
        for column, _, dice in every:
            by_column.setdefault(column, []).append(dice)
        means = {column: mean(values) for column, values in by_column.items()}
        return {
            "dice": {**means, "mean": mean(means.values())},
            "cases": {key: dice for _, key, dice in every},
            "columns": {key: column for column, key, _ in every},
            "false": None,  # not counted
            "seconds": seconds if seen_whole else None,
        }


def going_on_with(fold: Path) -> tuple[str, ...]:
    """nnU-Net's option for what is there of a fold: only its validation is missing, or epochs, or all."""
    if (fold / CHECKPOINTS[0]).is_file():
        return ("--val",)
    return ("--c",) if is_trained(fold) else ()


def scores_of(fold: Path) -> list[tuple[str | None, str, float]]:
    """(source or None, "case value", Dice) of the fold's validation cases, of tumour types where there are any."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    from nnunetv2_mastpro.evaluation.partial import outputs_of
    from nnunetv2_mastpro.prompts.resolve import foreground_labels, resolve_prompts
    from nnunetv2_mastpro.tasks import read_cases

    content = read_json_object(fold.parent / "dataset.json")
    labels = foreground_labels(content)
    cases, tumors = (
        read_cases(content, labels),
        {p.label for p in resolve_prompts(content, fold.parents[1].name) if p.is_tumor},
    )
    outputs = zip(labels, outputs_of(LabelManager(content["labels"], content.get("regions_class_order"))), strict=True)
    kept = {str(output) for label, output in outputs if label in tumors or not tumors}
    found = []
    for key, dice in per_case(fold / "validation" / "summary.json", content["file_ending"]).items():
        case, value = key.split(" ", 1)
        if value in kept:
            found.append((cases.sources.get(case), key, dice))
    if not found:
        raise MASTProError(f"{fold} validated no case that has a class; validate on others")
    return found

"""The steps of two_stage.py: data and the pretrained network of stage 1, one way of training in stage 2."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.demo.dataset import FILE_ENDING, PhantomSet, write_dataset
from nnunetv2_mastpro.demo.design import GRID, OVERLAY, WORKERS
from nnunetv2_mastpro.resources import ext_trainers
from nnunetv2_mastpro.steps import Step
from nnunetv2_mastpro.training_log import read_training_log

ONE, TWO = "Dataset501_StageOne", "Dataset502_StageTwo"
NUM_FIRST, NUM_SECOND, NUM_TEST = 24, 18, 8
OVERLAID, PLANS, MOVED = "Overlaid", "Small", "SmallOfStageOne"
EPOCHS, FIRST_STEPS, SECOND_STEPS = 10, 60, 40  # training steps an epoch
FULL = f"nnUNetTrainerMASTProPretrain_{EPOCHS}epochs"
NUMBERS = {name: name[len("Dataset") :].partition("_")[0] for name in (ONE, TWO)}
TRAINERS = {"peft": f"nnUNetTrainerMASTPro_{EPOCHS}epochs", "full": FULL, "scratch": FULL, "untuned": FULL}


@dataclass(frozen=True)
class Design:
    """What is trained on what."""

    first: tuple[str, ...]  # tumour types of the stages
    second: tuple[str, ...]
    network: Mapping  # over mastpro.network of the plans
    second_network: Mapping  # of stage 2's alone

    def sets(self) -> list[PhantomSet]:
        """Patients of the one stage are not those of the other."""
        tests = tuple(range(2000, 2000 + NUM_TEST))
        return [
            PhantomSet(ONE, self.first, self.first, tuple(range(NUM_FIRST))),
            PhantomSet(TWO, self.second, self.second, tuple(range(1000, 1000 + NUM_SECOND)), tests),
        ]

    def settings(self) -> dict:
        """What must be equal for a folder to be continued."""
        return {
            "types": [list(self.first), list(self.second)],
            "network": dict(self.network),
            "cases": [NUM_FIRST, NUM_SECOND, NUM_TEST],
            "steps": [EPOCHS, FIRST_STEPS, SECOND_STEPS],
        }


def environment(data: Path, results: Path, steps: int, seed: int) -> dict[str, str]:
    """Variables of the commands: data sets of `data`, results of their own."""
    return {
        **os.environ,
        "nnUNet_raw": str(data / "nnUNet_raw"),
        "nnUNet_preprocessed": str(data / "nnUNet_preprocessed"),
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": ext_trainers(),
        "nnUNet_n_proc_DA": str(WORKERS),
        "nnUNet_def_n_proc": str(WORKERS),
        "MASTPRO_EPOCH_ITERATIONS": str(steps),
        "MASTPRO_SEED": str(seed),
    }


def results_of(folder: Path, dataset: str, trainer: str, plans: str) -> Path:
    return folder / dataset / f"{trainer}__{plans}__3d_fullres"


def first_stage(data: Path, design: Design) -> list[Step]:
    """Data, plans and the pretrained network."""
    raw, preprocessed, sets = data / "nnUNet_raw", data / "nnUNet_preprocessed", design.sets()
    model = results_of(data / "nnUNet_results", ONE, FULL, PLANS)

    def write(show) -> None:
        raw.mkdir(parents=True, exist_ok=True)
        done = iter(range(1, sum(map(len, sets)) + 1))
        for phantoms in sets:
            write_dataset(raw, phantoms, GRID, WORKERS, lambda: show(next(done), "cases"))

    configuration = ("-c", "3d_fullres", "-np", str(WORKERS))
    return [
        Step("phantom", "Write both data sets", (raw / ONE, raw / TWO), function=write, total=sum(map(len, sets))),
        Step(
            "plan",
            "Plan and preprocess stage 1",
            (preprocessed / ONE / "nnUNetPlans_3d_fullres",),
            ("nnUNetv2_plan_and_preprocess", "-d", NUMBERS[ONE], *configuration),
        ),
        Step(
            "overlay",
            "A network and patch for a CPU",
            (preprocessed / ONE / f"{OVERLAID}.json",),
            ("mastpro", "plan", "-d", NUMBERS[ONE], "--overlay", OVERLAY, "-n", OVERLAID),
        ),
        Step(
            "network",
            f"Sizes of the experts, {dict(design.network) or 'the default ones'}",
            (preprocessed / ONE / f"{PLANS}.json",),
            function=changed(preprocessed / ONE, OVERLAID, PLANS, {"network": design.network}),
        ),
        Step(
            "fingerprint",
            "Look at the data of stage 2",
            (preprocessed / TWO / "dataset.json",),
            ("nnUNetv2_plan_and_preprocess", "-d", NUMBERS[TWO], "--no_pp", "-npfp", str(WORKERS)),
        ),
        Step(
            "move",
            "Give stage 2 the plans of stage 1",
            (preprocessed / TWO / f"{MOVED}.json",),
            ("nnUNetv2_move_plans_between_datasets", "-s", NUMBERS[ONE], "-t", NUMBERS[TWO])
            + ("-sp", PLANS, "-tp", MOVED),
        ),
        Step(
            "preprocess",
            "Preprocess stage 2",
            (preprocessed / TWO / f"{MOVED}_nnUNetPlans_3d_fullres",),
            ("nnUNetv2_preprocess", "-d", NUMBERS[TWO], "-plans_name", MOVED, *configuration),
        ),
        training("Stage 1", "first", NUMBERS[ONE], PLANS, FULL, model),
    ]


def training(title: str, name: str, dataset: str, plans: str, trainer: str, model: Path, *options: str) -> Step:
    return Step(
        f"train_{name}",
        f"Train: {title}",
        (model,),
        ("nnUNetv2_train", dataset, "3d_fullres", "0", "-p", plans, "-tr", trainer, "-device", "cpu", *options),
        total=EPOCHS,
        follow=lambda: read_training_log(model / "fold_0"),
    )


def second_stage(data: Path, folder: Path, design: Design, mode: str, rate: float | None) -> list[Step]:
    """Take the network of stage 1 over, train in one way, predict the unseen cases, evaluate."""
    dataset, plans, trainer, start = TWO, f"{MOVED}_{folder.name}", TRAINERS[mode], folder / "start.pth"
    raw, preprocessed = data / "nnUNet_raw" / dataset, data / "nnUNet_preprocessed" / dataset
    first = results_of(data / "nnUNet_results", ONE, FULL, PLANS) / "fold_0" / "checkpoint_final.pth"
    values = {"network": design.second_network, "training": {} if rate is None else {"peft_learning_rate": rate}}
    steps = [
        Step(
            "plans",
            f"Plans with mastpro.network {dict(design.second_network)} over stage 1's, and of this rate: {rate}",
            (preprocessed / f"{plans}.json",),
            function=changed(preprocessed, MOVED, plans, values),
        ),
    ]
    weights = ()
    if mode != "scratch":
        weights = ("-pretrained_weights", str(start))
        command = ("mastpro", "weights", "--from", str(first), "-d", NUMBERS[TWO], "-p", plans, "-c", "3d_fullres")
        title = "Take the network over to the types of stage 2"
        steps.append(Step("weights", title, (start,), (*command, "-o", str(start))))
    model = results_of(folder / "nnUNet_results", dataset, trainer, plans)
    if mode == "untuned":
        steps.append(Step("place", "The weights as they came", (model,), function=placed(start, model)))
    else:
        steps.append(training(mode, mode, dataset, plans, trainer, model, *weights))
    found, summary = folder / "predictions", folder / "summary.json"
    network = ("-d", dataset, "-p", plans, "-tr", trainer, "-c", "3d_fullres", "-f", "0")
    return [
        *steps,
        Step(
            "predict",
            "Predict the unseen cases",
            (found,),
            ("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(found), *network, "-device", "cpu")
            + ("--disable_tta", "-npp", "1", "-nps", "1"),
            total=NUM_TEST,
            follow=lambda: (len(list(found.glob(f"*{FILE_ENDING}"))), "cases"),
        ),
        Step(
            "evaluate",
            "Evaluate",
            (summary,),
            ("nnUNetv2_evaluate_folder", str(raw / "labelsTs"), str(found), "-djfile", str(found / "dataset.json"))
            + ("-pfile", str(found / "plans.json"), "-o", str(summary), "-np", "1"),
        ),
    ]


def changed(folder: Path, source: str, name: str, values: Mapping[str, Mapping]):
    """A step that copies plans with other values in the sections of their "mastpro" block."""

    def write(show) -> None:
        plans = json.loads((folder / f"{source}.json").read_text())
        plans["plans_name"] = name
        for section, entries in values.items():
            plans.setdefault("mastpro", {}).setdefault(section, {}).update(entries)
        (folder / f"{name}.json").write_text(json.dumps(plans, indent=2))

    return write


def placed(weights: Path, model: Path):
    """A step that makes a results folder of weights that nothing has trained."""

    def write(show) -> None:
        import torch

        init_args = torch.load(weights, map_location="cpu", weights_only=False)["init_args"]
        (model / "fold_0").mkdir(parents=True)
        for name in ("plans", "dataset_json"):
            file = model / {"plans": "plans.json", "dataset_json": "dataset.json"}[name]
            file.write_text(json.dumps(init_args[name], indent=2))
        shutil.copyfile(weights, model / "fold_0" / "checkpoint_final.pth")

    return write

"""The demo from phantom to page: which stock nnU-Net commands are run, on what, in which order."""

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.demo.dataset import FILE_ENDING, write_dataset
from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION, Grid
from nnunetv2_mastpro.demo.steps import Step

DATASET_ID, DATASET = 501, "Dataset501_PanTumorPhantom"
TYPES = ("liver_tumor", "kidney_tumor", "lung_tumor")
GRID = Grid(shape=(40, 40, 56), spacing_mm=(5.0, 5.0, 5.0))
NUM_TRAINING, NUM_VALIDATION, NUM_TEST = 24, 2, 6  # validation cases are among the training ones
EPOCHS, STEPS_PER_EPOCH = 10, 60
OVERLAY, PLANS, ANATOMY_PLANS = "demo", "nnUNetPlansDemo", "MASTProPlans"  # the last ask for host-organ maps
DATA_IDENTIFIER = "nnUNetPlans_3d_fullres"  # of the preprocessed images, which all plans here share
WORKERS = max(1, min(2, os.cpu_count() or 1))


@dataclass(frozen=True)
class Model:
    """A trainer to run, and what the table calls it."""

    key: str
    title: str
    trainer: str
    anatomy: bool = False

    @property
    def plans(self) -> str:
        return ANATOMY_PLANS if self.anatomy else PLANS


MASTPRO = Model("mastpro", "MAST-Pro", f"nnUNetTrainerMASTPro_{EPOCHS}epochs", anatomy=True)
TEXT_ONLY = Model("text", "MAST-Pro, text only", f"nnUNetTrainerMASTPro_{EPOCHS}epochs")
BASELINE = Model("stock", "stock nnU-Net, AdamW", f"nnUNetTrainerStockAdamW_{EPOCHS}epochs")


@dataclass(frozen=True)
class Layout:
    """Where the demo keeps what."""

    folder: Path

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def raw(self) -> Path:
        return self.folder / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / DATASET

    def results(self, model: Model) -> Path:
        return self.folder / "nnUNet_results" / DATASET / f"{model.trainer}__{model.plans}__3d_fullres"

    def predictions(self, model: Model) -> Path:
        return self.folder / "predictions" / model.key

    def summary(self, model: Model) -> Path:
        return self.folder / "predictions" / f"{model.key}_summary.json"


def settings(seed: int) -> dict:
    """What must be equal for a folder to be continued."""
    return {
        "phantom": GENERATOR_VERSION,
        "seed": seed,
        "types": list(TYPES),
        "grid": list(GRID.shape),
        "cases": [NUM_TRAINING, NUM_VALIDATION, NUM_TEST],
        "steps": [EPOCHS, STEPS_PER_EPOCH],
    }


def variables(layout: Layout, seed: int) -> dict[str, str]:
    """What the commands need beyond the user's environment."""
    from nnunetv2_mastpro.commands.env import appended
    from nnunetv2_mastpro.resources import trainers_dir

    return {
        **{name: str(layout.folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
        "nnUNet_extTrainer": appended(os.environ.get("nnUNet_extTrainer", ""), str(trainers_dir())),
        "nnUNet_n_proc_DA": str(WORKERS),
        "nnUNet_def_n_proc": str(WORKERS),  # nnU-Net's 8 processes take longer to start than two to validate
        "MASTPRO_EPOCH_ITERATIONS": str(STEPS_PER_EPOCH),
        "MASTPRO_SEED": str(seed),
    }


def preparation(layout: Layout, seed: int) -> list[Step]:
    """Data set, nnU-Net's planning and preprocessing, our overlay over its plans, host-organ maps."""

    def write_phantom(show) -> None:
        done = iter(range(1, NUM_TRAINING + NUM_TEST + 1))
        layout.raw.parent.mkdir(parents=True, exist_ok=True)
        write_dataset(
            layout.raw.parent,
            DATASET,
            TYPES,
            GRID,
            NUM_TRAINING,
            NUM_TEST,
            seed,
            WORKERS,
            on_case=lambda: show(next(done), "cases"),
        )

    def write_split(show) -> None:
        (layout.preprocessed / "splits_final.json").write_text(json.dumps([split(training_cases(layout))], indent=2))

    plans, anatomy_plans = (layout.preprocessed / f"{name}.json" for name in (PLANS, ANATOMY_PLANS))
    maps = [layout.raw / "anatomyTr", layout.raw / "anatomyTs", layout.preprocessed / f"{DATA_IDENTIFIER}_anatomy"]
    dataset = ("-d", str(DATASET_ID))
    return [
        Step(
            "phantom",
            f"Write {NUM_TRAINING} training and {NUM_TEST} test cases of the phantom: {layout.raw}",
            (layout.raw,),
            function=write_phantom,
            total=NUM_TRAINING + NUM_TEST,
        ),
        Step(
            "plan",
            "Plan and preprocess",
            (layout.preprocessed,),
            (
                "nnUNetv2_plan_and_preprocess",
                "-d",
                str(DATASET_ID),
                "-c",
                "3d_fullres",
                "--verify_dataset_integrity",
                "-npfp",
                str(WORKERS),
                "-np",
                str(WORKERS),
            ),
        ),
        Step(
            "overlay",
            f"Lay plans/{OVERLAY}.json over nnU-Net's plans: a network and patch for a CPU, in {plans}",
            (plans,),
            ("mastpro", "plan", *dataset, "--overlay", OVERLAY, "-n", PLANS),
        ),
        Step(
            "plan_anatomy",
            f"The same with host-organ maps as a prior: {anatomy_plans}",
            (anatomy_plans,),
            ("mastpro", "plan", *dataset, "-p", PLANS, "--anatomy", "-n", ANATOMY_PLANS),
        ),
        Step(
            "anatomy",
            "Make host-organ maps from organ masks such as TotalSegmentator writes",
            tuple(maps),
            ("mastpro", "anatomy", *dataset, "-p", ANATOMY_PLANS, "--masks", str(layout.raw / "organs")),
        ),
        Step(
            "split",
            f"Keep {NUM_VALIDATION} of the training cases for nnU-Net's validation: splits_final.json",
            (layout.preprocessed / "splits_final.json",),
            function=write_split,
        ),
    ]


def model_steps(layout: Layout, model: Model) -> list[Step]:
    """Train, predict the unseen cases, evaluate."""
    fold = layout.results(model) / "fold_0"
    train = ("nnUNetv2_train", str(DATASET_ID), "3d_fullres", "0", *trainer_arguments(model))
    return [
        Step(
            f"train_{model.key}",
            f"Train {model.title}: {EPOCHS * STEPS_PER_EPOCH} steps",
            (layout.results(model),),
            train,
            total=EPOCHS,
            follow=lambda: read_training_log(fold),
        ),
        *prediction_steps(layout, model, layout.raw / "anatomyTs"),
    ]


def trainer_arguments(model: Model) -> tuple[str, ...]:
    return ("-p", model.plans, "-tr", model.trainer, "-device", "cpu")


def prediction_steps(layout: Layout, model: Model, maps: Path) -> list[Step]:
    """Predict the unseen cases with these host-organ maps, if the model takes any, and evaluate."""
    predictions, summary = layout.predictions(model), layout.summary(model)
    return [
        Step(
            f"predict_{model.key}",
            f"Predict the unseen cases with {model.title}",
            (predictions,),
            (
                "nnUNetv2_predict",
                "-i",
                str(layout.raw / "imagesTs"),
                "-o",
                str(predictions),
                "-d",
                str(DATASET_ID),
                "-c",
                "3d_fullres",
                "-f",
                "0",
                *trainer_arguments(model),
                *(("-prev_stage_predictions", str(maps)) if model.anatomy else ()),
                "--disable_tta",
                "-npp",
                "1",
                "-nps",
                "1",
            ),
            total=NUM_TEST,
            follow=lambda: (len(list(predictions.glob(f"*{FILE_ENDING}"))), "cases"),
        ),
        Step(
            f"evaluate_{model.key}",
            f"Evaluate {model.title}",
            (summary,),
            (
                "nnUNetv2_evaluate_folder",
                str(layout.raw / "labelsTs"),
                str(predictions),
                "-djfile",
                str(predictions / "dataset.json"),
                "-pfile",
                str(predictions / "plans.json"),
                "-o",
                str(summary),
                "-np",
                "1",
            ),
        ),
    ]


def training_cases(layout: Layout) -> list[str]:
    """Names of the training cases, from their labels."""
    return sorted(path.name.removesuffix(FILE_ENDING) for path in (layout.raw / "labelsTr").glob(f"*{FILE_ENDING}"))


def split(cases: list[str]) -> dict[str, list[str]]:
    """Few validation cases: on a CPU each costs time, and the test cases are what counts."""
    return {"train": cases[:-NUM_VALIDATION], "val": cases[-NUM_VALIDATION:]}


def read_training_log(fold: Path) -> tuple[int, str]:
    """Epochs done by nnU-Net's newest log, and its last loss and pseudo-Dice."""
    log = max(fold.glob("training_log_*.txt"), default=None)
    if log is None:
        return 0, ""
    text = log.read_text(encoding="utf-8", errors="replace")
    losses = re.findall(r"train_loss (\S+)", text)
    dice = re.findall(r"Pseudo dice \[(.*)\]", text)
    note = f"epochs, loss {losses[-1]}" if losses else "epochs"
    if dice:
        note += ", pseudo-Dice " + " ".join(f"{float(value):.2f}" for value in _numbers(dice[-1]))
    return text.count("Epoch time"), note


def _numbers(text: str) -> Iterator[str]:
    """nnU-Net writes np.float32(0.5) or 0.5."""
    return (match.group(1) for match in re.finditer(r"(nan|\d+\.?\d*(?:e-?\d+)?)(?=\)|,|$)", text))


def read_dice(summary: Path) -> dict[str, float]:
    """Mean Dice of each type over the cases that have it, from nnUNetv2_evaluate_folder's file, and of the types."""
    cases = _read_cases(summary)
    dice = {}
    for value, name in enumerate(TYPES, 1):
        found = [case["metrics"][str(value)]["Dice"] for case in cases if case["metrics"][str(value)]["n_ref"]]
        dice[name] = sum(found) / len(found) if found else math.nan
    present = [value for value in dice.values() if not math.isnan(value)]
    return {**dice, "mean": sum(present) / len(present) if present else math.nan}


def read_counts(summary: Path) -> dict[str, tuple[int, int]]:
    """Test cases that have a tumour of the type, and cases without one in which the network found one."""
    cases = _read_cases(summary)
    counts = {
        name: (
            sum(case["metrics"][str(value)]["n_ref"] > 0 for case in cases),
            sum(case["metrics"][str(value)]["n_ref"] == 0 < case["metrics"][str(value)]["n_pred"] for case in cases),
        )
        for value, name in enumerate(TYPES, 1)
    }
    return {**counts, "mean": (len(cases), sum(false for _, false in counts.values()))}


def _read_cases(summary: Path) -> list[dict]:
    return json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]


def exports(environment: Mapping[str, str]) -> list[str]:
    """Shell lines with which a user can repeat the commands."""
    import shlex

    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH", *lines]

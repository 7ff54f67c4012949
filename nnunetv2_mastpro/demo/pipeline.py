"""The demo from phantom to page: which stock nnU-Net commands are run, on what, in which order."""

import sys
from collections.abc import Mapping
from pathlib import Path

from nnunetv2_mastpro.demo.dataset import FILE_ENDING, write_dataset
from nnunetv2_mastpro.demo.design import (
    ANATOMY_PLANS,
    DATA_IDENTIFIER,
    DATASET,
    DATASET_ID,
    DEMO,
    PLANS,
    WORKERS,
    Design,
    Layout,
    Model,
    phantom_sets,
)
from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION
from nnunetv2_mastpro.steps import Step
from nnunetv2_mastpro.training_log import read_training_log

SHORT = {  # variable -> what a user has to know before another training
    "MASTPRO_EPOCH_ITERATIONS": "of this short training; unset it before one of your own",
    "MASTPRO_SEED": "likewise",
}


def settings(seed: int, design: Design = DEMO) -> dict:
    """What must be equal for a folder to be continued."""
    return {
        "phantom": GENERATOR_VERSION,
        "seed": seed,
        "sources": {name: list(annotated) for name, annotated in design.sources.items()},
        "grid": list(design.grid.shape),
        "cases": [design.num_training, design.num_test],
        "steps": [design.epochs, design.steps_per_epoch],
        "overlay": design.overlay,
    }


def variables(layout: Layout, seed: int, design: Design = DEMO) -> dict[str, str]:
    """What the commands need beyond the user's environment."""
    from nnunetv2_mastpro.resources import ext_trainers

    return {
        **{name: str(layout.shared / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")},
        "nnUNet_results": str(layout.folder / "nnUNet_results"),
        "nnUNet_extTrainer": ext_trainers(),
        "nnUNet_n_proc_DA": str(WORKERS),
        "nnUNet_def_n_proc": str(WORKERS),  # nnU-Net's 8 processes take longer to start than two to validate
        "MASTPRO_EPOCH_ITERATIONS": str(design.steps_per_epoch),
        "MASTPRO_SEED": str(seed),
    }


def preparation(layout: Layout, seed: int, design: Design = DEMO) -> list[Step]:
    """Data sets, merged; nnU-Net's planning and preprocessing, our overlay over its plans, host-organ maps."""
    sets = phantom_sets(seed, design)

    def write_phantoms(show) -> None:
        done = iter(range(1, sum(map(len, sets)) + 1))
        layout.raw.parent.mkdir(parents=True, exist_ok=True)
        layout.organs.mkdir()
        for phantoms in sets:
            folder = write_dataset(layout.raw.parent, phantoms, design.grid, WORKERS, lambda: show(next(done), "cases"))
            for masks in sorted((folder / "organs").iterdir()):
                masks.rename(layout.organs / masks.name)
            (folder / "organs").rmdir()

    plans, anatomy_plans = (layout.preprocessed / f"{name}.json" for name in (PLANS, ANATOMY_PLANS))
    dataset = ("-d", str(DATASET_ID))
    sources = [str(DATASET_ID + number) for number in range(1, len(design.sources) + 1)]
    return [
        Step(
            "phantom",
            f"Write {len(design.sources)} sources of {design.num_training} cases, which each annotate some of the "
            f"tumour types, and {design.num_test} unseen cases with all annotated: {layout.raw.parent}",
            (*(layout.raw.parent / phantoms.name for phantoms in sets), layout.organs),
            function=write_phantoms,
            total=sum(map(len, sets)),
        ),
        Step(
            "merge",
            f"Merge the sources into one data set that knows who annotated what: {layout.raw}",
            (layout.raw, layout.preprocessed),
            ("mastpro", "merge", "-d", *sources, "-o", str(DATASET_ID), "-n", DATASET.split("_")[1])
            + ("--folds", str(design.folds), "-np", str(WORKERS)),
        ),
        Step(
            "plan",
            "Plan and preprocess",
            tuple(layout.preprocessed / name for name in ("nnUNetPlans.json", "gt_segmentations", DATA_IDENTIFIER)),
            (
                "nnUNetv2_plan_and_preprocess",
                *dataset,
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
            f"Lay plans/{design.overlay}.json over nnU-Net's plans: a network and patch for a CPU, in {plans}",
            (plans,),
            ("mastpro", "plan", *dataset, "--overlay", design.overlay, "-n", PLANS),
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
            (layout.raw / "anatomyTr", layout.preprocessed / f"{DATA_IDENTIFIER}_anatomy"),
            ("mastpro", "anatomy", *dataset, "-p", ANATOMY_PLANS, "--masks", str(layout.organs)),
        ),
        Step(
            "anatomy_unseen",
            "Make those of the unseen cases",
            (layout.maps,),
            ("mastpro", "anatomy", *dataset, "-i", str(layout.unseen / "imagesTs"), "-o", str(layout.maps))
            + ("--masks", str(layout.organs)),
        ),
    ]


def model_steps(layout: Layout, model: Model, design: Design = DEMO) -> list[Step]:
    """Train, predict the unseen cases, evaluate."""
    fold = layout.results(model) / "fold_0"
    train = ("nnUNetv2_train", str(DATASET_ID), "3d_fullres", "0", *trainer_arguments(model))
    return [
        Step(
            f"train_{model.key}",
            f"Train {model.title}: {design.epochs * design.steps_per_epoch} steps",
            (layout.results(model),),
            train,
            total=design.epochs,
            follow=lambda: read_training_log(fold, [name.removesuffix("_tumor") for name in design.types]),
        ),
        *prediction_steps(layout, model, layout.maps, design),
    ]


def trainer_arguments(model: Model) -> tuple[str, ...]:
    return ("-p", model.plans, "-tr", model.trainer, "-device", "cpu")


def prediction_steps(layout: Layout, model: Model, maps: Path, design: Design = DEMO) -> list[Step]:
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
                str(layout.unseen / "imagesTs"),
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
            total=design.num_test,
            follow=lambda: (len(list(predictions.glob(f"*{FILE_ENDING}"))), "cases"),
        ),
        Step(
            f"evaluate_{model.key}",
            f"Evaluate {model.title}",
            (summary,),
            (
                "nnUNetv2_evaluate_folder",
                str(layout.unseen / "labelsTs"),
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


def exports(environment: Mapping[str, str], repeat: bool = True) -> list[str]:
    """Shell lines with which a user can go on with the demo's data, or `repeat` its commands."""
    import shlex

    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items() if name not in SHORT]
    if repeat:
        lines += [f"export {name}={environment[name]}  # {SHORT[name]}" for name in SHORT if name in environment]
    return [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH", *lines]

"""The demo from phantom to page: which stock nnU-Net commands are run, on what, in which order."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.demo.dataset import FILE_ENDING, PhantomSet, write_dataset
from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION, Grid
from nnunetv2_mastpro.steps import Step, read_training_log

DATASET_ID, DATASET = 500, "Dataset500_PanTumorPhantom"  # merged from the sources
TYPES = LIVER, KIDNEY, LUNG = ("liver_tumor", "kidney_tumor", "lung_tumor")  # every patient may have any
SOURCES = {  # name -> what it annotates
    "LiverPhantom": (LIVER,),
    "KidneyPhantom": (KIDNEY,),
    "LungPhantom": (LUNG,),
    "AbdomenPhantom": (LIVER, KIDNEY),
    "TrunkPhantom": (KIDNEY, LUNG),
}
UNSEEN = "UnseenPhantom"  # annotates all
GRID = Grid(shape=(40, 40, 56), spacing_mm=(5.0, 5.0, 5.0))
NUM_TRAINING, NUM_TEST = 7, 6  # of each source; of the unseen cases
# nnU-Net validates on one case of each source: each costs time, and the unseen cases are what counts
FOLDS = 7
EPOCHS, STEPS_PER_EPOCH = 10, 60
OVERLAY, PLANS, ANATOMY_PLANS = "demo", "nnUNetPlansDemo", "MASTProPlans"  # the last ask for host-organ maps
DATA_IDENTIFIER = "nnUNetPlans_3d_fullres"  # of the preprocessed images, which all plans here share
SEEDS_PER_DEMO = 10_000  # demos of different seeds share no case
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
    def unseen(self) -> Path:
        return self.folder / "nnUNet_raw" / source_name(len(SOURCES), UNSEEN)

    @property
    def organs(self) -> Path:
        """Organ masks of all cases, as TotalSegmentator would write them."""
        return self.folder / "organs"

    @property
    def maps(self) -> Path:
        """Host-organ maps of the unseen cases."""
        return self.folder / "maps"

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / DATASET

    @property
    def data(self) -> tuple[Path, ...]:
        """What training, prediction and evaluation of a model read."""
        return self.raw, self.preprocessed, self.unseen, self.organs, self.maps

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
        "sources": {name: list(annotated) for name, annotated in SOURCES.items()},
        "grid": list(GRID.shape),
        "cases": [NUM_TRAINING, NUM_TEST],
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


def phantom_sets(seed: int) -> list[PhantomSet]:
    """The sources, each of patients whose first tumour is of a type that it annotates, and the unseen cases."""
    first, kinds = seed * SEEDS_PER_DEMO, len(TYPES)
    end = first + NUM_TRAINING * len(SOURCES) * kinds
    sources = []
    for number, (name, annotated) in enumerate(SOURCES.items()):
        own = first + number * NUM_TRAINING * kinds  # a phantom's first tumour is of the type at its seed modulo kinds
        kept = [seed for seed in range(own, own + NUM_TRAINING * kinds) if TYPES[seed % kinds] in annotated]
        sources.append(PhantomSet(source_name(number, name), TYPES, annotated, tuple(kept[:NUM_TRAINING])))
    unseen = source_name(len(SOURCES), UNSEEN)
    return [*sources, PhantomSet(unseen, TYPES, TYPES, (), tuple(range(end, end + NUM_TEST)))]


def source_name(number: int, name: str) -> str:
    """Of the data set in nnUNet_raw, from 0."""
    return f"Dataset{DATASET_ID + 1 + number}_{name}"


def preparation(layout: Layout, seed: int) -> list[Step]:
    """Data sets, merged; nnU-Net's planning and preprocessing, our overlay over its plans, host-organ maps."""
    sets = phantom_sets(seed)

    def write_phantoms(show) -> None:
        done = iter(range(1, sum(map(len, sets)) + 1))
        layout.raw.parent.mkdir(parents=True, exist_ok=True)
        layout.organs.mkdir()
        for phantoms in sets:
            folder = write_dataset(layout.raw.parent, phantoms, GRID, WORKERS, lambda: show(next(done), "cases"))
            for masks in sorted((folder / "organs").iterdir()):
                masks.rename(layout.organs / masks.name)
            (folder / "organs").rmdir()

    plans, anatomy_plans = (layout.preprocessed / f"{name}.json" for name in (PLANS, ANATOMY_PLANS))
    dataset = ("-d", str(DATASET_ID))
    sources = [str(DATASET_ID + number) for number in range(1, len(SOURCES) + 1)]
    return [
        Step(
            "phantom",
            f"Write {len(SOURCES)} sources of {NUM_TRAINING} cases, which each annotate some of the tumour types, and "
            f"{NUM_TEST} unseen cases with all annotated: {layout.raw.parent}",
            (*(layout.raw.parent / phantoms.name for phantoms in sets), layout.organs),
            function=write_phantoms,
            total=sum(map(len, sets)),
        ),
        Step(
            "merge",
            f"Merge the sources into one data set that knows who annotated what: {layout.raw}",
            (layout.raw, layout.preprocessed),
            ("mastpro", "merge", "-d", *sources, "-o", str(DATASET_ID), "-n", DATASET.split("_")[1])
            + ("--folds", str(FOLDS), "-np", str(WORKERS)),
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
        *prediction_steps(layout, model, layout.maps),
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
            total=NUM_TEST,
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


def exports(environment: Mapping[str, str]) -> list[str]:
    """Shell lines with which a user can repeat the commands."""
    import shlex

    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH", *lines]

"""What the demo is made of: phantom data sets, models, folders. Benchmarks have other designs of the same kind."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_mastpro.demo.dataset import PhantomSet
from nnunetv2_mastpro.demo.phantom import Grid

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
OVERLAY = "demo"  # of the benchmarks: the patch is the whole volume
PLANS, ANATOMY_PLANS = "nnUNetPlansDemo", "MASTProPlans"  # the last ask for host-organ maps
DATA_IDENTIFIER = "nnUNetPlans_3d_fullres"  # of the preprocessed images, which all plans here share
SEEDS_PER_DEMO = 10_000  # demos of different seeds share no case
WORKERS = max(1, min(2, os.cpu_count() or 1))


@dataclass(frozen=True)
class Design:
    """The phantom's data sets, and how long a model is trained on them."""

    types: tuple[str, ...] = TYPES
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: SOURCES)
    num_training: int = NUM_TRAINING
    num_test: int = NUM_TEST
    folds: int = FOLDS
    epochs: int = EPOCHS
    steps_per_epoch: int = STEPS_PER_EPOCH
    overlay: str = OVERLAY
    grid: Grid = GRID
    annotates_all: bool = False  # the same patients, and every source annotates every type


DEMO = Design(overlay="demo_patches")  # learns all types in fewer voxels (docs/results.md)


@dataclass(frozen=True)
class Model:
    """A trainer to run, and what the table calls it. `other_plans`: instead of those that `anatomy` chooses."""

    key: str
    title: str
    trainer: str
    anatomy: bool = False
    other_plans: str | None = None

    @property
    def plans(self) -> str:
        return self.other_plans or (ANATOMY_PLANS if self.anatomy else PLANS)


MASTPRO = Model("mastpro", "MAST-Pro", f"nnUNetTrainerMASTPro_{EPOCHS}epochs", anatomy=True)
TEXT_ONLY = Model("text", "MAST-Pro, text only", f"nnUNetTrainerMASTPro_{EPOCHS}epochs")
BASELINE = Model("stock", "stock nnU-Net, AdamW", f"nnUNetTrainerStockAdamW_{EPOCHS}epochs")


@dataclass(frozen=True)
class Layout:
    """Where the demo keeps what. `home`: the folder of the data, where several runs share it."""

    folder: Path
    home: Path | None = None

    @property
    def shared(self) -> Path:
        """What the data lie in."""
        return self.home or self.folder

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def raw(self) -> Path:
        return self.shared / "nnUNet_raw" / DATASET

    @property
    def unseen(self) -> Path:
        return self.shared / "nnUNet_raw" / source_name(len(SOURCES), UNSEEN)

    @property
    def organs(self) -> Path:
        """Organ masks of all cases, as TotalSegmentator would write them."""
        return self.shared / "organs"

    @property
    def maps(self) -> Path:
        """Host-organ maps of the unseen cases."""
        return self.shared / "maps"

    @property
    def preprocessed(self) -> Path:
        return self.shared / "nnUNet_preprocessed" / DATASET

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


def phantom_sets(seed: int, design: Design = DEMO) -> list[PhantomSet]:
    """The sources, each of patients whose first tumour is of a type that it annotates, and the unseen cases."""
    first, types, wanted = seed * SEEDS_PER_DEMO, design.types, design.num_training
    kinds = len(types)
    end = first + wanted * len(design.sources) * kinds
    sources = []
    for number, (name, annotated) in enumerate(design.sources.items()):
        own = first + number * wanted * kinds  # a phantom's first tumour is of the type at its seed modulo kinds
        kept = [seed for seed in range(own, own + wanted * kinds) if types[seed % kinds] in annotated]
        told = types if design.annotates_all else annotated
        sources.append(PhantomSet(source_name(number, name), types, told, tuple(kept[:wanted])))
    unseen = source_name(len(design.sources), UNSEEN)
    return [*sources, PhantomSet(unseen, types, types, (), tuple(range(end, end + design.num_test)))]


def source_name(number: int, name: str) -> str:
    """Of the data set in nnUNet_raw, from 0."""
    return f"Dataset{DATASET_ID + 1 + number}_{name}"

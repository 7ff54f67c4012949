"""Stock nnU-Net commands on a small data set, real where it is at hand; what is made is made once and shared."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.planning.overlay import apply_overlay

TRAINER = "nnUNetTrainerMASTPro_1epoch"
STEPS = 2  # per epoch
HIPPOCAMPUS = "Dataset701_Hippocampus"
REGIONS = "Dataset702_HippocampusRegions"
SCRIBBLES = "Dataset703_HippocampusScribbles"
NUM_TRAINING, NUM_TEST = 8, 2
CONTENTS = {  # of dataset.json; posterior is declared a tumour type, so that it owns experts; hosts as test_anatomy has
    HIPPOCAMPUS: {
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "mastpro": {
            "prompts": {
                "anterior": {"host_structures": ["spinal_cord"]},
                "posterior": {"is_tumor": True, "host_structures": ["brain"]},
            }
        },
    },
    REGIONS: {
        "labels": {"background": 0, "whole": [1, 2], "posterior": 2},
        "regions_class_order": [1, 2],
        "mastpro": {"prompts": {"posterior": {"sentence": "The back of the hippocampus.", "is_tumor": True}}},
    },
    SCRIBBLES: {"labels": {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}},
}


@dataclass(frozen=True)
class Kind:
    """One way of training: data set, configuration, plans."""

    dataset: str
    configuration: str = "3d_fullres"
    plans: str = "Small"

    def arguments(self, trainer: str = TRAINER) -> list[str]:
        """As nnUNetv2_predict and others take them."""
        return ["-d", self.dataset, "-c", self.configuration, "-p", self.plans, "-tr", trainer]


KINDS = {
    "3d_fullres": Kind(HIPPOCAMPUS, plans="nnUNetPlans"),  # untouched
    "small": Kind(HIPPOCAMPUS),
    "2d": Kind(HIPPOCAMPUS, "2d"),
    "resenc": Kind(HIPPOCAMPUS, plans="SmallResEnc"),
    "regions": Kind(REGIONS),
    "ignore": Kind(SCRIBBLES),
}


@dataclass(frozen=True)
class Lab:
    """A nnU-Net workspace in which data sets are planned, networks trained and predictions made when first asked."""

    source: Path  # nnU-Net's raw format
    workspace: object
    run: Callable[..., subprocess.CompletedProcess]
    made: dict = field(default_factory=dict)
    locks: dict = field(default_factory=lambda: defaultdict(threading.Lock))

    def once(self, *key: str, make: Callable):
        """What `make` gives, made once; for several threads."""
        with self.locks[key]:
            if key not in self.made:
                self.made[key] = make()
        return self.made[key]

    def command(self, *argv, env=None, **options) -> subprocess.CompletedProcess:
        """A command in the workspace's environment, `env` added."""
        return self.run(argv, env={**self.workspace.env, **(env or {})}, timeout=600, **options)

    def preprocessed(self, dataset: str) -> Path:
        """Planned and preprocessed, with plans Small and two folds of one validation case each."""
        together = [HIPPOCAMPUS] if dataset == HIPPOCAMPUS else [REGIONS, SCRIBBLES]  # one command, less start-up
        self.once("preprocessed", *together, make=lambda: self._preprocess(together))
        return self.workspace.preprocessed / dataset

    def trained(self, name: str) -> Path:
        """Results folder of the kind's training, fold 0."""
        return self.once("trained", name, make=lambda: self.train(KINDS[name]))

    def predicted(self, name: str) -> Path:
        """Predictions of the unseen cases by it, with probabilities."""

        def predict() -> Path:
            self.trained(name)
            workers = ["1", "1"] if name == "small" else ["0", "0"]  # 0: nnU-Net predicts in one process
            folder = self.workspace.results.parent / f"predictions_{name}"
            self.predict(KINDS[name], folder, "-npp", workers[0], "-nps", workers[1])
            return folder

        return self.once("predicted", name, make=predict)

    def train(self, kind: Kind, *options, fold="0", trainer=TRAINER, env=None) -> Path:
        """Runs nnUNetv2_train; gives the results folder."""
        self.prepare(kind)
        self.command(*self.train_arguments(kind, *options, fold=fold, trainer=trainer), env=env)
        return self.results(kind, trainer)

    def train_arguments(self, kind: Kind, *options, fold="0", trainer=TRAINER) -> list[str]:
        shared = ["-p", kind.plans, "-tr", trainer, "-device", "cpu"]
        return ["nnUNetv2_train", kind.dataset, kind.configuration, fold, *shared, *options]

    def prepare(self, kind: Kind) -> None:
        self.preprocessed(kind.dataset)
        if kind.plans == "SmallResEnc":
            self.once("resenc", make=lambda: self._plan_resenc(kind.dataset))

    def results(self, kind: Kind, trainer=TRAINER) -> Path:
        return self.workspace.results / kind.dataset / f"{trainer}__{kind.plans}__{kind.configuration}"

    def images(self, dataset: str) -> Path:
        """Unseen images."""
        return self.workspace.raw / dataset / "imagesTs"

    def predict(self, kind: Kind, folder: Path, *options, fold="0", trainer=TRAINER, env=None):
        """Runs nnUNetv2_predict on the unseen images."""
        given = ["-i", self.images(kind.dataset), "-o", folder, *kind.arguments(trainer), "-f", *fold.split()]
        return self.command(
            "nnUNetv2_predict", *given, "-device", "cpu", "--disable_tta", "--save_probabilities", *options, env=env
        )

    def interrupt(self, argv: list[str], when: Callable[[], bool], env=None) -> None:
        """Starts a command and kills it and its workers, as a cluster does, once `when` holds."""
        script = Path(sys.prefix) / "bin" / argv[0]
        known = {**self.workspace.env, **(env or {})}
        unmeasured = {name: value for name, value in known.items() if not name.startswith("COVERAGE_")}  # torn files
        log = self.workspace.results.parent / "interrupted.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [str(script), *argv[1:]],
                env=unmeasured,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                for _ in range(3000):
                    if when():
                        break
                    assert process.poll() is None, f"ended before it was interrupted\n{log.read_text()[-3000:]}"
                    time.sleep(0.1)
                else:
                    pytest.fail(f"nothing to interrupt in 300 s\n{log.read_text()[-3000:]}")
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def write_plans(self, dataset: str, source: str, name: str, change: Callable[[dict], dict]) -> None:
        """Plans `name` beside `source`, changed."""
        folder = self.workspace.preprocessed / dataset
        plans = change({**json.loads((folder / f"{source}.json").read_text()), "plans_name": name})
        (folder / f"{name}.json").write_text(json.dumps(plans))

    def _preprocess(self, datasets: list[str]) -> None:
        for dataset in datasets:
            write_dataset(self.source, self.workspace.raw / dataset, CONTENTS[dataset])
        configurations = ["2d", "3d_fullres"] if datasets == [HIPPOCAMPUS] else ["3d_fullres"]
        numbers = [number_of(dataset) for dataset in datasets]
        workers = ["-npfp", "1", "-np", *["1"] * len(configurations)]
        self.command("nnUNetv2_plan_and_preprocess", "-d", *numbers, "-c", *configurations, *workers)
        for dataset in datasets:
            self.write_plans(dataset, "nnUNetPlans", "Small", shrink)
            cases = case_names(self.workspace.raw / dataset)
            splits = [{"train": [c for c in cases if c != val], "val": [val]} for val in cases[-2:]]
            (self.workspace.preprocessed / dataset / "splits_final.json").write_text(json.dumps(splits))

    def _plan_resenc(self, dataset: str) -> None:
        self.command("nnUNetv2_plan_experiment", "-d", number_of(dataset), "-pl", "nnUNetPlannerResEncM")
        self.write_plans(dataset, "nnUNetResEncUNetMPlans", "SmallResEnc", shrink)


def number_of(dataset: str) -> str:
    return dataset[len("Dataset") :].split("_")[0]


def write_dataset(source: Path, folder: Path, content: dict) -> None:
    """Ten cases; the unseen ones are laid obliquely, with a spacing of their own."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    cases = case_names(source)[: NUM_TRAINING + NUM_TEST]
    for index, case in enumerate(cases):
        image = sitk.ReadImage(source / "imagesTr" / f"{case}_0000.nii.gz")
        if index >= NUM_TRAINING:
            image.SetSpacing((1.25, 0.75, 1.0))
            image.SetOrigin((-31.5, 12.25, 100.0 + index))
            image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0))
            sitk.WriteImage(image, folder / "imagesTs" / f"{case}_0000.nii.gz")
            continue
        sitk.WriteImage(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        label = sitk.ReadImage(source / "labelsTr" / f"{case}.nii.gz")
        if "ignore" in content["labels"]:
            label = keep_every_third_slice(label, content["labels"]["ignore"])
        sitk.WriteImage(label, folder / "labelsTr" / f"{case}.nii.gz")
    shared = {"channel_names": {"0": "MRI"}, "numTraining": NUM_TRAINING, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**shared, **content}))


def keep_every_third_slice(label: sitk.Image, ignore: int) -> sitk.Image:
    """What an annotator of few slices leaves."""
    values = sitk.GetArrayFromImage(label)
    values[np.arange(len(values)) % 3 != 1] = ignore
    sparse = sitk.GetImageFromArray(values)
    sparse.CopyInformation(label)
    return sparse


def case_names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").glob("*.nii.gz"))


def shrink(plans: dict) -> dict:
    """The same networks with few features, two samples a step."""
    configurations = {}
    for name, configuration in plans["configurations"].items():
        if "architecture" not in configuration:
            continue
        kwargs = configuration["architecture"]["arch_kwargs"]
        stages = kwargs["n_stages"]
        few = {"features_per_stage": [min(6 * 2**stage, 24) for stage in range(stages)]}
        if "n_blocks_per_stage" in kwargs:
            few["n_blocks_per_stage"] = [1] * stages
        configurations[name] = {"batch_size": 2, "architecture": {"arch_kwargs": few}}
    return apply_overlay(plans, {"configurations": configurations})


@pytest.fixture(scope="session")
def lab(hippocampus, make_workspace, run_command, request) -> Lab:
    """The one workspace of these tests, with every kind that a chosen test names made, two at a time.

    What fails here fails again, and is told, in its own tests.
    """
    workspace = make_workspace()
    workspace.env.update({"MASTPRO_EPOCH_ITERATIONS": str(STEPS), "MASTPRO_SEED": "0", "OMP_WAIT_POLICY": "PASSIVE"})
    made = Lab(hippocampus, workspace, run_command)
    chosen = {item.callspec.params.get("kind") for item in request.session.items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(2) as pool:
        names = ("small", "regions", "ignore", "resenc", "2d", "3d_fullres")  # the first two plan their data sets
        started = {name: pool.submit(made.predicted, name) for name in names if name in chosen}
    for name, task in started.items():
        if task.exception() is not None:
            print(f"{name}: {task.exception()}")
    return made


@pytest.fixture(scope="session")
def kinds() -> dict[str, Kind]:
    return KINDS

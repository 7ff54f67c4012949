"""A small data set whose cases annotate some of the classes, with predictions and nnU-Net's summary of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_mastpro.evaluation.cases import scored_classes
from nnunetv2_mastpro.evaluation.partial import SUMMARY, Labels
from nnunetv2_mastpro.prompts.resolve import resolve_quietly
from nnunetv2_mastpro.tasks import read_cases

DATASET = "Dataset900_Pan"
FLAT = {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3}
REGIONS = {"background": 0, "liver": [1, 2], "liver_tumor": 2, "kidney_tumor": 3}
CASES = {
    "a": {"source": "LiTS", "annotated": ["liver", "liver_tumor"]},
    "b": {"source": "LiTS", "annotated": ["liver"]},
    "c": {"source": "KiTS", "annotated": ["kidney_tumor"]},
    "d": {},
}
LABELS = ("liver", "liver_tumor", "kidney_tumor")
OUTPUTS = {"flat": [1, 2, 3], "regions": [(1, 2), 2, 3]}


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


@pytest.fixture(params=["flat", "regions"], scope="module")
def kind(request):
    return request.param


def evaluate(folders, name, kind):
    arguments = [str(folders / "truth"), str(folders / name), str(folders / name / SUMMARY)]
    compute_metrics_on_folder(*arguments, SimpleITKIO(), ".nii.gz", OUTPUTS[kind], num_processes=1)
    return load_summary_json(arguments[2])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, kind):
    """Truth, the predictions of two folds, and both folds' with nnU-Net's summary."""
    root = tmp_path_factory.mktemp("evaluated")
    for number, case in enumerate(CASES):
        write(root / "truth" / f"{case}.nii.gz", number)
        write(root / f"fold_{number % 2}" / f"{case}.nii.gz", 10 + number)
        write(root / "all" / f"{case}.nii.gz", 10 + number)
    evaluate(root, "all", kind)
    return root


@pytest.fixture
def folders(evaluated, tmp_path):
    """A copy of them."""
    return shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def before(folders):
    """nnU-Net's summary."""
    return load_summary_json(str(folders / "all" / SUMMARY))


def read(annotated=True):
    return read_cases({"mastpro": {"cases": CASES if annotated else {}}}, LABELS)


def labels_for(kind) -> Labels:
    """What the data set's files hold."""
    content = {"channel_names": {"0": "CT"}, "labels": FLAT if kind == "flat" else REGIONS}
    classes = scored_classes(resolve_quietly(content), content)
    return Labels(tuple(OUTPUTS[kind]), classes, None, SimpleITKIO(), ".nii.gz")

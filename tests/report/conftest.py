"""A trained model's folder and cases, made up: what mastpro report reads."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_mastpro.demo.dataset import write_volume

SPACING_MM = (4.0, 3.0, 3.0)
SHAPE = (14, 30, 32)
LABELS = {"background": 0, "liver_tumor": 1, "lung_tumor": 2}
SHIFTS = {"case_a": 1, "case_b": 9, "case_c": 0}


@dataclass(frozen=True)
class Folders:
    """Arguments of the command."""

    model: Path
    images: Path
    predictions: Path
    reference: Path
    maps: Path


def box(*corners):
    return tuple(slice(*ends) for ends in corners)


LIVER, LUNG = box((1, 9), (6, 24), (4, 16)), box((5, 13), (6, 24), (18, 29))
TUMORS = {1: box((3, 7), (10, 16), (6, 12)), 2: box((7, 10), (12, 18), (20, 26))}


def write_case(folders, name, shift, rng, times=1):
    """Two tumours in their organs; the prediction is moved by `shift` voxels along x, and misses the second at 9.

    `times`: voxels of which one becomes a cube, so that the case has as many along each axis.
    """
    image = rng.normal(-20, 15, SHAPE)
    truth, prediction, hosts = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    image[LIVER], image[LUNG] = 60, -750
    hosts[LIVER], hosts[LUNG] = 1, 2
    for value, place in TUMORS.items():
        truth[place] = value
        image[place] = 110 if value == 1 else 20
        if not (shift == 9 and value == 2):
            prediction[place[0], place[1], slice(place[2].start + shift, place[2].stop + shift)] = value
    volumes = {
        folders.images / f"{name}_0000.nii.gz": image.astype(np.int16),
        folders.predictions / f"{name}.nii.gz": prediction,
        folders.reference / f"{name}.nii.gz": truth,
        folders.maps / f"{name}.nii.gz": hosts,
    }
    for path, volume in volumes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        for axis in range(3):
            volume = np.repeat(volume, times, axis)
        if volume.dtype == np.int16:
            volume = volume + rng.integers(-15, 16, volume.shape, np.int16)  # noise of its own, which does not compress
        write_volume(path, volume, SPACING_MM)


def make_folders(root, write_model, shifts=SHIFTS, times=1):
    """By default three cases: a shifted, a bad and a good one."""
    dataset = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}
    model = write_model(root / "results" / "nnUNetTrainerMASTPro__nnUNetPlans__2d", dataset)
    made = Folders(model, root / "images", root / "predictions", root / "labels", root / "maps")
    rng = np.random.default_rng(0)
    for name, shift in shifts.items():
        write_case(made, name, shift, rng, times)
    return made


@pytest.fixture
def folders(tmp_path, write_model):
    """To spoil."""
    return make_folders(tmp_path, write_model)


@pytest.fixture(scope="session")
def report(tmp_path_factory, write_model, run_command):
    """(folders, page, what the command said) of the real command with everything that it takes; not to be changed."""
    made = make_folders(tmp_path_factory.mktemp("report"), write_model)
    shutil.copy(made.model / "plans.json", made.predictions)
    output = made.images.parent / "report"
    given = ["-i", made.images, "-pred", made.predictions, "-ref", made.reference, "--maps", made.maps, "-o", output]
    given += ["--pictures", made.images.parent / "pictures", "-np", "1"]
    done = run_command(["mastpro", "report", "-m", made.model, *given], timeout=600)
    assert sorted(path.name for path in output.iterdir()) == ["index.html"]
    return made, output / "index.html", done.stdout


@pytest.fixture
def make_report_folders():
    """`make_report_folders(root, write_model, {"case_a": 1}, times=5)`: a model and cases."""
    return make_folders

"""A small data set for `mastpro evaluate`: five cases of two sources that each annotate some of the classes."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli

SHAPE, SPACING_MM = (8, 20, 16), (2.0, 1.5, 4.0)  # z y x; x y z
LABELS = {"background": 0, "liver": 1, "liver_tumor": 2, "lung_tumor": 3}
REGIONS = {"background": 0, "liver": [1, 2], "liver_tumor": 2, "lung_tumor": 3, "ignore": 4}
ONE = {"source": "One", "annotated": ["liver", "liver_tumor"]}
TWO = {"source": "Two", "annotated": ["liver", "lung_tumor"]}
CASES = {"p1_a": ONE, "p1_b": ONE, "p2_a": TWO, "p2_b": TWO, "p3_a": {}}  # the last annotates everything


def write_image(path, values, spacing_mm=SPACING_MM, origin=(3.0, -7.0, 11.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin)
    sitk.WriteImage(image, path)


def make_case(name, rng, ignore):
    reference = np.zeros(SHAPE, np.uint8)
    reference[1:7, 2:14, 2:12] = 1
    if name in ("p1_a", "p3_a"):
        reference[2:5, 4:9, 4:8] = reference[5, 11:13, 9:11] = 2  # 11.1 and 4.5 mm
    if name in ("p2_a", "p3_a"):
        reference[2:5, 16:19, 12:15] = 3
    prediction = np.roll(reference, rng.integers(0, 2), 1)
    prediction[6:8, 17:19, 2:4] = 2 if name == "p1_b" else 3
    if name == "p2_a":
        prediction[prediction == 3] = 0
    if ignore:
        reference[:, :5, :] = 4
    return reference, prediction


def write_folders(root, regions=False):
    """Folders `labels` and `predictions`, with a dataset.json in the second."""
    labels = REGIONS if regions else LABELS
    rng = np.random.default_rng(0)
    for name in CASES:
        for folder, values in zip(("labels", "predictions"), make_case(name, rng, regions), strict=True):
            write_image(root / folder / f"{name}.nii.gz", values)
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 5}
    content |= {"mastpro": {"cases": CASES}}
    if regions:
        content["regions_class_order"] = [1, 2, 3]
    (root / "predictions" / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def write_set():
    """`write_set(root, regions=False)`: folders labels and predictions; regions come with an ignore label."""
    return write_folders


@pytest.fixture
def write_label():
    """`write_label(path, values, spacing_mm=..., origin=...)`: z y x, on the set's grid by default."""
    return write_image


@pytest.fixture
def folders(tmp_path):
    """The set, with plain labels."""
    return write_folders(tmp_path)


@pytest.fixture
def run_evaluate():
    """`run_evaluate(root, *arguments)`: the exit status of the command on a set."""

    def run(root, *arguments):
        given = ["-ref", root / "labels", "-pred", root / "predictions", "-np", "1"]
        return cli.main(["evaluate", *map(str, given), *map(str, arguments)])

    return run

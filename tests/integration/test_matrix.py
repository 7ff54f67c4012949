"""The rest of nnUNetv2_train: 3d_lowres and its cascade, fold all, --val, --val_best, --npz."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

pytestmark = pytest.mark.slow


def add_cascade(plans):
    """3d_lowres at twice the spacing, and 3d_cascade_fullres above it, as nnU-Net plans them for larger images."""
    fullres = plans["configurations"]["3d_fullres"]
    lowres = copy.deepcopy(fullres)
    lowres |= {
        "data_identifier": "SmallCascade_3d_lowres",
        "spacing": [2 * spacing for spacing in fullres["spacing"]],
        "median_image_size_in_voxels": [size / 2 for size in fullres["median_image_size_in_voxels"]],
        "patch_size": [16, 32, 16],
        "next_stage": "3d_cascade_fullres",
    }
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"] |= {"3d_lowres": lowres, "3d_cascade_fullres": cascade}
    return plans


@pytest.fixture(scope="module")
def lowres(lab, kinds):
    """3d_lowres, trained and validated on all cases."""
    kind = dataclasses.replace(kinds["small"], configuration="3d_lowres", plans="SmallCascade")
    lab.preprocessed(kind.dataset)
    lab.write_plans(kind.dataset, "Small", kind.plans, add_cascade)
    lab.command("nnUNetv2_preprocess", "-d", "701", "-plans_name", kind.plans, "-c", "3d_lowres", "-np", "1")
    lab.train(kind, fold="all")
    return kind


@pytest.fixture(scope="module")
def lowres_predictions(lab, lowres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lowres")
    lab.predict(lowres, folder, "-npp", "0", "-nps", "0", fold="all")
    return folder


def check_predictions(lab, folder):
    images = sorted(lab.images("Dataset701_Hippocampus").glob("*.nii.gz"))
    assert len(images) == 2
    for path in images:
        image, prediction = sitk.ReadImage(path), sitk.ReadImage(folder / path.name.replace("_0000", ""))
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetOrigin() == pytest.approx(image.GetOrigin())
        assert prediction.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
        assert set(np.unique(sitk.GetArrayFromImage(prediction)).tolist()) <= {0, 1, 2}


def test_lowres_on_all_cases(lab, lowres, lowres_predictions):
    """fold all trains and validates on every case."""
    fold = lab.results(lowres) / "fold_all"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 8
    assert json.loads((fold / "expert_usage.json").read_text())["kept"]
    check_predictions(lab, lowres_predictions)


def test_cascade(lab, lowres, lowres_predictions, tmp_path):
    """The second stage takes the first one's labels as further channels."""
    cascade = dataclasses.replace(lowres, configuration="3d_cascade_fullres")
    lab.train(cascade)
    given = ["-prev_stage_predictions", lowres_predictions, "-npp", "0", "-nps", "0"]
    lab.predict(cascade, tmp_path / "out", *given)
    check_predictions(lab, tmp_path / "out")


def validation(lab, name):
    return lab.trained(name) / "fold_0" / "validation"


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


@pytest.mark.parametrize("name", ["2d", "resenc"])
def test_val_repeats_the_validation(lab, kinds, name):
    folder = validation(lab, name)
    before = read_all(folder)
    assert before
    shutil.rmtree(folder)
    lab.train(kinds[name], "--val")
    assert read_all(folder) == before
    assert (folder / "summary.json").is_file()


def test_val_best(lab, kinds):
    """After one epoch the best checkpoint is the final one."""
    folder = validation(lab, "2d")
    before = read_all(folder)
    lab.train(kinds["2d"], "--val", "--val_best", "--npz")
    assert read_all(folder) == before
    assert len([*folder.glob("*.npz")]) == len(before) == 1


@pytest.mark.parametrize(("name", "outputs"), [("regions", 2), ("ignore", 3), ("resenc", 3)])
def test_npz(lab, kinds, name, outputs):
    folder = validation(lab, name)
    lab.train(kinds[name], "--val", "--npz")
    (path,) = folder.glob("*.npz")
    values = sitk.GetArrayFromImage(sitk.ReadImage(path.with_suffix(".nii.gz")))
    probabilities = np.load(path)["probabilities"]
    assert probabilities.shape == (outputs, *values.shape)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if name == "regions":
        assert ((probabilities > 0.5).any(0) == (values > 0)).all()
    else:
        assert (probabilities.argmax(0) == values).all()

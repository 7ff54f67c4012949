"""Organ masks through nnU-Net's cascade path with stock commands: plan, maps, training, validation, prediction."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_dilation

NUMBERS = {1: 21, 2: 50}  # label -> spinal_cord, brain in TotalSegmentator's total_mr: the hosts in conftest.py
TRAINED = "nnUNetTrainerMASTPro_1epoch"


@pytest.fixture(scope="module")
def masks(lab, tmp_path_factory):
    """A multi-label file per case, as TotalSegmentator --ml writes: each label grown by two voxels."""
    folder = tmp_path_factory.mktemp("masks")
    lab.preprocessed("Dataset701_Hippocampus")
    raw = lab.workspace.raw / "Dataset701_Hippocampus"
    for path in sorted([*(raw / "imagesTr").iterdir(), *(raw / "imagesTs").iterdir()]):
        case, image = path.name.replace("_0000", ""), sitk.ReadImage(path)
        label = sitk.GetArrayFromImage(sitk.ReadImage(lab.source / "labelsTr" / case))
        organs = np.zeros(label.shape, np.uint8)
        for value, number in NUMBERS.items():
            organs[binary_dilation(label == value, iterations=2)] = number
        written = sitk.GetImageFromArray(organs)
        written.CopyInformation(image)
        sitk.WriteImage(written, folder / case)
    return folder


@pytest.fixture(scope="module")
def kind(lab, kinds, masks):
    """Plans with the anatomy stage, and the maps."""
    made = dataclasses.replace(kinds["small"], plans="SmallAnatomy")
    lab.command("mastpro", "plan", "-d", "701", "-p", "Small", "--anatomy", "-n", made.plans)
    lab.command("mastpro", "anatomy", "-d", "701", "-p", made.plans, "--masks", masks)
    return made


@pytest.fixture(scope="module")
def trained(lab, kind):
    return lab.train(kind)


@pytest.fixture(scope="module")
def maps(lab, kind, masks, tmp_path_factory):
    """Of the unseen images, made for prediction."""
    folder = tmp_path_factory.mktemp("maps") / "out"
    lab.command("mastpro", "anatomy", "-d", "701", "-i", lab.images(kind.dataset), "-o", folder, "--masks", masks)
    return folder


@pytest.fixture(scope="module")
def empty(maps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    for path in maps.glob("*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(path) * 0, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def predict(lab, kind, trained, tmp_path_factory):
    """`predict(maps, env)`: predictions and what the command printed."""

    def make(maps, env=None):
        folder = tmp_path_factory.mktemp("predictions") / "out"
        done = lab.predict(kind, folder, "-prev_stage_predictions", maps, "-npp", "0", "-nps", "0", env=env)
        return folder, done.stdout

    return make


@pytest.fixture(scope="module")
def predicted(predict, maps):
    return predict(maps)[0]


def read(folder):
    return {p.name: sitk.GetArrayFromImage(sitk.ReadImage(p)) for p in sorted(folder.glob("*.nii.gz"))}


def probabilities(folder):
    return {path.stem: np.load(path)["probabilities"] for path in sorted(folder.glob("*.npz"))}


def test_training_uses_the_maps(lab, kind, trained):
    sizes = [
        sitk.ReadImage(path).GetSize()[::-1] for path in (lab.workspace.raw / kind.dataset / "imagesTr").glob("*.gz")
    ]
    patch = json.loads((trained / "plans.json").read_text())["configurations"]["3d_fullres"]["patch_size"]
    assert any(side > width for size in sizes for width, side in zip(size, patch, strict=True))  # maps are padded too
    config = json.loads((trained / "plans.json").read_text())["mastpro"]
    assert {host["value"]: host["structures"] for host in config["resolved"]["hosts"]} == {
        1: ["spinal_cord"],
        2: ["brain"],
    }
    weights = torch.load(trained / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    encoder = {name: value for name, value in weights["network_weights"].items() if name.startswith("anatomy.")}
    assert encoder
    assert weights["network_weights"]["backbone.encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 1
    log = min((trained / "fold_0").glob("training_log_*.txt")).read_text()
    assert "Host-organ map, value 2: brain (host of posterior)" in log
    assert "anatomy encoder" in log
    summary = json.loads((trained / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1


def test_maps_lie_on_the_images_and_hold_the_hosts(lab, kind, masks, maps):
    """The value of a host is the label of the class that it hosts."""
    found, given = read(maps), read(masks)
    assert len(found) == 2
    for name, values in found.items():
        expected = sum(label * (given[name] == number) for label, number in NUMBERS.items())
        np.testing.assert_array_equal(values, expected)
    raw = lab.workspace.raw / kind.dataset
    np.testing.assert_equal(read(raw / "anatomyTs"), found)
    assert len(read(raw / "anatomyTr")) == 8


def test_predictions_depend_on_the_maps(predicted, predict, empty):
    with_maps, without = probabilities(predicted), probabilities(predict(empty)[0])
    assert with_maps.keys() == without.keys()
    assert len(with_maps) == 2
    for case, values in with_maps.items():
        assert np.isfinite(values).all()
        assert np.isfinite(without[case]).all()
        assert not np.allclose(values, without[case], atol=1e-3)


def test_without_maps_nnunet_asks_for_them(lab, kind, trained, tmp_path):
    given = ["-i", lab.images(kind.dataset), "-o", tmp_path / "out", *kind.arguments(), "-f", "0", "-device", "cpu"]
    done = lab.command("nnUNetv2_predict", *given, rc=1)
    assert "requires the segmentations of the previous stage (anatomy)" in " ".join(done.stderr.split())


def test_organ_masks_in_the_place_of_maps_are_told(lab, kind, trained, masks, tmp_path):
    """TotalSegmentator's numbers; nnU-Net would drop them, and the network see no organ."""
    given = ["-i", lab.images(kind.dataset), "-o", tmp_path / "out", *kind.arguments(), "-f", "0", "-device", "cpu"]
    done = lab.command("nnUNetv2_predict", *given, "-prev_stage_predictions", masks, rc=1)
    assert "holds 21, 50, a map only 0 and 1 (spinal_cord), 2 (brain); give -prev_stage" in done.stderr
    assert not [*(tmp_path / "out").glob("*.nii.gz")]


def test_skipping_leaves_empty_volumes_empty_and_is_recorded(predict, empty):
    folder, shown = predict(empty, env={"MASTPRO_SKIP_EMPTY": "1"})
    assert "MAST-Pro skips patches without any host organ" in shown
    assert not any(values.any() for values in read(folder).values())
    recorded = json.loads((folder / "plans.json").read_text())["mastpro"]["prediction"]
    assert recorded == {"skip_empty": True, "tasks": None}


@pytest.mark.slow
def test_a_task_that_the_model_lacks_is_told(lab, kind, trained, maps, tmp_path):
    given = ["-i", lab.images(kind.dataset), "-o", tmp_path / "out", *kind.arguments(), "-f", "0", "-device", "cpu"]
    env = {"MASTPRO_TASKS": "anterior"}
    done = lab.command("nnUNetv2_predict", *given, "-prev_stage_predictions", maps, rc=1, env=env)
    assert "MASTPRO_TASKS names 'anterior', which is no tumour type of the model" in done.stderr
    assert not [*(tmp_path / "out").glob("*.nii.gz")]


@pytest.fixture
def stored(lab, kind):
    """A preprocessed map; whatever a test does to it is undone."""
    folder = lab.workspace.preprocessed / kind.dataset / "nnUNetPlans_3d_fullres_anatomy"
    path = sorted(folder.glob("*.b2nd"))[0]
    kept = path.read_bytes()
    yield path
    path.write_bytes(kept)


@pytest.mark.slow
def test_a_missing_map_stops_the_training_at_its_start(lab, kind, stored, tmp_path):
    stored.unlink()
    done = lab.command(*lab.train_arguments(kind, trainer="nnUNetTrainerMASTPro_5epochs"), rc=1)
    assert f"{stored.stem}" in done.stderr
    assert "mastpro anatomy" in done.stderr
    assert "Epoch 0" not in done.stdout


@pytest.mark.slow
def test_validation_is_repeated(lab, kind, trained):
    before = read(trained / "fold_0" / "validation")
    shutil.rmtree(trained / "fold_0" / "validation")
    lab.train(kind, "--val")
    np.testing.assert_equal(read(trained / "fold_0" / "validation"), before)


@pytest.mark.slow
def test_another_fold_and_going_on(lab, kind, trained, maps, tmp_path):
    """Fold 1, ended early by removing its final checkpoint, goes on with --c; both folds predict together."""
    lab.train(kind, fold="1")
    fold = trained / "fold_1"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    lab.train(kind, "--c", fold="1")
    again = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert again["current_epoch"] == 1
    given = ["-prev_stage_predictions", maps, "-npp", "0", "-nps", "0"]
    lab.predict(kind, tmp_path / "both", *given, fold="0 1")
    assert len(read(tmp_path / "both")) == 2


@pytest.mark.slow
def test_export_and_import(lab, kind, trained, maps, predicted, make_workspace, run_command, tmp_path):
    package = tmp_path / "model.zip"
    given = ["-d", kind.dataset, "-o", package, "-c", kind.configuration, "-tr", TRAINED, "-p", kind.plans, "-f", "0"]
    lab.command("nnUNetv2_export_model_to_zip", *given, "--not_strict")
    elsewhere = make_workspace()
    run_command(["nnUNetv2_install_pretrained_model_from_zip", package], env=elsewhere.env)
    given = ["-i", lab.images(kind.dataset), "-o", tmp_path / "out", *kind.arguments(), "-f", "0", "-device", "cpu"]
    given += ["--disable_tta", "-prev_stage_predictions", maps, "-npp", "0", "-nps", "0"]
    run_command(["nnUNetv2_predict", *given], env=elsewhere.env, timeout=600)
    np.testing.assert_equal(read(tmp_path / "out"), read(predicted))


@pytest.mark.slow
def test_two_dimensions(lab, kind, maps, tmp_path):
    flat = dataclasses.replace(kind, configuration="2d")
    lab.train(flat)
    lab.predict(flat, tmp_path / "out", "-prev_stage_predictions", maps, "-npp", "0", "-nps", "0")
    assert len(read(tmp_path / "out")) == 2


@pytest.mark.slow
def test_mirroring_with_left_and_right(lab, kind, predicted, maps, tmp_path):
    """It runs, and tells something else: nnU-Net's own mean over mirrored views of image and organ channels."""
    given = ["-i", lab.images(kind.dataset), "-o", tmp_path / "out", *kind.arguments(), "-f", "0", "-device", "cpu"]
    given += ["-prev_stage_predictions", maps, "-npp", "0", "-nps", "0", "--save_probabilities"]
    lab.command("nnUNetv2_predict", *given)
    plain = probabilities(predicted)
    mirrored = probabilities(tmp_path / "out")
    assert mirrored.keys() == plain.keys()
    for case, values in mirrored.items():
        assert values.shape == plain[case].shape
        assert not np.allclose(values, plain[case], atol=1e-4)


@pytest.mark.slow
def test_preprocessing_with_these_plans_keeps_the_maps(lab, kind, trained, predicted):
    """Anew, since the data are those of the plans that they were made from."""
    maps = lab.workspace.preprocessed / kind.dataset / "nnUNetPlans_3d_fullres_anatomy"
    before = {path.name: path.read_bytes() for path in maps.iterdir()}
    lab.command("nnUNetv2_preprocess", "-d", "701", "-plans_name", kind.plans, "-c", "3d_fullres", "-np", "1")
    assert {path.name: path.read_bytes() for path in maps.iterdir()} == before
    lab.train(kind, "--val")

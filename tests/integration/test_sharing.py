"""A trained model elsewhere: as a folder, in an ensemble, in a zip file."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk

pytestmark = pytest.mark.slow
ONE_PROCESS = ["-npp", "0", "-nps", "0"]


def same_predictions(found, expected):
    names = sorted(path.name for path in expected.glob("*.nii.gz"))
    assert len(names) == 2
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes()


def test_model_folder(lab, tmp_path):
    """Moved, renamed, and used where no nnU-Net folder is set."""
    expected = lab.predicted("2d")
    shutil.copytree(lab.trained("2d"), tmp_path / "model")
    images = lab.images("Dataset701_Hippocampus")
    folders = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "MASTPRO_CACHE")
    unset = {name: value for name, value in lab.workspace.env.items() if name not in folders}
    given = ["-i", images, "-o", tmp_path / "out", "-m", tmp_path / "model", "-f", "0", "-device", "cpu"]
    workers = ["-npp", "1", "-nps", "1"]
    lab.run(["nnUNetv2_predict_from_modelfolder", *given, "--disable_tta", *workers], env=unset, timeout=600)
    same_predictions(tmp_path / "out", expected)


def test_two_folds(lab, kinds, tmp_path):
    """nnU-Net loads one set of weights after the other into the same network."""
    lab.train(kinds["2d"], fold="1")
    lab.predict(kinds["2d"], tmp_path, *ONE_PROCESS, fold="0 1")
    for path in lab.predicted("2d").glob("*.npz"):
        one, both = (np.load(folder / path.name)["probabilities"] for folder in (path.parent, tmp_path))
        assert both.shape == one.shape
        assert np.isfinite(both).all()
        assert not np.array_equal(both, one)


def test_ensemble(lab, tmp_path):
    """Of two networks: the mean of their probabilities."""
    folders = [lab.predicted("2d"), lab.predicted("resenc")]
    lab.command("nnUNetv2_ensemble", "-i", *folders, "-o", tmp_path, "-np", "1", "--save_npz")
    files = sorted(tmp_path.glob("*.nii.gz"))
    assert len(files) == 2
    for path in files:
        name = path.name.replace(".nii.gz", ".npz")
        one, two = (np.load(folder / name)["probabilities"].astype(np.float32) for folder in folders)
        mean = (one + two) / 2
        np.testing.assert_allclose(np.load(tmp_path / name)["probabilities"], mean, atol=1e-3)
        values = sitk.GetArrayFromImage(sitk.ReadImage(path))
        margin = np.diff(np.sort(mean, 0)[-2:], axis=0)[0]
        assert (values == mean.argmax(0))[margin > 1e-3].all()


def test_export_and_import(lab, kinds, make_workspace, tmp_path):
    expected = lab.predicted("2d")
    kind = kinds["2d"]
    lab.command(
        "nnUNetv2_export_model_to_zip", *kind.arguments(), "-f", "0", "-o", tmp_path / "model.zip", "--not_strict"
    )
    elsewhere = make_workspace()
    lab.run(["nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip"], env=elsewhere.env)
    results = {"nnUNet_results": str(elsewhere.results)}
    lab.predict(kind, tmp_path / "out", *ONE_PROCESS, env=results)
    same_predictions(tmp_path / "out", expected)

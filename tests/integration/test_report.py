"""mastpro report on what real commands left: a short training, its validation, the predictions of unseen images."""

import shutil

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("kind", ["3d_fullres", "2d", "regions"])]


def test_the_validation_is_reported_with_truth(lab, kinds, kind, tmp_path):
    trained = lab.trained(kind)
    raw = lab.workspace.raw / kinds[kind].dataset
    (prediction,) = (trained / "fold_0" / "validation").glob("*.nii.gz")
    case = prediction.name.removesuffix(".nii.gz")
    for folder, file in (("i", raw / "imagesTr" / f"{case}_0000.nii.gz"), ("p", prediction)):
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder)
    given = ["-i", tmp_path / "i", "-pred", tmp_path / "p", "-ref", raw / "labelsTr", "-o", tmp_path / "report"]
    done = lab.command("mastpro", "report", "-m", trained, *given, "-np", "1")
    page = (tmp_path / "report" / "index.html").read_text()
    assert done.stdout.startswith("1 cases, ")
    assert "fold_0: losses, pseudo-Dice" in page
    assert "The number of parameters by part stands in a training's log" not in page
    assert "fold_0, epoch 0: share of training patches" in page
    assert "mean Dice of " in page


def test_unseen_images_are_reported_without_truth(lab, kinds, kind, tmp_path):
    predictions = lab.predicted(kind)
    given = ["-i", lab.images(kinds[kind].dataset), "-pred", predictions, "-o", tmp_path / "report", "-np", "1"]
    done = lab.command("mastpro", "report", "-m", lab.trained(kind), *given)
    assert done.stdout.startswith("2 cases, ")
    assert "no reference labels, so no Dice." in (tmp_path / "report" / "index.html").read_text()

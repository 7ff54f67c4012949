"""Whose predictions they are, and which cases have some."""

import json
import shutil

import pytest

from nnunetv2_mastpro import cli

QUICK = ("--panels", "0", "--viewer-cases", "0", "-np", "1")


def run(folders, predictions, output, *more):
    given = ["-m", folders.model, "-i", folders.images, "-pred", predictions, "-o", output, *QUICK, *more]
    return cli.main(["report", *map(str, given)])


def told(output):
    return (output / "index.html").read_text()


@pytest.mark.parametrize("changed", [{"dataset_name": "Dataset010_Colon"}, {"plans_name": "other"}])
def test_predictions_of_another_model_are_refused(folders, tmp_path, capsys, changed):
    plans = json.loads((folders.model / "plans.json").read_text())
    (folders.predictions / "plans.json").write_text(json.dumps({**plans, **changed}))
    assert run(folders, folders.predictions, tmp_path / "out") == 2
    theirs = {"dataset_name": "Dataset004_Liver", "plans_name": "nnUNetPlans", **changed}
    said = capsys.readouterr().err
    assert f"was predicted by a model of {theirs['dataset_name']} with {theirs['plans_name']} (its plans.json)" in said
    assert "is of Dataset004_Liver with nnUNetPlans; give -m the model that predicted" in said
    assert not (tmp_path / "out").exists()


def test_predictions_of_other_labels_are_refused(folders, tmp_path, capsys):
    """Of what mastpro unpack wrote, of a pack with more types, plans.json has the same names."""
    shutil.copy(folders.model / "plans.json", folders.predictions)
    dataset = json.loads((folders.model / "dataset.json").read_text())
    (folders.predictions / "dataset.json").write_text(json.dumps(dataset))
    assert run(folders, folders.predictions, tmp_path / "same") == 0
    others = {"background": 0, "lung_tumor": 1, "liver_tumor": 2}
    (folders.predictions / "dataset.json").write_text(json.dumps({**dataset, "labels": others}))
    assert run(folders, folders.predictions, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{folders.predictions / 'dataset.json'} has the labels {others}, -m {folders.model} has" in said
    assert not (tmp_path / "out").exists()


def test_of_several_folds_none_is_said_to_have_predicted(folders, tmp_path):
    shutil.copy(folders.model / "plans.json", folders.predictions)
    assert run(folders, folders.predictions, tmp_path / "one") == 0
    one = told(tmp_path / "one")
    assert "(nnUNetPlans, 2d, fold_0) of" in one
    assert f"-o {folders.predictions} -f 0\n" in one
    assert "no plans.json beside them" not in one
    shutil.copytree(folders.model / "fold_0", folders.model / "fold_1")
    for given, trained in (([], "fold_0, fold_1"), (["-f", "1"], "fold_1")):
        assert run(folders, folders.predictions, tmp_path / "two", *given) == 0
        page = told(tmp_path / "two")
        assert "(nnUNetPlans, 2d) of" in page
        assert f"does not record which folds predicted; what follows of trainings is of {trained}." in page
        assert f"-o {folders.predictions}\n" in page


def test_without_plans_beside_predictions_neither_fold_nor_command_is_claimed(folders, tmp_path):
    """As an ensemble and nnUNetv2_apply_postprocessing leave them."""
    assert run(folders, folders.predictions, tmp_path / "out") == 0
    page = told(tmp_path / "out")
    assert "(nnUNetPlans, 2d) of" in page
    assert "have no plans.json beside them, which would tell of which data set and plans their model is;" in page
    assert "nnUNetv2_train " in page
    assert "nnUNetv2_predict " not in page


@pytest.mark.parametrize("folds", [["0"], ["0", "1"]])
def test_validations_that_nnunet_collected_are_recognised(folders, tmp_path, capsys, folds):
    shutil.copytree(folders.model / "fold_0", folders.model / "fold_1")
    collected = folders.model / f"crossval_results_folds_{'_'.join(folds)}"
    shutil.copytree(folders.predictions, collected)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(folders.model / name, collected)
    assert run(folders, collected, tmp_path / "out") == 0
    page = told(tmp_path / "out")
    names = ", ".join(f"fold_{fold}" for fold in folds)
    assert f"(nnUNetPlans, 2d, {names}) of" in page
    assert f"The predictions are the validation that the training of {names} wrote." in page
    assert "nnUNetv2_predict " not in page
    other = shutil.copytree(folders.model, tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    assert run(folders, other / collected.name, tmp_path / "out") == 2
    assert f"is of the model {other}, -m is {folders.model}; give -m that one" in capsys.readouterr().err


def test_a_folds_validation_is_shown_with_chill(folders, tmp_path, capsys):
    shutil.copytree(folders.model / "fold_0", folders.model / "fold_1")
    validation = folders.model / "fold_1" / "validation"
    shutil.copytree(folders.predictions, validation)
    (validation / "case_b.nii.gz").unlink()
    (validation / "summary.json").write_text("{}")
    rest = ("-ref", folders.reference, "--maps", folders.maps)
    assert run(folders, validation, tmp_path / "out", *rest) == 2
    said = capsys.readouterr().err
    assert "lacks case_b of 3 cases; images, predictions, labels and maps must be of the same cases, or leave" in said
    assert "out what has no prediction with --chill" in said
    assert run(folders, validation, tmp_path / "out", *rest, "--chill") == 0
    page = told(tmp_path / "out")
    assert "(nnUNetPlans, 2d, fold_1) of Dataset004_Liver on 2 cases" in page
    assert "The predictions are the validation that the training of fold_1 wrote." in page
    assert "nnUNetv2_predict " not in page
    other = shutil.copytree(folders.model, tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    assert run(folders, other / "fold_1" / "validation", tmp_path / "out", "--chill") == 2
    assert f"is of the model {other}, -m is {folders.model}; give -m that one" in capsys.readouterr().err


def test_a_validation_of_another_fold_than_asked_for_is_refused(folders, tmp_path, capsys):
    shutil.copytree(folders.model / "fold_0", folders.model / "fold_1")
    validation = shutil.copytree(folders.predictions, folders.model / "fold_0" / "validation")
    assert run(folders, validation, tmp_path / "out", "-f", "1") == 2
    assert f"-pred {validation} is of fold_0, -f is 1; give -f the folds that predicted" in capsys.readouterr().err
    assert run(folders, validation, tmp_path / "out", "-f", "0", "1") == 0


def test_predictions_without_an_image_are_refused_with_chill_too(folders, tmp_path, capsys):
    (folders.images / "case_b_0000.nii.gz").unlink()
    assert run(folders, folders.predictions, tmp_path / "out", "--chill") == 2
    assert "lacks case_b of 3 cases" in capsys.readouterr().err

"""What mastpro add-tumour refuses, before a file is written or a training begins."""

import re

import pytest
import torch

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs import add

from .conftest import DATASET, GROWN, OTHER_PROMPT, call


def labels_with(**changes):
    return {"labels": {key: value for key, value in {**GROWN, **changes}.items() if value is not None}}


SWAPPED = {"labels": {**GROWN, "liver_tumor": 3, "kidney_tumor": 2}}
AN_ORGAN = {"labels": {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3, "spleen": 4}}
NOT_THERE = {"background": 0, "liver": 1, "liver_tumor": 2, "lung_tumor": 3}


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (SWAPPED, [], "gives liver_tumor the value 3, the model 2; the model's labels come first"),
        ({"labels": NOT_THERE}, [], "lacks the label kidney_tumor of the model"),
        (labels_with(lung_tumor=None), [], "has no label that the model lacks .*add the new type"),
        (AN_ORGAN, [], 'the new label spleen in .* is no tumour type.*"is_tumor": true'),
        (OTHER_PROMPT, [], 'gives liver_tumor another prompt.*"sentence": "This is a .*--write-prompts'),
        ({"channel_names": {"0": "MRI"}}, [], "channels {'0': 'MRI'}, the model {'0': 'CT'}"),
        ({}, ["-c", "3d_fullres"], "-c 3d_fullres is not the model's; its weights are of 2d"),
        ({}, ["--trainer", "nnUNetTrainerMastPro"], "is unknown; did you mean 'nnUNetTrainerMASTPro'"),
        ({}, ["--trainer", "nnUNetTrainerMASTProPretrain"], "is unknown; did you mean 'nnUNetTrainerMASTPro"),
        ({}, ["-n", "a__b"], "cannot be the plans' name"),
        ({}, ["-f", "3"], "fold_3/checkpoint_final.pth is not there"),
        ({}, ["-d", "13"], "no single dataset 13"),
    ],
)
def test_what_is_refused(make_model, make_dataset, commands, tmp_path, capsys, content, arguments, message):
    """Before any file is written, in one sentence."""
    base = make_model()
    make_dataset(**content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MASTProError, match=message):
        call(base, *arguments)
    assert sorted(tmp_path.rglob("*")) == before
    assert commands == []


def test_another_encoder_is_refused(make_model, make_dataset, commands):
    base = make_model()
    make_dataset()
    checkpoint = torch.load(base / "fold_0" / "checkpoint_final.pth")
    checkpoint["network_weights"]["embeddings"] += 0.1
    torch.save(checkpoint, base / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(MASTProError, match="gives other embeddings than when .*restore the encoder"):
        call(base)


def test_other_plans_of_the_name_are_kept(make_model, make_dataset, commands, tmp_path):
    base = make_model()
    make_dataset()
    folder = tmp_path / "nnUNet_preprocessed" / DATASET
    folder.mkdir()
    (folder / "Added.json").write_text("{}")
    with pytest.raises(MASTProError, match="Added.json is there and differs.*options as before, or -n"):
        call(base)
    assert (folder / "Added.json").read_text() == "{}"


def test_the_preprocessed_copy_is_checked_too(make_model, make_dataset, commands):
    """Training reads it."""
    base = make_model()
    make_dataset()
    make_dataset(NOT_THERE, folder="nnUNet_preprocessed")
    with pytest.raises(MASTProError, match=r"nnUNet_preprocessed\S+ lacks the label kidney_tumor"):
        call(base)


def test_a_model_of_organ_masks_wants_them(make_model, make_dataset, commands, tmp_path):
    base = make_model(anatomy=True)
    make_dataset()
    data = tmp_path / "nnUNet_preprocessed" / DATASET / "Added_nnUNetPlans_2d"
    data.mkdir(parents=True)
    for case in "ab":
        (data / f"{case}.pkl").touch()
    with pytest.raises(MASTProError, match="mastpro anatomy"):
        call(base)
    assert "nnUNetv2_train" not in [command[0] for command in commands]


def test_a_command_that_fails_is_told(capfd):
    with pytest.raises(MASTProError, match="python ended with status 3; repair .* it goes on where it was"):
        add.run(("python", "-c", "raise SystemExit(3)"), print)
    assert re.search(r"^\$ python -c 'raise SystemExit\(3\)'$", capfd.readouterr().out, re.MULTILINE)

"""What a user can get wrong: one sentence with the remedy, before training starts and before a folder is made."""

import json
import shutil

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from nnunetv2_mastpro.errors import MASTProError

DATASET, CONFIGURATION, TRAINER = "Dataset701_Hippocampus", "3d_fullres", "nnUNetTrainerMASTPro_1epoch"


@pytest.fixture
def planned(lab, make_workspace, monkeypatch):
    """A workspace with the data set's dataset.json and plans, but no images: they are not to be reached."""
    workspace = make_workspace()
    workspace.env["MASTPRO_CACHE"] = lab.workspace.env["MASTPRO_CACHE"]
    folder = workspace.preprocessed / DATASET
    folder.mkdir()
    for name in ("dataset.json", "nnUNetPlans.json", "Small.json"):
        shutil.copy(lab.preprocessed(DATASET) / name, folder)
    for name, value in workspace.env.items():
        if name.startswith(("nnUNet_", "MASTPRO_", "HF_")):
            monkeypatch.setenv(name, value)
    return workspace


def edit(workspace, file, change):
    path = workspace.preprocessed / DATASET / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def make_trainer(continue_training=False):
    """As nnUNetv2_train makes it."""
    device = torch.device("cpu")
    return get_trainer_from_args(DATASET, CONFIGURATION, 0, TRAINER, "Small", continue_training, device)


def prompts(**entries):
    return "dataset.json", lambda content: content.update(mastpro={"prompts": entries})


def block(**keys):
    return "Small.json", lambda content: content.update(mastpro=keys)


def patch(*size):
    return "Small.json", lambda content: content["configurations"][CONFIGURATION].update(patch_size=list(size))


MISTAKES = {
    "unknown key in the section": (
        prompts(posterior={"shap": "round"}),
        r'mastpro.prompts\["posterior"\] in dataset.json has the unknown key "shap"; did you mean "shape"\?',
    ),
    "label that is none": (
        prompts(posteror={"is_tumor": True}),
        r'names "posteror", which is none of its labels; did you mean "posterior"\?',
    ),
    "empty attribute": (
        prompts(anterior={"edge": " "}),
        r'mastpro.prompts\["anterior"\] in dataset.json: "edge" is empty; fill it in or delete the key',
    ),
    "encoder that is not there": (
        block(prompts={"encoder": "nobody/no-such-encoder"}),
        r"encoder nobody/no-such-encoder cannot be had offline: .*; give a local folder or download it once",
    ),
    "unknown part of the block": (
        block(netwrok={}),
        r"unknown key mastpro.netwrok in the plans; did you mean 'network'\?",
    ),
    "unknown key of the network": (
        block(network={"rang": 8}),
        r"unknown key mastpro.network.rang in the plans; did you mean 'rank'\?",
    ),
    "k above the generic experts": (
        block(network={"top_k_generic": 9}),
        r"top_k_generic=9 exceeds generic_experts=4; lower mastpro.network.top_k_generic in the plans",
    ),
    "k above the specific experts": (
        block(network={"top_k_specific": 3}),
        r"top_k_specific=3 exceeds the 2 experts of 1 tumour types; lower mastpro.network.top_k_specific in the plans",
    ),
    "patch that does not divide": (
        patch(40, 56, 42),
        r"patch_size \[40, 56, 42\] is not divisible by .* \[8, 8, 8\] in axis 2; make it a multiple of them",
    ),
    "patch of one voxel at the bottleneck": (
        patch(8, 8, 8),
        r"patch_size \[8, 8, 8\] leaves one voxel at the bottleneck .*; double one axis of the patch",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(planned, mistake):
    (file, change), said = MISTAKES[mistake]
    edit(planned, file, change)
    with pytest.raises(MASTProError, match=said) as caught:
        make_trainer()
    assert "\n" not in str(caught.value)
    assert [*planned.results.iterdir()] == []


def test_the_command_ends_with_the_sentence(planned, run_command):
    edit(planned, *prompts(posterior={"shap": "round"}))
    with pytest.raises(MASTProError) as caught:
        make_trainer()
    argv = ["nnUNetv2_train", DATASET, CONFIGURATION, "0", "-p", "Small", "-tr", TRAINER, "-device", "cpu"]
    done = run_command(argv, env=planned.env, rc=1)
    assert done.stderr.splitlines()[-1].endswith(str(caught.value))
    assert [*planned.results.iterdir()] == []


def test_without_mistake(planned):
    """The folder that the others must not make."""
    make_trainer()
    assert [path.name for path in planned.results.iterdir()] == [DATASET]


@pytest.fixture
def finished(lab, planned):
    """A finished run of plans Small on two-dimensional slices in the workspace's results."""
    trained = lab.trained("2d")
    target = planned.results / DATASET / trained.name
    (target / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        shutil.copy(trained / name, target / name)
    (planned.preprocessed / DATASET / "nnUNetPlans_2d").mkdir()
    (planned.preprocessed / DATASET / "nnUNetPlans_2d" / "case.b2nd").touch()  # tells nnU-Net how cases are stored
    return target


def other_classes(*labels):
    """Sentences of their own: the knowledge base knows the two parts of the hippocampus only beside each other."""

    def change(content):
        content["labels"] = {"background": 0} | {label: value for value, label in enumerate(labels, 1)}
        entries = {label: {"sentence": f"The {label} of the hippocampus.", "is_tumor": False} for label in labels}
        content["mastpro"]["prompts"] = entries

    return "dataset.json", change


def make_2d_trainer(continue_training=False):
    return get_trainer_from_args(DATASET, "2d", 0, TRAINER, "Small", continue_training, torch.device("cpu"))


def test_continuing_with_other_classes(planned, finished, run_command):
    edit(planned, *other_classes("head", "tail"))
    argv = ["nnUNetv2_train", DATASET, "2d", "0", "-p", "Small", "-tr", TRAINER, "-device", "cpu", "--c"]
    done = run_command(argv, env=planned.env, rc=1)
    said = f"{finished} holds a run with other prompts or settings: classes was "
    assert said in done.stderr.splitlines()[-1]


def test_continuing_with_a_checkpoint_of_other_classes(planned, finished):
    """Where no plans.json beside the checkpoint tells."""
    edit(planned, *other_classes("head", "tail"))
    (finished / "plans.json").unlink()
    trainer = make_2d_trainer(continue_training=True)
    said = r"checkpoint_final.pth has the classes anterior, posterior, the data set head, tail; use the checkpoint"
    with pytest.raises(MASTProError, match=said):
        maybe_load_checkpoint(trainer, True, False)


def test_pretrained_weights_of_another_number_of_classes(planned, finished):
    """nnU-Net itself refuses: it compares shapes before the plugin is asked."""
    (finished / "fold_0" / "checkpoint_final.pth").rename(planned.results / "source.pth")
    edit(planned, *other_classes("head", "body", "tail"))
    (finished / "plans.json").unlink()
    trainer = make_2d_trainer()
    with pytest.raises(AssertionError, match="The shape of the parameters of key embeddings is not the same"):
        maybe_load_checkpoint(trainer, False, False, str(planned.results / "source.pth"))

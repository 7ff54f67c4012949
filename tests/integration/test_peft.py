"""-pretrained_weights of a trained MAST-Pro checkpoint: parameter-efficient fine-tuning, Sec. 2.3."""

import re

import pytest
import torch

from nnunetv2_mastpro.training.recipe import WarmupPolyLR

TRAINER = "nnUNetTrainerMASTPro_5epochs"
STEPS = 4  # per epoch
FROZEN = "The backbone is frozen: parameter-efficient fine-tuning (PEFT)."

pytestmark = pytest.mark.slow


def load(file):
    return torch.load(file, map_location="cpu", weights_only=False)


@pytest.fixture(scope="module")
def source(lab, tmp_path_factory):
    """Where fine-tuning starts from: a checkpoint of the same classes with other sentences."""
    checkpoint = load(lab.trained("2d") / "fold_0" / "checkpoint_final.pth")
    checkpoint["network_weights"]["embeddings"].fill_(0.5)
    file = tmp_path_factory.mktemp("source") / "checkpoint.pth"
    torch.save(checkpoint, file)
    return file


@pytest.fixture(scope="module")
def killed(lab, kinds, source):
    """Checkpoint, log and folder of a fine-tuning that was killed in its second epoch or later."""
    fold = lab.results(kinds["2d"], TRAINER) / "fold_1"

    def in_the_second_epoch():
        return any("Epoch 1" in log.read_text() for log in fold.glob("training_log_*.txt"))

    argv = lab.train_arguments(kinds["2d"], "-pretrained_weights", str(source), trainer=TRAINER, fold="1")
    lab.interrupt(argv, in_the_second_epoch, env={"MASTPRO_EPOCH_ITERATIONS": str(STEPS)})
    (log,) = fold.glob("training_log_*.txt")
    return load(fold / "checkpoint_best.pth"), log, fold


@pytest.fixture(scope="module")
def finished(lab, kinds, killed):
    """Checkpoint and second log of the same run, continued by --c to its end."""
    _, first, fold = killed
    lab.train(kinds["2d"], "--c", trainer=TRAINER, fold="1", env={"MASTPRO_EPOCH_ITERATIONS": str(STEPS)})
    (log,) = {*fold.glob("training_log_*.txt")} - {first}
    return load(fold / "checkpoint_final.pth"), log


@pytest.mark.parametrize("when", ["killed", "finished"])
def test_the_backbone_stays_and_the_rest_moves(source, when, request):
    found = request.getfixturevalue(when)[0]["network_weights"]
    before = load(source)["network_weights"]
    assert found.keys() == before.keys()
    backbone = [name for name in before if name.startswith("backbone.")]
    assert backbone
    for name in backbone:
        assert torch.equal(found[name], before[name]), name
    trained = [name for name in before if name.startswith(("experts.", "fusion.", "head.", "background"))]
    assert len(trained) + len(backbone) == len(before) - len(["embeddings", "trained"])
    moved = [name for name in trained if not torch.equal(found[name], before[name])]
    assert {name.split(".")[0] for name in moved} == {"experts", "fusion", "head", "background"}
    assert len(moved) > 0.8 * len(trained)


@pytest.mark.parametrize("when", ["killed", "finished"])
def test_the_log_says_so(request, when):
    text = request.getfixturevalue(when)[1].read_text()
    assert FROZEN in text
    assert re.search(r"^backbone +[\d,]+ +0 *$", text, re.MULTILINE)


def test_learning_rate_is_the_papers(killed, finished):
    """5e-5, warmed up, decayed as in nnU-Net; and the optimizer's count goes on after --c."""
    checkpoint = finished[0]
    (group,) = checkpoint["optimizer_state"]["param_groups"]
    assert group["initial_lr"] == 5e-5
    reference = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 5e-5)
    WarmupPolyLR(reference, 5e-5, 5, 0.25).step(4 + (STEPS - 1) / STEPS)
    assert group["lr"] == pytest.approx(reference.param_groups[0]["lr"])
    assert {int(state["step"]) for state in checkpoint["optimizer_state"]["state"].values()} == {5 * STEPS}
    assert checkpoint["current_epoch"] == 5
    assert killed[0]["current_epoch"] < 5


@pytest.mark.parametrize("when", ["killed", "finished"])
def test_embeddings_are_the_data_sets_own(lab, request, when):
    """Not the source's, which loading writes over them."""
    found = request.getfixturevalue(when)[0]["network_weights"]["embeddings"]
    own = load(lab.trained("2d") / "fold_0" / "checkpoint_final.pth")["network_weights"]["embeddings"]
    assert torch.equal(found, own)


def test_a_stock_checkpoint_is_refused_by_nnunet(lab, kinds):
    """It has none of the experts; nnU-Net wants every tensor but its segmentation layers'."""
    kind = kinds["2d"]
    stock = lab.train(kind, trainer="nnUNetTrainerStock_1epoch", fold="1")
    file = str(stock / "fold_1" / "checkpoint_final.pth")
    argv = lab.train_arguments(kind, "-pretrained_weights", file, trainer="nnUNetTrainerMASTPro_10epochs")
    done = lab.command(*argv, rc=1)
    last = done.stderr.splitlines()[-1]
    assert re.search(r"Key \S+ is missing in the pretrained model weights", last), last
    assert not (lab.results(kind, "nnUNetTrainerMASTPro_10epochs") / "plans.json").exists()  # no training started

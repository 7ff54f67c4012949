"""A killed training goes on with --c where its last checkpoint was."""

import re

import pytest
import torch

TRAINER = "nnUNetTrainerMASTPro_5epochs"
BEFORE, AFTER = 6, 2  # steps per epoch, so that the optimizer's count tells who made them


@pytest.fixture(scope="module")
def killed(lab, kinds):
    """The fold folder of a run killed in its second epoch or later, and how many epochs its checkpoint has."""
    lab.prepare(kinds["2d"])
    fold = lab.results(kinds["2d"], TRAINER) / "fold_0"

    def in_the_second_epoch():
        return any("Epoch 1" in log.read_text() for log in fold.glob("training_log_*.txt"))

    argv = lab.train_arguments(kinds["2d"], trainer=TRAINER)
    lab.interrupt(argv, in_the_second_epoch, env={"MASTPRO_EPOCH_ITERATIONS": str(BEFORE)})
    assert not (fold / "checkpoint_final.pth").exists()
    saved = torch.load(fold / "checkpoint_best.pth", map_location="cpu", weights_only=False)
    return fold, saved["current_epoch"]


def test_it_goes_on(lab, kinds, killed):
    fold, done = killed
    before = {*fold.glob("training_log_*.txt")}
    lab.train(kinds["2d"], "--c", trainer=TRAINER, env={"MASTPRO_EPOCH_ITERATIONS": str(AFTER)})
    final = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    steps = {int(state["step"]) for state in final["optimizer_state"]["state"].values()}
    assert steps == {BEFORE * done + AFTER * (5 - done)}
    assert final["current_epoch"] == 5
    (log,) = {*fold.glob("training_log_*.txt")} - before
    epochs = [int(epoch) for epoch in re.findall(r"Epoch (\d+) *$", log.read_text(), re.MULTILINE)]
    assert epochs == list(range(done, 5))
    assert "Everything is trained" in log.read_text()
    assert [path.name for path in fold.glob("*tmp*")] == []

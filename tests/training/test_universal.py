"""The Universal Model's trainer: loss, step, rebuilding, refusals."""

import json

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.testing import assert_close

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.partial_loss import PartialLabelLoss
from nnunetv2_mastpro.training.universal import SigmoidLoss, nnUNetTrainerUniversal

CASES = {"a": {"annotated": ["liver", "liver_tumor"]}, "b": {"annotated": ["kidney_tumor"]}}
ANNOTATED = torch.tensor([[True, True, False], [False, False, True]])


def make_batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 1, 16, 16), generator=generator).float()
    return {"data": torch.randn(2, 1, 16, 16, generator=generator), "target": target, "keys": ["a", "b"]}


def naive(logits, target, annotated, ignore=None):
    """BCE over the voxels of annotated classes, and soft Dice of each, one sample and class at a time."""
    losses, dice = [], []
    for sample in range(len(logits)):
        valid = torch.ones_like(target[sample, 0], dtype=torch.bool) if ignore is None else target[sample, 0] != ignore
        for index in range(logits.shape[1] - 1):
            if annotated[sample, index]:
                truth = (target[sample, 0] == index + 1)[valid].float()
                p = logits[sample, index + 1][valid].sigmoid()
                losses.append(-(truth * p.log() + (1 - truth) * (1 - p).log()))
                dice.append((2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5))
    return torch.cat(losses).mean() - torch.stack(dice).mean()


@pytest.mark.parametrize("ignore", [None, 4])
def test_the_loss_masks_what_is_not_annotated(ignore):
    torch.manual_seed(0)
    masked = PartialLabelLoss(
        nested=[[False] * 3] * 3, has_regions=True, ignore_label=ignore, batch_dice=False, ddp=False
    )
    loss = SigmoidLoss(masked, num_classes=3, has_regions=False)
    masked.annotated = ANNOTATED
    logits = torch.cat([torch.zeros(2, 1, 6, 6), torch.randn(2, 3, 6, 6)], 1)
    target = torch.randint(0, 5 if ignore else 4, (2, 1, 6, 6)).float()
    assert_close(loss(logits, target), naive(logits, target, ANNOTATED, ignore))


@pytest.mark.parametrize("partial", [False, True])
def test_a_step(make_trainer, dataset_json, partial):
    if partial:
        dataset_json["mastpro"] = {"cases": CASES}
    trainer = make_trainer(nnUNetTrainerUniversal)
    trainer.on_train_epoch_start()
    trainer.lr_scheduler.step(5)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    assert np.isfinite(trainer.train_step(make_batch())["loss"])
    assert_close(trainer.loss.masked.annotated, ANNOTATED if partial else torch.ones(2, 3, dtype=torch.bool))
    same = {key for key, value in trainer.network.state_dict().items() if value.equal(before[key])}
    assert same == {"sentences"}
    trainer.network.eval()
    with torch.no_grad():
        found = trainer.validation_step(make_batch())
    assert np.isfinite(found["loss"])
    assert len(found["tp_hard"]) == 3


def test_regions_have_no_background(make_trainer, dataset_json):
    dataset_json |= {"labels": {"background": 0, "liver": [1, 2], "liver_tumor": 2}, "regions_class_order": [1, 2]}
    trainer = make_trainer(nnUNetTrainerUniversal)
    trainer.on_train_epoch_start()
    batch = make_batch() | {"target": torch.randint(0, 2, (2, 2, 16, 16)).float()}
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert trainer.network(batch["data"]).shape == (2, 2, 16, 16)


def test_the_head_learns_at_the_share_of_the_prompts(make_trainer):
    backbone, head = make_trainer(nnUNetTrainerUniversal).optimizer.param_groups
    assert "share" not in backbone
    assert head["share"] == 0.1


def test_a_checkpoint_rebuilds_it_without_an_encoder(make_trainer):
    trainer = make_trainer(nnUNetTrainerUniversal)
    assert_close(trainer.network.sentences, trainer.sentences.vectors)
    manager = PlansManager(json.loads(json.dumps(trainer.plans_manager.plans)))
    rebuilt = nnUNetTrainerUniversal.build_network_architecture(manager, manager.get_configuration("2d"), 1, 4, False)
    rebuilt.load_state_dict(trainer.network.state_dict())
    image = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert rebuilt.eval()(image).equal(trainer.network.eval()(image))


def test_organ_masks_are_refused(make_trainer, plans):
    plans["configurations"]["2d"]["previous_stage"] = "anatomy"
    with pytest.raises(MASTProError, match="has organ masks, which nnUNetTrainerUniversal does not take"):
        make_trainer(nnUNetTrainerUniversal, initialize=False)


def test_pretrained_weights_bring_no_sentences(make_trainer):
    trainer = make_trainer(nnUNetTrainerUniversal)
    trainer.network.sentences.fill_(7.0)

    def end():
        raise RuntimeError("no cases")

    trainer.get_dataloaders = end
    with pytest.raises(RuntimeError, match="no cases"):
        trainer.on_train_start()
    assert_close(trainer.network.sentences, trainer.sentences.vectors)

"""Training of types that are added to a trained model, in this process; the command is in tests/integration."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.report import describe_network
from nnunetv2_mastpro.training.setup import resolve

IMAGE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def added_plans(plans):
    """The plans of `make_trainer`, in which kidney_tumor is new."""
    plans["mastpro"]["prompts"] = {"added": ["kidney_tumor"]}
    plans["mastpro"]["training"] = {"new_types": ["kidney_tumor"], "added_learning_rate": 2e-3}
    return plans


def own_names(network):
    """What kidney_tumor, the second type, owns."""
    routed = [f"experts.{s}.{part}" for s in network.experts for part in ("router.specific.1", "down.2", "up.2")]
    others = [f"added_updates.0.{name}" for name, _ in network.added_updates[0].named_parameters()]
    return {"offsets.0", *routed, *others}


def trainable(trainer):
    return {name for name, parameter in trainer.network.named_parameters() if parameter.requires_grad}


def test_the_class_says_that_it_was_added(added_plans, dataset_json):
    config, _ = resolve(added_plans, dataset_json)
    assert [entry.added for entry in config.resolved.classes] == [False, False, True]


@pytest.mark.parametrize(
    ("prompts", "training", "message"),
    [
        (["lung_tumor"], [], "prompts.added .*'lung_tumor', which is none of liver_tumor, kidney_tumor"),
        (["liver"], [], "prompts.added .*'liver'"),
        ([], ["kidney_tumor"], "training.new_types .*'kidney_tumor', which is none of none; use the plans that"),
    ],
)
def test_types_that_cannot_be_added(plans, dataset_json, prompts, training, message):
    plans["mastpro"] |= {"prompts": {"added": prompts}, "training": {"new_types": training}}
    with pytest.raises(MASTProError, match=message):
        resolve(plans, dataset_json)


@pytest.mark.parametrize("rate", [0, 1.5])
def test_the_rate_is_checked(plans, dataset_json, rate):
    plans["mastpro"]["training"] = {"added_learning_rate": rate}
    with pytest.raises(MASTProError, match="added_learning_rate=.* not within 0 and 1"):
        resolve(plans, dataset_json)


def test_a_start_from_trained_weights_trains_the_new_type_only(added_plans, make_trainer):
    trainer = make_trainer()
    before = trainer.network.embeddings + 1e-5  # as another version of the encoder may give them
    trainer.network.embeddings.copy_(before)
    trainer.network.trained.fill_(True)
    trainer.decide_what_is_trained()
    assert trainable(trainer) == own_names(trainer.network)
    own, prompts = trainer.optimizer.param_groups
    assert [id(p) for p in prompts["params"]] == [id(trainer.network.offsets[0])]
    trained = {id(p) for p in trainer.network.parameters() if p.requires_grad}
    assert {id(p) for group in (own, prompts) for p in group["params"]} == trained
    assert [group["initial_lr"] for group in (own, prompts)] == [2e-3, 2e-3]
    assert [group.get("share") for group in (own, prompts)] == [None, 0.1]
    assert_close(trainer.network.embeddings, before, rtol=0, atol=0)  # the old types' outputs come from them
    told = [*describe_network(trainer.network, trainer.mastpro, trainer.embeddings.origins)]
    assert "All is frozen but what the new types own: kidney_tumor." in told


def test_where_everything_is_trained_experts_have_the_full_rate(plans, make_trainer):
    """Those of types that were added earlier too; the offset is a prompt's."""
    plans["mastpro"]["prompts"] = {"added": ["kidney_tumor"]}
    trainer = make_trainer()
    share = {id(p): group.get("share", 1) for group in trainer.optimizer.param_groups for p in group["params"]}
    network = trainer.network
    assert {share[id(p)] for p in (*network.experts.parameters(), *network.added_updates.parameters())} == {1}
    assert share[id(network.offsets[0])] == 0.1


def test_their_updates_are_told_apart_from_experts(plans, make_trainer):
    plans["mastpro"]["prompts"] = {"added": ["kidney_tumor"]}
    network = make_trainer().network
    parts = {name: {id(p) for p in part} for name, part in network.parts().items()}
    assert parts["experts"] == {id(p) for p in network.experts.parameters()}
    assert parts["weight updates"] == {id(p) for p in network.added_updates.parameters()}


def test_other_prompts_are_refused(added_plans, make_trainer):
    """PEFT takes the data set's; here the old types' outputs would change."""
    trainer = make_trainer()
    trainer.network.embeddings[1] = 3
    trainer.network.trained.fill_(True)
    with pytest.raises(MASTProError, match="trained with other prompts for liver_tumor, and new types must not"):
        trainer.decide_what_is_trained()


def test_it_does_not_start_from_scratch(added_plans, make_trainer):
    trainer = make_trainer()
    with pytest.raises(MASTProError, match="add kidney_tumor to a trained model, .*checkpoint_start.pth"):
        trainer.on_train_start()


def test_a_step_moves_no_logit_of_an_old_type(added_plans, make_trainer):
    trainer = make_trainer()
    trainer.freeze()
    trainer.on_train_epoch_start()
    before = trainer.network.train()(IMAGE).logits
    target = [torch.ones(2, 1, *logits.shape[2:]) for logits in before]
    target += [target[-1]] * (len(trainer._get_deep_supervision_scales()) - len(target))
    assert np.isfinite(trainer.train_step({"data": IMAGE, "target": target, "keys": ["a", "b"]})["loss"])
    for now, then in zip(trainer.network(IMAGE).logits, before, strict=True):
        assert_close(now[:, :-1], then[:, :-1], rtol=0, atol=0)
        assert not now[:, -1].equal(then[:, -1])


class EmptyLog:
    """nnU-Net's own needs a finished epoch."""

    def get_checkpoint(self):
        return {}

    def load_checkpoint(self, checkpoint):
        assert checkpoint == {}


def test_a_checkpoint_is_continued_in_the_same_way(added_plans, make_trainer, tmp_path):
    first = make_trainer()
    first.freeze()
    before = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    loss = first.network.train()(IMAGE).logits[0].square().mean()
    loss.backward()
    first.optimizer.step()
    first.logger = EmptyLog()
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    moved = {name for name, tensor in first.network.state_dict().items() if not tensor.equal(before[name])}
    assert "offsets.0" in moved
    assert moved <= own_names(first.network)

    second = make_trainer()
    second.logger = EmptyLog()
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert trainable(second) == own_names(second.network)
    assert second.initial_lr == 2e-3
    for name, tensor in first.network.state_dict().items():
        assert tensor.equal(second.network.state_dict()[name]), name

"""The trainer's own steps, in this process; whole trainings are in tests/integration."""

import json
import os

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.testing import assert_close

from nnunetv2_mastpro.config import MASTProConfig, TrainingConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.output import TrainingOutput
from nnunetv2_mastpro.training.controls import nnUNetTrainerStock_1epoch
from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro, nnUNetTrainerMASTPro_10epochs

IMAGE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def equal_states(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert_close(tensor, second[name], rtol=0, atol=0)


def backbone_names(network):
    return {name for name, _ in network.named_parameters() if name.startswith("backbone.")}


def test_initialize_puts_the_prompts_in(make_trainer):
    trainer = make_trainer()
    assert_close(trainer.network.embeddings, trainer.embeddings.vectors, rtol=0, atol=0)
    assert not trainer.network.trained
    assert MASTProConfig.from_dict(trainer.plans_manager.plans["mastpro"]) == trainer.mastpro


def test_deep_supervision_is_switched(make_trainer):
    trainer = make_trainer()
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(True)
    stages = trainer.network(IMAGE)
    trainer.set_deep_supervision_enabled(False)
    assert_close(trainer.network(IMAGE), stages[0], rtol=0, atol=0)


def test_the_networks_output_fits_the_loss(make_trainer):
    trainer = make_trainer()
    output = trainer.network.train()(IMAGE)
    assert isinstance(output, TrainingOutput)
    weights = trainer.loss.segmentation.weight_factors
    assert len(output.logits) == sum(weight > 0 for weight in weights)
    target = [torch.zeros(2, 1, *logits.shape[2:]) for logits in output.logits]
    trainer.loss(output, target).backward()
    assert all(p.grad is not None for p in trainer.network.parameters())


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: half precision and torch.compile not tried")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_steps_of_training_and_validation(make_trainer, tmp_path, device):
    """On a GPU with nnU-Net's half precision, gradient scaler and torch.compile."""
    trainer = make_trainer(device=device)
    batch = batch_for(trainer)
    trainer.on_train_epoch_start()
    assert np.isfinite([trainer.train_step(batch)["loss"] for _ in range(3)]).all()
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch)["loss"])
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    again = make_trainer(device=device)
    again.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    ours, theirs = (each.bare_network.state_dict() for each in (trainer, again))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("labels", "supervised"),
    [
        ({"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3}, [1, 2]),
        ({"background": 0, "liver": 1, "spleen": 2}, [0, 1]),
    ],
)
def test_tumours_are_supervised_or_else_all(make_trainer, dataset_json, labels, supervised):
    dataset_json["labels"] = labels
    assert make_trainer().loss.supervised == supervised


def test_what_the_prompts_feed_learns_slowly(make_trainer):
    trainer = make_trainer()
    full, slow = trainer.optimizer.param_groups
    parts = trainer.network.parts()
    assert slow["share"] == trainer.mastpro.training.prompt_share < 1
    assert {id(p) for p in slow["params"]} == {id(p) for p in parts["fusion"] + parts["mask proposal"]}
    assert {id(p) for p in full["params"]} == {id(p) for p in parts["backbone"] + parts["experts"]}
    assert "share" not in full


def test_frozen_backbone_is_out_of_the_optimizer(make_trainer):
    trainer = make_trainer()
    trainer.freeze()
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    frozen = backbone_names(trainer.network)
    assert trained == {id(p) for name, p in trainer.network.named_parameters() if name not in frozen}
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {5e-5}
    assert trainer.lr_scheduler.initial_lr == 5e-5


@pytest.mark.parametrize("peft", [False, True])
def test_a_checkpoint_is_continued_as_it_was(make_trainer, tmp_path, peft):
    first = make_trainer()
    if peft:
        first.freeze()
    loss = first.network.train()(IMAGE).logits[0].square().mean()
    loss.backward()
    first.optimizer.step()
    first.logger = EmptyLog()
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))

    second = make_trainer()
    second.logger = EmptyLog()
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    equal_states(first.network.state_dict(), second.network.state_dict())
    frozen = {name for name, p in second.network.named_parameters() if not p.requires_grad}
    assert frozen == (backbone_names(second.network) if peft else set())
    assert second.initial_lr == (5e-5 if peft else TrainingConfig().learning_rate)
    equal_states(first.optimizer.state_dict()["state"][0], second.optimizer.state_dict()["state"][0])
    assert second.current_epoch == 1


class EmptyLog:
    """nnU-Net's own needs a finished epoch."""

    def get_checkpoint(self):
        return {}

    def load_checkpoint(self, checkpoint):
        assert checkpoint == {}


def test_a_run_whose_encoder_changed_is_refused(make_trainer, tmp_path):
    """Its checkpoint predicts with the embeddings that it holds, so a continued run must not have others."""
    first = make_trainer()
    first.network.embeddings.fill_(3)
    first.logger = EmptyLog()
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    with pytest.raises(MASTProError, match="checkpoint.pth was trained with other embeddings"):
        make_trainer().load_checkpoint(str(tmp_path / "checkpoint.pth"))


def test_pretrained_weights_of_classes_in_another_order(make_trainer):
    """Experts would be swapped without a word."""
    trainer = make_trainer()
    trainer.network.embeddings.copy_(trainer.embeddings.vectors[[0, 2, 1]])
    with pytest.raises(MASTProError, match="has the class kidney_tumor in the place of liver_tumor"):
        trainer.decide_what_is_trained()


def test_pretrained_weights_of_another_prompt(make_trainer, tmp_path):
    """Allowed, told, and the data set's own prompt is what is trained."""
    trainer = make_trainer()
    trainer.network.embeddings[1] = 3
    trainer.decide_what_is_trained()
    assert_close(trainer.network.embeddings, trainer.embeddings.vectors, rtol=0, atol=0)
    (log,) = tmp_path.glob("nnUNet_results/*/*/fold_0/training_log_*.txt")
    assert "trained with other prompts in the place of liver_tumor." in log.read_text()


def test_a_stock_checkpoint_is_refused(make_trainer, tmp_path):
    stock = make_trainer(nnUNetTrainerStock_1epoch)
    del stock.my_init_kwargs["plans"]["mastpro"]
    stock.logger = EmptyLog()
    stock.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    with pytest.raises(MASTProError, match="checkpoint.pth is not a MAST-Pro checkpoint"):
        make_trainer().load_checkpoint(str(tmp_path / "checkpoint.pth"))


def test_the_plans_shares_reach_the_network(plans, dataset_json):
    shares = {"anatomy_dropout": 0.15, "host_task_share": 0.35, "annotated_task_share": 0.45}
    plans["configurations"]["2d"]["previous_stage"] = "anatomy"
    plans["mastpro"]["training"] = shares
    config, _ = resolve(plans, dataset_json)
    manager = PlansManager({**plans, "mastpro": config.to_dict()})
    heads, organs = len(config.resolved.classes) + config.resolved.has_background, len(dataset_json["labels"]) - 1
    network = nnUNetTrainerMASTPro.build_network_architecture(
        manager, manager.get_configuration("2d"), 1 + organs, heads
    )
    found = (network.anatomy.dropout, network.host_task_share, network.annotated_task_share)
    assert found == tuple(shares.values())


def test_a_network_without_resolved_plans_is_refused(make_trainer):
    trainer = make_trainer()
    del trainer.plans_manager.plans["mastpro"]["resolved"]
    with pytest.raises(MASTProError, match=r"no mastpro.resolved block; restore the plans.json"):
        trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 4)


def test_a_dataset_json_of_other_outputs_is_refused(make_trainer):
    trainer = make_trainer()
    with pytest.raises(MASTProError, match=r"describes 4 outputs, dataset.json 5; restore the dataset.json"):
        trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 5)


def batch_for(trainer):
    with torch.no_grad():
        logits = trainer.network.train()(IMAGE.to(trainer.device)).logits
    target = [torch.zeros(2, 1, *stage.shape[2:]) for stage in logits]
    target += [target[-1]] * (len(trainer._get_deep_supervision_scales()) - len(target))
    target[0][0, 0, 3, 4] = 2
    return {"data": IMAGE, "target": target, "keys": ["a", "b"]}


def take_a_step(trainer):
    """On two patches, one of which holds a liver tumour."""
    trainer.on_train_epoch_start()
    trainer.train_step(batch_for(trainer))


def test_the_rate_rises_within_the_first_epoch(make_trainer):
    """Of _10epochs half of the first: a run of a few epochs is warmed up too, and _1epoch learns."""
    trainer = make_trainer(nnUNetTrainerMASTPro_10epochs)
    assert trainer.optimizer.defaults["weight_decay"] == 1e-2
    trainer.num_iterations_per_epoch, rates = 4, []
    take_a_step(trainer)
    trainer.on_train_epoch_start = lambda: None  # the same epoch goes on
    for _ in range(3):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        take_a_step(trainer)
    rates.append(trainer.optimizer.param_groups[0]["lr"])
    poly = [trainer.initial_lr * (1 - at / 10) ** 0.9 for at in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx([share * rate for share, rate in zip((1e-3, 0.5, 1, 1), poly, strict=True)])


def test_usage_is_written(make_trainer, tmp_path):
    trainer = make_trainer()
    take_a_step(trainer)
    trainer.write_usage()
    (file,) = tmp_path.glob("nnUNet_results/*/*/fold_0/expert_usage.json")
    content = json.loads(file.read_text())
    assert content["epoch"] == 0
    assert content["patches"] == {"all": 2, "liver_tumor": 1, "kidney_tumor": 0}
    assert content["kept"] == trainer.usage.report()["kept"]
    assert [*content["kept"]["encoder_1"]] == ["all", "liver_tumor"]
    (log,) = file.parent.glob("training_log_*.txt")
    assert "Experts never kept in this epoch:" in log.read_text()


def test_interrupted_writing_leaves_the_old_file(make_trainer, monkeypatch, tmp_path):
    """The process is stopped when the new file is complete, but before it takes the old one's place."""
    trainer = make_trainer()
    take_a_step(trainer)
    trainer.write_usage()
    (file,) = tmp_path.glob("nnUNet_results/*/*/fold_0/expert_usage.json")
    before = file.read_bytes()

    def stop(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    take_a_step(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.write_usage()
    assert file.read_bytes() == before
    assert [path for path in file.parent.iterdir() if "expert_usage" in path.name] == [file]


def test_a_refused_patch_makes_no_results_folder(make_trainer, plans, tmp_path):
    plans["configurations"]["2d"]["patch_size"] = [16, 18]
    with pytest.raises(MASTProError, match="make it a multiple of them"):
        make_trainer(nnUNetTrainerMASTPro, initialize=False)
    assert [*(tmp_path / "nnUNet_results").iterdir()] == []

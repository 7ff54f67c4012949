"""Trainers of ablations: a step, the plans that rebuild the network, the log, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.config import ABLATIONS
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training import ablations
from nnunetv2_mastpro.training.prediction import read_settings
from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

TRAINERS = {kind.__name__.removeprefix("nnUNetTrainerMASTPro"): kind for kind in ablations.ABLATED}
LABELS = {"NoText": "text", "NoAnatomy": "anatomy", "NoExperts": "experts", "ShuffledText": "text_shuffled"}
CASES = {"a": {"annotated": ["liver", "liver_tumor"]}, "b": {"annotated": ["kidney_tumor"]}}


def batch_for(trainer) -> dict:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 1, 16, 16), generator=generator).float()
    scales = trainer._get_deep_supervision_scales()
    stages = [target[..., :: 2**scale, :: 2**scale] for scale in range(len(scales))] if scales else target
    return {"data": torch.randn(2, 1, 16, 16, generator=generator), "target": stages, "keys": ["a", "b"]}


def log_of(trainer) -> str:
    lines = []
    trainer.print_to_log_file = lambda *text, **_: lines.append(" ".join(map(str, text)))
    trainer.decide_what_is_trained()
    return "\n".join(lines)


def test_every_combination_has_a_trainer():
    assert len(TRAINERS) == 8
    for name, kind in TRAINERS.items():
        parts = [part for part in LABELS if part in name]
        assert kind.ablate == tuple(LABELS[part] for part in parts), name
        assert "".join(parts) == name
        assert issubclass(getattr(ablations, f"{kind.__name__}_5epochs"), kind)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("name", TRAINERS)
def test_a_step(make_trainer, dataset_json, name, partial):
    if partial:
        dataset_json["mastpro"] = {"cases": CASES}
    trainer = make_trainer(TRAINERS[name])
    trainer.on_train_epoch_start()
    before = [p.detach().clone() for p in trainer.network.backbone.parameters()]
    assert np.isfinite(trainer.train_step(batch_for(trainer))["loss"])
    assert not [name for name, p in trainer.network.named_parameters() if p.grad is None]
    assert not all(p.equal(old) for p, old in zip(trainer.network.backbone.parameters(), before, strict=True))
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch_for(trainer))["loss"])


@pytest.mark.parametrize("name", TRAINERS)
def test_the_plans_beside_the_checkpoint_rebuild_the_network(make_trainer, name):
    trainer = make_trainer(TRAINERS[name])
    plans = json.loads(json.dumps(trainer.plans_manager.plans))
    assert plans["mastpro"]["network"]["ablate"] == list(TRAINERS[name].ablate)
    manager = PlansManager(plans)
    rebuilt = TRAINERS[name].build_network_architecture(manager, manager.get_configuration("2d"), 1, 4, False)
    rebuilt.load_state_dict(trainer.network.state_dict())
    image = torch.randn(2, 1, 16, 16)
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        assert rebuilt.eval()(image).equal(trainer.network.eval()(image))


def test_a_fixed_head_learns_at_the_full_rate(make_trainer):
    trainer = make_trainer(ablations.nnUNetTrainerMASTProNoTextNoAnatomyNoExperts)
    (group,) = trainer.optimizer.param_groups
    assert "share" not in group
    assert len(group["params"]) == len(list(trainer.network.parameters()))
    trainer = make_trainer(ablations.nnUNetTrainerMASTProNoText)
    _, slow = trainer.optimizer.param_groups
    assert any(p is trainer.network.text.vectors for p in slow["params"])


def test_trainer_and_plans_add_up(make_trainer, plans):
    plans["mastpro"]["network"]["ablate"] = ["experts"]
    assert make_trainer(ablations.nnUNetTrainerMASTProNoText, False).mastpro.network.ablate == ("text", "experts")
    assert not make_trainer(nnUNetTrainerMASTPro).network.experts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoText", "Ablated: text; a learned vector per class"),
        ("NoAnatomy", "Ablated: anatomy; organ masks are not read"),
        ("NoExperts", "Stages with experts: none, so no expert_usage.json is written"),
        ("NoTextNoAnatomy", "the planned network's own output layers are the head"),
        (
            "ShuffledText",
            "liver takes liver_tumor's, liver_tumor takes kidney_tumor's, kidney_tumor takes liver's.",
        ),
    ],
)
def test_the_log_tells_what_is_ablated(make_trainer, name, said):
    assert said in log_of(make_trainer(TRAINERS[name]))


def test_the_log_of_a_whole_network_tells_nothing_of_it(make_trainer):
    log = log_of(make_trainer())
    assert "Ablated" not in log
    assert "shuffled" not in log


@pytest.mark.parametrize("name", ["NoExperts", "NoAnatomy"])
def test_usage_is_written_where_there_are_experts(make_trainer, name):
    trainer = make_trainer(TRAINERS[name])
    trainer.on_train_epoch_start()
    trainer.train_step(batch_for(trainer))
    trainer.write_usage()
    assert Path(trainer.output_folder, "expert_usage.json").is_file() == (name == "NoAnatomy")


def test_a_folder_of_another_ablation_is_refused(make_trainer, plans, tmp_path):
    trainer = make_trainer(initialize=False)
    folder = Path(trainer.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_latest.pth").touch()
    (folder.parent / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    plans["mastpro"]["network"]["ablate"] = ["experts"]
    with pytest.raises(MASTProError, match="network.ablate was "):
        make_trainer(initialize=False)


def test_one_class_has_no_other_sentence(make_trainer, dataset_json):
    dataset_json["labels"] = {"background": 0, "liver_tumor": 1}
    with pytest.raises(MASTProError, match="the only class, liver_tumor, has no other sentence"):
        make_trainer(ablations.nnUNetTrainerMASTProShuffledText, initialize=False)


@pytest.mark.parametrize("ablate", ABLATIONS)
def test_types_are_not_added_to_an_ablated_network(plans, dataset_json, ablate):
    plans["mastpro"] |= {"prompts": {"added": ["kidney_tumor"]}}
    with pytest.raises(MASTProError, match="a type is added to a whole network only"):
        resolve(plans, dataset_json, (ablate,))


def test_a_fixed_head_cannot_be_narrowed(plans, dataset_json, monkeypatch):
    monkeypatch.setenv("MASTPRO_TASKS", "liver_tumor")
    with pytest.raises(MASTProError, match="its fixed head always looks for all; unset it"):
        read_settings(resolve(plans, dataset_json, ("text", "anatomy"))[0])
    assert read_settings(resolve(plans, dataset_json, ("text",))[0]).tasks == ("liver_tumor",)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("name", TRAINERS)
def test_a_checkpoint_is_continued(make_trainer, plans, tmp_path, name, peft, rank):
    """With --c, and in PEFT with the backbone frozen again; where its weights have updates too."""
    plans["mastpro"]["network"]["backbone_rank"] = rank
    first = make_trainer(TRAINERS[name])
    first.on_train_epoch_start()
    first.train_step(batch_for(first))
    if peft:
        first.bare_network.trained.fill_(True)
        first.decide_what_is_trained()
        first.on_train_epoch_start()
        first.train_step(batch_for(first))
    file = tmp_path / "checkpoint_latest.pth"
    first.save_checkpoint(str(file))
    assert file.with_name("checkpoint_adapters.safetensors").is_file() == peft
    second = make_trainer(TRAINERS[name])
    second.load_checkpoint(str(file))
    for key, value in first.network.state_dict().items():
        assert second.network.state_dict()[key].equal(value)
    assert second.bare_network.backbone_is_trained == (not peft)
    if rank:
        assert all(p.requires_grad == peft for p in second.bare_network.updates.parameters())
    second.on_train_epoch_start()
    second.train_step(batch_for(second))

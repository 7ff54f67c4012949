"""The two stages: what is trained, by trainer, by plans and by what was loaded."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.report import FINE_TUNING
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro, nnUNetTrainerMASTProPretrain


def start(trainer, loaded):
    """As nnU-Net does after -pretrained_weights, up to the first step."""
    trainer.network.trained.fill_(loaded)
    trainer.network.embeddings.add_(1)  # the source's prompts
    lines = []
    trainer.print_to_log_file = lambda *text, **_: lines.append(" ".join(map(str, text)))
    trainer.decide_what_is_trained()
    return lines


@pytest.mark.parametrize(
    ("trainer", "mode", "loaded", "frozen"),
    [
        (nnUNetTrainerMASTPro, "auto", True, True),
        (nnUNetTrainerMASTPro, "auto", False, False),
        (nnUNetTrainerMASTPro, "full", True, False),
        (nnUNetTrainerMASTPro, "peft", True, True),
        (nnUNetTrainerMASTProPretrain, "auto", True, False),
        (nnUNetTrainerMASTProPretrain, "peft", False, False),
    ],
)
def test_what_is_trained(make_trainer, plans, trainer, mode, loaded, frozen):
    plans["mastpro"]["training"] = {"mode": mode, "peft_learning_rate": 1e-4, "learning_rate": 2e-3}
    made = make_trainer(trainer)
    lines = start(made, loaded)
    assert made.network.backbone_is_trained == (not frozen)
    assert made.initial_lr == (1e-4 if frozen else 2e-3)
    optimized = [p for group in made.optimizer.param_groups for p in group["params"]]
    assert len(optimized) == sum(p.requires_grad for p in made.network.parameters())
    assert (made.network.embeddings == made.embeddings.vectors).all()  # an edited prompt survives the loading
    assert any("other prompts in the place of" in line for line in lines)
    said = "The backbone is frozen" if frozen else "Everything is trained"
    assert any(said in line for line in lines)
    rate = "0.0001" if frozen else "0.002, 0.1 of it (prompt_share) for what prompts feed"
    assert lines[-1] == f"AdamW, learning rate up to {rate}"


@pytest.mark.parametrize("continues", [True, False])
@pytest.mark.parametrize("said", [FINE_TUNING, "Everything is trained"])
def test_fine_tuning_that_left_no_checkpoint_is_not_begun_anew_without_weights(make_trainer, continues, said):
    """A job that was killed in its first epoch and queued again with --c, with which nnU-Net takes no weights."""
    made = make_trainer(continues=continues)
    for place, (name, text) in enumerate((("9_30", "Everything is trained"), ("10_1", said), ("10_2", "citation"))):
        log = Path(made.output_folder, f"training_log_2020_{name}_00_00_00.txt")
        log.write_text(f"{text}\n")
        os.utime(log, (place, place))  # the last is of a start that was refused
    if continues and said == FINE_TUNING:
        with pytest.raises(MASTProError, match="--c found no checkpoint in .*, so give -pretrained_weights again"):
            start(made, 0)
    else:
        assert any("Everything is trained" in line for line in start(made, 0))


@pytest.mark.parametrize("trainer", [nnUNetTrainerMASTPro, nnUNetTrainerMASTProPretrain])
def test_trained_updates_are_not_left_behind(make_trainer, plans, tmp_path, trainer):
    """nnU-Net's loading leaves them without a word; experts and head rest on them. Those that change nothing may go."""
    file, network = tmp_path / "source.pth", {**plans["mastpro"]["network"]}
    plans["mastpro"]["network"]["backbone_rank"] = 2
    source = make_trainer().network
    for changed in (False, True):
        if changed:
            source.updates.shift["backbone_encoder_stages_0_0_convs_0_conv_bias"].data.add_(1)
        source.mark_trained()
        torch.save({"network_weights": source.state_dict()}, file)
        for rank in (0, 2):
            plans["mastpro"]["network"] = {**network, "backbone_rank": rank}
            made = make_trainer(trainer)
            load_pretrained_weights(made.network, file)
            if changed and not rank:
                with pytest.raises(MASTProError, match="trained with updates of the backbone, and the plans have"):
                    made.decide_what_is_trained()
            else:
                made.decide_what_is_trained()


def test_nor_are_those_of_an_added_type(make_trainer, plans):
    plans["mastpro"]["prompts"] = {"added": ["kidney_tumor"]}
    source = make_trainer().network
    source.mark_trained()
    plans["mastpro"]["prompts"] = {}
    with pytest.raises(MASTProError, match="tumour types were added, .* give what mastpro weights makes of the file"):
        start(make_trainer(), int(source.trained))


@pytest.mark.parametrize("rank", [0, 2])
def test_peft_trains_updates_of_the_backbone(make_trainer, plans, rank):
    """With them the parts that read prompts have a share of the rate; else it is one, the paper's."""
    plans["mastpro"]["network"]["backbone_rank"] = rank
    made = make_trainer()
    lines = start(made, loaded=True)
    trained = {name.split(".")[0] for name, p in made.network.named_parameters() if p.requires_grad}
    assert trained == {"experts", "fusion", "head", "background", *(["updates"] if rank else [])}
    first, *others = made.optimizer.param_groups
    assert "share" not in first
    assert [group["share"] for group in others] == ([0.1] if rank else [])
    full = {id(p) for part in (made.network.experts, made.network.updates) if part for p in part.parameters()}
    assert {id(p) for p in first["params"]} == full if rank else {id(p) for p in first["params"]} > full
    assert any("Low-rank updates of the backbone's weights" in line for line in lines) == bool(rank)


def test_everything_is_trained_without_updates(make_trainer, plans):
    """What they would change is trained itself."""
    plans["mastpro"]["network"]["backbone_rank"] = 2
    made = make_trainer(nnUNetTrainerMASTProPretrain)
    start(made, loaded=True)
    assert not any(p.requires_grad for p in made.network.updates.parameters())
    optimized = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in made.network.parameters() if p.requires_grad}


def test_peft_without_weights_is_refused(make_trainer, plans):
    plans["mastpro"]["training"] = {"mode": "peft"}
    with pytest.raises(MASTProError, match="no weights with a trained backbone were given; give a MAST-Pro"):
        start(make_trainer(), loaded=False)


def test_the_stage_is_written_into_the_plans(make_trainer):
    made = make_trainer(nnUNetTrainerMASTProPretrain, initialize=False)
    assert made.plans_manager.plans["mastpro"]["training"]["mode"] == "full"


def test_share_of_patches_centred_on_tumours(make_trainer, plans):
    plans["mastpro"]["training"] = {"foreground_share": 0.5}
    assert make_trainer(initialize=False).oversample_foreground_percent == 0.5


def test_patches_near_the_organs(make_trainer, plans):
    plans["mastpro"]["training"] = {"crop_margin_mm": 20, "foreground_share": 0.5}
    plans["configurations"]["2d"].update(previous_stage="anatomy", spacing=[5.0, 8.0])
    made = make_trainer(initialize=False)
    assert made.oversample_foreground_percent == 1
    assert made.region.foreground_share == 0.5
    organs = np.zeros((3, 20, 20), np.uint8)  # slices of two dimensions are drawn where the organs are
    organs[1, 10, 10] = 1
    places = np.concatenate([made.region.choose("a", organs, {})[1] for _ in range(200)])
    assert [set(column) for column in places.T] == [{0}, {1}, {*range(6, 15)}, {*range(8, 13)}]


def test_patches_near_organs_that_are_not_given(make_trainer, plans):
    plans["mastpro"]["training"] = {"crop_margin_mm": 20}
    with pytest.raises(MASTProError, match="crop_margin_mm keeps .* plans without organ masks do not allow"):
        make_trainer(initialize=False)


@pytest.mark.parametrize(("kind", "mirrored"), [("paper", None), ("both", (0, 1))])
def test_augmentation_by_plans(make_trainer, plans, kind, mirrored):
    plans["mastpro"]["training"] = {"augmentation": kind}
    made = make_trainer(initialize=False)
    *_, axes = made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes == made.inference_allowed_mirroring_axes == mirrored
    transforms = made.get_training_transforms([16, 16], (-0.5, 0.5), None, axes, False, [False])
    assert any("Rot90" in type(getattr(entry, "transform", entry)).__name__ for entry in transforms.transforms)


def test_augmentation_that_the_patch_refuses(make_trainer, plans):
    plans["mastpro"]["training"] = {"augmentation": "paper"}
    plans["configurations"]["2d"]["patch_size"] = [16, 20]
    with pytest.raises(MASTProError, match="no two equal sides"):
        make_trainer(initialize=False)


def test_swin_has_no_deep_supervision(make_trainer, plans):
    from nnunetv2_mastpro.network.planned import SWIN_UNETR

    architecture = {"network_class_name": SWIN_UNETR, "arch_kwargs": {"feature_size": 12}, "_kw_requires_import": []}
    plans["configurations"]["2d"].update(architecture=architecture, patch_size=[64, 64, 64], spacing=[2.0, 2.0, 2.0])
    made = make_trainer()
    assert not made.enable_deep_supervision
    made.set_deep_supervision_enabled(True)  # as nnU-Net does at the end of validation
    assert not made.bare_network.deep_supervision
    assert isinstance(made.loss.segmentation, nn.Module)
    assert "DeepSupervision" not in type(made.loss.segmentation).__name__
    assert len(made.network.receipt) == 8

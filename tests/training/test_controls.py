"""Controls on SwinUNETR, which has no deep supervision, and what they share with the plugin's trainer."""

import numpy as np
import pytest
import torch

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.planned import SWIN_UNETR
from nnunetv2_mastpro.training.controls import (
    nnUNetTrainerStock,
    nnUNetTrainerStockAdamW,
    nnUNetTrainerStockPartial,
)
from nnunetv2_mastpro.training.universal import nnUNetTrainerUniversal

CASES = {"a": {"annotated": ["liver", "liver_tumor"]}, "b": {"annotated": ["kidney_tumor"]}}
SIZE = (64, 32, 32)


@pytest.fixture
def swin(plans):
    """The plans' configuration with SwinUNETR in it."""
    configuration = plans["configurations"]["2d"]
    architecture = {"network_class_name": SWIN_UNETR, "arch_kwargs": {"feature_size": 12}, "_kw_requires_import": []}
    configuration.update(architecture=architecture, patch_size=[64, 64, 64], spacing=[1.5] * 3)
    return plans


@pytest.mark.parametrize(
    "trainer", [pytest.param(nnUNetTrainerStock, marks=pytest.mark.slow), nnUNetTrainerStockPartial]
)
def test_plain_swinunetr_trains(make_trainer, dataset_json, swin, trainer):
    dataset_json["mastpro"] = {"cases": CASES}
    trainer = make_trainer(trainer)
    assert type(trainer.network).__name__ == "PlannedSwinUNETR"
    assert trainer.network.out.conv.conv.out_channels == 4  # a fixed head
    assert not isinstance(trainer._get_deep_supervision_scales(), list)
    trainer.on_train_epoch_start()
    batch = {"data": torch.randn(1, 1, *SIZE), "target": torch.randint(0, 4, (1, 1, *SIZE)), "keys": ["a"]}
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert trainer.network.out.conv.conv.weight.grad.abs().sum() > 0
    trainer.set_deep_supervision_enabled(False)


def test_the_universal_head_sits_on_swinunetr(make_trainer, swin):
    trainer = make_trainer(nnUNetTrainerUniversal)
    with torch.no_grad():
        assert trainer.network.eval()(torch.randn(1, 1, *SIZE)).shape == (1, 4, *SIZE)


def test_the_control_has_the_plans_augmentation(make_trainer, plans):
    plans["mastpro"]["training"] = {"augmentation": "paper", "foreground_share": 0.5}
    trainer = make_trainer(nnUNetTrainerStockPartial)
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert trainer.inference_allowed_mirroring_axes is None
    assert trainer.oversample_foreground_percent == 0.5


@pytest.mark.parametrize("trainer", [nnUNetTrainerStock, nnUNetTrainerStockAdamW, nnUNetTrainerStockPartial])
def test_plans_with_organ_masks_are_refused(make_trainer, plans, tmp_path, trainer):
    """nnU-Net would look for a previous stage's predictions, and a loader's process would die of it."""
    plans["configurations"]["2d"]["previous_stage"] = "anatomy"
    with pytest.raises(MASTProError, match=f"has organ masks, which {trainer.__name__} does not take; give plans with"):
        make_trainer(trainer, initialize=False)
    assert not [*(tmp_path / "nnUNet_results").iterdir()]


def test_the_control_has_no_organs_to_crop_to(make_trainer, plans):
    plans["mastpro"]["training"] = {"crop_margin_mm": 10}
    with pytest.raises(MASTProError, match="plans without organ masks do not allow"):
        make_trainer(nnUNetTrainerStockPartial, initialize=False)

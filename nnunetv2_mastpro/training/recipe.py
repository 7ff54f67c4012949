"""Optimizer, schedule, seed and epoch length: what every trainer of the plugin, and its controls, share.

Environment, for short runs (tests, demo, benchmarks):
MASTPRO_EPOCH_ITERATIONS  training steps per epoch (nnU-Net: 250); online validation has a tenth (nnU-Net: 50)
MASTPRO_SEED              seeds the weights and the main process, each rank otherwise; nnU-Net's loader processes draw
                          freely
"""

import os
import random

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.config import EPOCH_VARIANTS, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.planned import is_swin
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE
from nnunetv2_mastpro.training.ranks import send_no_buffers

EPOCH_ITERATIONS = "MASTPRO_EPOCH_ITERATIONS"
NUMBER_LIMIT = 2**32  # what numpy takes as a seed


class WarmupPolyLR(PolyLRScheduler):
    """nnU-Net's polynomial decay after a linear warm-up. Steps are epochs and may be fractions of one.

    A parameter group's "share" of the rate, 1 if absent, is kept throughout.
    """

    def __init__(self, optimizer, initial_lr: float, max_steps: int, warmup_steps: float):
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: float | None = None) -> None:
        reached = self.ctr if current_step is None or current_step == -1 else current_step
        super().step(current_step)
        warmed = max(reached / self.warmup_steps, 1e-3) if reached < self.warmup_steps else 1
        for group in self.optimizer.param_groups:
            group["lr"] *= warmed * group.get("share", 1)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def read_number(name: str, low: int) -> int | None:
    """The environment variable as a whole number from `low` on, None if unset. Raises MASTProError otherwise."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal() or not low <= int(text) < NUMBER_LIMIT:
        raise MASTProError(
            f"{name}={text!r} is not a whole number from {low} to {NUMBER_LIMIT - 1}; correct or unset it"
        )
    return int(text)


def channels_last(network: torch.nn.Module) -> None:
    """Lay out 3D filters, and so the maps, channels last: quicker backward on a CPU, same values up to rounding."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.to(memory_format=torch.channels_last_3d)


class ShortRuns(nnUNetTrainer):
    """nnU-Net's trainer whose length, seed and epochs can be chosen for short runs."""

    epochs: int | None = None  # set by the _1epoch ... variants; None keeps nnU-Net's 1000
    takes_organ_masks = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        if not self.takes_organ_masks:
            self.check_plans(plans, configuration)
        iterations, self.seed = read_number(EPOCH_ITERATIONS, 1), read_number("MASTPRO_SEED", 0)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = not is_swin(self.configuration_manager.configuration)  # which has none
        if self.epochs is not None:
            self.num_epochs = self.epochs
        if iterations is not None:
            self.num_iterations_per_epoch = iterations
            self.num_val_iterations_per_epoch = max(1, iterations // 10)

    def check_plans(self, plans: dict, configuration: str) -> None:
        """Raise MASTProError for plans with organ masks: nnU-Net would look for predictions of a previous stage."""
        if PlansManager(plans).get_configuration(configuration).previous_stage_name == ANATOMY_STAGE:
            raise MASTProError(
                f"{plans['plans_name']} has organ masks, which {type(self).__name__} does not take; give "
                "plans without (-p)"
            )

    def initialize(self) -> None:
        if self.seed is not None:
            seed = (self.seed + self.local_rank) % NUMBER_LIMIT  # weights are the first rank's in all
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        super().initialize()
        if self.is_ddp:
            send_no_buffers(self.network)
        if self.device.type == "cpu" and not self.is_ddp:
            channels_last(self.network)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        if self.enable_deep_supervision:  # nnU-Net's flag sits in a decoder that other networks do not have
            super().set_deep_supervision_enabled(enabled)


class AdamWRecipe(ShortRuns):
    """AdamW with warm-up, stepped within the epoch so that runs of a few epochs are warmed up too.

    The rate is that of the plans, mastpro.training.learning_rate, for the plugin and its control alike.
    """

    warmup_share: float = 0.05  # of all epochs

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = MASTProConfig.from_dict(plans.get("mastpro", {})).training.learning_rate
        self.weight_decay = 1e-2
        self.steps_in_epoch = 0

    def parameter_groups(self) -> list[dict]:
        """What is optimized, and by which share of the learning rate."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameter_groups(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, self.warmup_share * self.num_epochs)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.steps_in_epoch = 0

    def train_step(self, batch: dict) -> dict:
        self.lr_scheduler.step(self.current_epoch + self.steps_in_epoch / self.num_iterations_per_epoch)
        self.steps_in_epoch += 1
        return super().train_step(batch)


def epoch_variants(trainer: type, module: str) -> dict[str, type]:
    """The trainer as `_1epoch`, `_5epochs`, ... by name, as nnU-Net offers its own."""
    names = {n: f"{trainer.__name__}_{n}epoch{'s' if n > 1 else ''}" for n in EPOCH_VARIANTS}
    return {
        name: type(name, (trainer,), {"epochs": n, "__module__": module, "__doc__": f"{n} epochs."})
        for n, name in names.items()
    }

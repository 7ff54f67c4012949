"""The plugin's trainer and its short variants; nnUNet_extTrainer points at this folder."""

from nnunetv2_mastpro.training.trainer import *  # noqa: F403

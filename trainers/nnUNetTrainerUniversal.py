"""A baseline of another design, trained by the same code; nnUNet_extTrainer points at this folder."""

from nnunetv2_mastpro.training.universal import *  # noqa: F403

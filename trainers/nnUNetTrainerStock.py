"""Controls for comparisons at equal steps; nnUNet_extTrainer points at this folder."""

from nnunetv2_mastpro.training.controls import *  # noqa: F403

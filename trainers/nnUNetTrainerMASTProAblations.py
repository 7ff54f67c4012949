"""MAST-Pro with parts replaced, for ablations; nnUNet_extTrainer points at this folder."""

from nnunetv2_mastpro.training.ablations import *  # noqa: F403

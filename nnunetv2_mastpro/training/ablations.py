"""MAST-Pro with parts replaced, Table 2 of the paper: AP is anatomy, TP is text, D-MoE is experts.

The choice stands in mastpro.network.ablate of the plans beside the checkpoint, so that prediction builds the same.
"""

from nnunetv2_mastpro.training.recipe import epoch_variants
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro


class nnUNetTrainerMASTProNoText(nnUNetTrainerMASTPro):
    """A learned vector per class in place of its sentence."""

    ablate = ("text",)


class nnUNetTrainerMASTProNoAnatomy(nnUNetTrainerMASTPro):
    """Organ masks, where the plans have them, are not read."""

    ablate = ("anatomy",)


class nnUNetTrainerMASTProNoExperts(nnUNetTrainerMASTPro):
    """No D-MoE."""

    ablate = ("experts",)


class nnUNetTrainerMASTProNoTextNoAnatomy(nnUNetTrainerMASTPro):
    """No prompts: no fusion, and the planned network's own output layers as head."""

    ablate = ("text", "anatomy")


class nnUNetTrainerMASTProNoTextNoExperts(nnUNetTrainerMASTPro):
    """Organ masks alone."""

    ablate = ("text", "experts")


class nnUNetTrainerMASTProNoAnatomyNoExperts(nnUNetTrainerMASTPro):
    """Text alone."""

    ablate = ("anatomy", "experts")


class nnUNetTrainerMASTProNoTextNoAnatomyNoExperts(nnUNetTrainerMASTPro):
    """The planned network, trained by the same code."""

    ablate = ("text", "anatomy", "experts")


class nnUNetTrainerMASTProShuffledText(nnUNetTrainerMASTPro):
    """Every class has the sentence of another."""

    ablate = ("text_shuffled",)


ABLATED = [kind for kind in globals().values() if isinstance(kind, type) and kind.__module__ == __name__]
for ablated in ABLATED:
    globals().update(epoch_variants(ablated, __name__))

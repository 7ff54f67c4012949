"""What the plugin is compared with: the network that nnU-Net planned, its own loss, equal steps."""

from nnunetv2_mastpro.training.patches import Patches
from nnunetv2_mastpro.training.recipe import AdamWRecipe, ShortRuns, epoch_variants


class nnUNetTrainerStock(ShortRuns):
    """Stock nnU-Net (its network, loss and SGD schedule) for runs of a chosen length."""


class nnUNetTrainerStockAdamW(AdamWRecipe):
    """Stock nnU-Net's network and loss with the plugin's optimizer: the control for everything else."""


class nnUNetTrainerStockPartial(Patches, AdamWRecipe):
    """The planned network, fixed head, with the plugin's optimizer, partial-label loss, draws and augmentation."""


globals().update(epoch_variants(nnUNetTrainerStock, __name__))
globals().update(epoch_variants(nnUNetTrainerStockAdamW, __name__))
globals().update(epoch_variants(nnUNetTrainerStockPartial, __name__))

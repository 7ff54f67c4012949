"""MAST-Pro with nnU-Net's optimizer, for comparison alone; the benchmarks add this folder to nnUNet_extTrainer."""

import torch

from nnunetv2_mastpro.training.recipe import WarmupPolyLR, epoch_variants
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro


class nnUNetTrainerMASTProSGD(nnUNetTrainerMASTPro):
    """nnU-Net's SGD at its rate for all parts alike, with this plugin's warm-up before nnU-Net's decay."""

    def configure_optimizers(self):
        self.initial_lr, self.weight_decay = 1e-2, 3e-5
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True
        )
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, self.warmup_share * self.num_epochs)


globals().update(epoch_variants(nnUNetTrainerMASTProSGD, __name__))

"""Patches as the paper draws and augments them (Sec. 3.1), where the plans ask for it."""

import torch

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE
from nnunetv2_mastpro.training.augmentation import augmented, equal_axes, keeping_organs
from nnunetv2_mastpro.training.partial import PartialLabels
from nnunetv2_mastpro.training.sampling import HostRegion


class Patches(PartialLabels):
    """Keeps patches near the host organs by mastpro.training.crop_margin_mm, and augments them by its augmentation.

    nnU-Net finds no preprocessors but its own, so cases are preprocessed whole, and what the paper's cropping leaves
    out is not drawn; mastpro.prediction.skip_empty leaves it out in prediction.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.draws.crop_margin_mm is not None:
            self.check_crop()
            self.oversample_foreground_percent = 1.0  # every patch is centred on one of the places that it is given
        if self.draws.augmentation != "nnunet":
            equal_axes(self.configuration_manager.patch_size, self.configuration_manager.spacing)

    @property
    def takes_anatomy(self) -> bool:
        """Whether the plans give the network host-organ maps."""
        return self.configuration_manager.previous_stage_name == ANATOMY_STAGE

    def check_crop(self) -> None:
        """Raise MASTProError where patches cannot be kept to the host organs."""
        if not self.takes_anatomy or self.label_manager.has_ignore_label:
            reason = "data sets with an ignore label" if self.takes_anatomy else "plans without organ masks"
            raise MASTProError(
                f"mastpro.training.crop_margin_mm keeps patches near the host organs, which {reason} do not allow; "
                "set it to null, or plan with mastpro plan --anatomy"
            )

    @property
    def region(self) -> HostRegion | None:
        if self.draws.crop_margin_mm is None:
            return None
        margin = [round(self.draws.crop_margin_mm / size) for size in self.configuration_manager.spacing]
        slices = [0] * (3 - len(margin))  # in two dimensions a patch is of a slice, whose spacing the plans leave out
        return HostRegion([*slices, *margin], self.draws.foreground_share)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.draws.augmentation == "paper":  # which does not mirror, so prediction must not either
            self.inference_allowed_mirroring_axes = mirror_axes = None
        return rotation, dummy_2d, patch_size, mirror_axes

    def get_training_transforms(self, patch_size, *args, **kwargs):
        """nnU-Net's, and the paper's where the plans ask for them. nnU-Net calls its static method on the trainer."""
        stock, kind = super().get_training_transforms(patch_size, *args, **kwargs), self.draws.augmentation
        stock = keeping_organs(stock) if self.takes_anatomy else stock
        return stock if kind == "nnunet" else augmented(stock, patch_size, self.configuration_manager.spacing, kind)

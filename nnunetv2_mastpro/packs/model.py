"""A trained model as nnU-Net leaves it in a folder: plans.json, dataset.json, fold_X/checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunetv2_mastpro.checkpoints import read_safely
from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import check_whole
from nnunetv2_mastpro.prompts.edit import read_dataset_json


@dataclass(frozen=True)
class Model:
    """`checkpoint` is what nnU-Net's trainer saved, `config` the mastpro block of the plans, resolved."""

    folder: Path
    file: Path
    plans: dict
    dataset_json: dict
    checkpoint: dict
    config: MASTProConfig

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's state."""
        return self.checkpoint["network_weights"]

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """In the order of the network's foreground outputs."""
        return self.config.resolved.classes


def read_model(folder: Path, fold: str, checkpoint_name: str) -> Model:
    """The model in a results folder. Raises MASTProError where that is none of MAST-Pro's."""
    file = folder / f"fold_{fold}" / checkpoint_name
    for path in (folder / "plans.json", folder / "dataset.json", file):
        if not path.is_file():
            raise MASTProError(
                f"{path} is not there; give -m the folder TRAINER__PLANS__CONFIGURATION in nnUNet_results that holds "
                "plans.json, and -f and --checkpoint as they are in it"
            )
    plans = read_dataset_json(folder / "plans.json")
    checkpoint = read_checkpoint(file)
    config = MASTProConfig.from_dict(plans.get("mastpro", {}))
    check_whole(config, folder)
    if "embeddings" not in checkpoint["network_weights"]:
        raise MASTProError(f"{file} holds no MAST-Pro network; give a checkpoint of -tr nnUNetTrainerMASTPro")
    held, named = len(checkpoint["network_weights"]["embeddings"]), len(config.resolved.classes)
    if held != named:
        raise MASTProError(
            f"{file} holds {held} classes, the plans.json beside it names {named}; restore the plans.json that the "
            "training wrote"
        )
    return Model(folder, file, plans, read_dataset_json(folder / "dataset.json"), checkpoint, config)


def build_state(plans: dict, configuration: str, dataset_json: dict) -> dict[str, Tensor]:
    """State of the network that plans with a resolved mastpro block describe, before any training."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_mastpro.training.build import build_planned

    manager = PlansManager(plans)
    planned = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, planned, dataset_json)
    outputs = manager.get_label_manager(dataset_json).num_segmentation_heads
    return build_planned(manager, planned, channels, outputs).state_dict()


def read_checkpoint(file: Path) -> dict:
    """A checkpoint of nnU-Net's trainer, without running code that it may hold. Raises MASTProError."""
    remedy = "give a checkpoint that nnUNetv2_train wrote, such as checkpoint_final.pth"
    checkpoint = read_safely(file, remedy)
    keys = ("network_weights", "init_args", "trainer_name")
    missing = [key for key in keys if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise MASTProError(f"{file} is no checkpoint of nnU-Net's trainer (no {missing[0]}); {remedy}")
    return checkpoint

"""A trained model as nnU-Net leaves it in a folder: plans.json, dataset.json, fold_X/checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunetv2_mastpro.checkpoints import read_safely
from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.datasets import read_trained
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import check_unablated
from nnunetv2_mastpro.weights.convert import build_network


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
    plans, dataset_json = read_trained(folder)
    if not file.is_file():
        raise MASTProError(f"{file} is not there; give -f and --checkpoint as they are in {folder}")
    checkpoint = read_checkpoint(file)
    config = MASTProConfig.from_dict(plans.get("mastpro", {}))
    check_unablated(config, folder)
    if "embeddings" not in checkpoint["network_weights"]:
        raise MASTProError(f"{file} holds no MAST-Pro network; give a checkpoint of -tr nnUNetTrainerMASTPro")
    held, named = len(checkpoint["network_weights"]["embeddings"]), len(config.resolved.classes)
    if held != named:
        raise MASTProError(
            f"{file} holds {held} classes, the plans.json beside it names {named}; restore the plans.json that the "
            "training wrote"
        )
    model = Model(folder, file, plans, dataset_json, checkpoint, config)
    check_state(model)
    return model


def check_state(model: Model) -> None:
    """Raise MASTProError unless the weights are those of the network that the plans describe."""
    configuration = model.checkpoint["init_args"]["configuration"]
    wanted = build_network(model.plans, configuration, model.dataset_json).state_dict()
    shapes = [{name: list(tensor.shape) for name, tensor in state.items()} for state in (model.weights, wanted)]
    for name in sorted({*shapes[0], *shapes[1]}):
        held, named = (each.get(name, "not at all") for each in shapes)
        if held != named:
            raise MASTProError(
                f"{model.file} holds {name} {held}, the network of the plans.json beside it {named}; restore the "
                "plans.json that the training wrote"
            )


def read_checkpoint(file: Path) -> dict:
    """A checkpoint of nnU-Net's trainer, without running code that it may hold. Raises MASTProError."""
    remedy = "give a checkpoint that nnUNetv2_train wrote, such as checkpoint_final.pth"
    checkpoint = read_safely(file, remedy)
    keys = ("network_weights", "init_args", "trainer_name")
    missing = [key for key in keys if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise MASTProError(f"{file} is no checkpoint of nnU-Net's trainer (no {missing[0]}); {remedy}")
    return checkpoint

"""The network that plans with a resolved "mastpro" block describe, built with nnU-Net's own functions."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.build import build_mastpro
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.network.planned import is_swin
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE


def build_planned(
    plans_manager,
    configuration_manager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> MASTProNet:
    """Adapts the planned network; its embeddings come from trainer or checkpoint.

    nnU-Net counts the channels of host-organ maps among the input's. Raises MASTProError where plans and dataset.json
    do not belong together.
    """
    config = MASTProConfig.from_dict(plans_manager.plans.get("mastpro", {}))
    if config.resolved is None:
        raise MASTProError(
            "the plans beside the checkpoint have no mastpro.resolved block; "
            "restore the plans.json that the training wrote"
        )
    outputs = len(config.resolved.classes) + config.resolved.has_background
    if outputs != num_output_channels:
        raise MASTProError(
            f"the plans' mastpro block describes {outputs} outputs, dataset.json "
            f"{num_output_channels}; restore the dataset.json of the training"
        )
    organs = 0
    if configuration_manager.previous_stage_name == ANATOMY_STAGE:
        organs = num_input_channels - len(configuration_manager.normalization_schemes)
    supervised = enable_deep_supervision and not is_swin(configuration_manager.configuration)
    planned = nnUNetTrainer.build_network_architecture(
        plans_manager, configuration_manager, num_input_channels - organs, num_output_channels, supervised
    )
    return build_mastpro(
        planned,
        config.network,
        config.resolved,
        supervised,
        organs,
        config.training.anatomy_dropout,
        config.training.host_task_share,
        config.training.annotated_task_share,
    )

"""A small data set and plans for it, as nnU-Net would write them: enough to make a trainer, not to train."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
PLANS = {
    "dataset_name": "Dataset004_Liver",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [16, 16],
            "spacing": [1.0, 1.0],
            "median_image_size_in_voxels": [16.0, 16.0],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "batch_dice": True,
            "architecture": ARCHITECTURE,
        }
    },
}
SMALL = {"generic_experts": 4, "specific_experts": 2, "rank": 2, "attention_dim": 8, "kernel_hidden": 8}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def plans() -> dict:
    """Plans of a two-dimensional network of some thousand parameters, one organ and two tumour types."""
    return {**copy.deepcopy(PLANS), "mastpro": {"network": dict(SMALL)}}


@pytest.fixture
def dataset_json() -> dict:
    """Its labels are in the knowledge base, so that no encoder is loaded."""
    return copy.deepcopy(DATASET)


@pytest.fixture
def make_network(plans, dataset_json) -> Callable:
    """`make_network()` gives the network, its completed configuration and the origins of the embeddings."""

    def make():
        config, embeddings = resolve(plans, dataset_json)
        manager = PlansManager({**plans, "mastpro": config.to_dict()})
        heads = len(config.resolved.classes) + config.resolved.has_background
        torch.manual_seed(0)
        network = nnUNetTrainerMASTPro.build_network_architecture(manager, manager.get_configuration("2d"), 1, heads)
        return network, config, embeddings.origins

    return make


@pytest.fixture
def make_trainer(plans, dataset_json, tmp_path, monkeypatch) -> Callable:
    """`make_trainer(cls, initialize=True)`: a trainer on the CPU in nnU-Net folders of this test's own."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("MASTPRO_EPOCH_ITERATIONS", "MASTPRO_SEED"):
        monkeypatch.delenv(name, raising=False)
    data = tmp_path / "nnUNet_preprocessed" / PLANS["dataset_name"] / "nnUNetPlans_2d"
    data.mkdir(parents=True)
    (data / "liver_000.b2nd").touch()  # nnU-Net tells by the ending how cases are stored

    def make(trainer=nnUNetTrainerMASTPro, initialize=True):
        fresh = json.loads(json.dumps({**plans, "continue_training": False}))
        made = trainer(fresh, "2d", 0, copy.deepcopy(dataset_json), torch.device("cpu"))
        if initialize:
            made.initialize()
        return made

    return make

"""How large a pack is beside the network that it fits on, at the sizes that nnU-Net plans."""

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_mastpro.config import ClassSpec, NetworkConfig, Resolved
from nnunetv2_mastpro.network.build import build_mastpro
from nnunetv2_mastpro.weights.owned import take_type

FEATURES = [32, 64, 128, 256, 320, 320]  # of nnU-Net's 3d_fullres
BLOCKS = {"PlainConvUNet": {"n_conv_per_stage": 2}, "ResidualEncoderUNet": {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6]}}
MOST = 0.03  # of the weights alone; a checkpoint holds the optimizer's state besides


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("router", ["split", "joint"])
def test_a_pack_is_small(name, router):
    kwargs = {
        "n_stages": 6,
        "features_per_stage": FEATURES,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
        **BLOCKS[name],
        "n_conv_per_stage_decoder": 2 if name == "PlainConvUNet" else 1,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    classes = (ClassSpec("liver", "", False), ClassSpec("a", "", True), ClassSpec("b", "", True, added=True))
    with torch.device("meta"):
        unet = f"dynamic_network_architectures.architectures.unet.{name}"
        planned = get_network_from_plans(unet, kwargs, ["conv_op", "norm_op", "nonlin"], 1, 4, True, True)
        network = build_mastpro(planned, NetworkConfig(router=router), Resolved(classes, 384, True), True)
    whole = sum(parameter.numel() for parameter in network.parameters())
    own = sum(tensor.numel() for tensor in take_type(network.state_dict(), classes, 2).values())
    assert own < MOST * whole

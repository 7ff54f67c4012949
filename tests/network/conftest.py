"""Small networks as nnU-Net plans and builds them, and MAST-Pro around them."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_mastpro.config import ClassSpec, NetworkConfig, Resolved
from nnunetv2_mastpro.network.build import build_mastpro
from nnunetv2_mastpro.network.experts import DMoE
from nnunetv2_mastpro.network.mastpro import MASTProNet

UNETS = "dynamic_network_architectures.architectures.unet"
FEATURES = (4, 6, 8, 10)
STRIDES = {2: [[1, 1], [2, 2], [2, 2], [2, 1]], 3: [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]}
SMALL = {"generic_experts": 4, "specific_experts": 2, "rank": 2, "attention_dim": 8, "kernel_hidden": 8}
EMBEDDING_DIM = 5
CLASSES = {"liver": False, "liver_tumor": True, "kidney": False, "kidney_tumor": True}  # label -> is it a tumour
VARIANTS = [
    ("PlainConvUNet", 2, {"routing": "sample", "router": "split"}),
    ("PlainConvUNet", 3, {"routing": "token", "router": "split"}),
    ("ResidualEncoderUNet", 2, {"routing": "token", "router": "joint"}),
    ("ResidualEncoderUNet", 3, {"routing": "sample", "router": "joint"}),
    ("PlainConvUNet", 3, {"routing": "sample", "router": "split", "backbone_rank": 2}),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """What is this small gains nothing from threads, and waits for them where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=VARIANTS, ids=lambda variant: f"{variant[0]} {variant[1]}D {variant[2]}")
def variant(request) -> tuple[str, int, dict]:
    """A planned network, its axes, and values of the plans: each kind of network, of routing and of experts."""
    return request.param


@pytest.fixture
def make_planned() -> Callable:
    """`make_planned("PlainConvUNet", axes=2, stages=4)`: the network that nnU-Net makes of its plans."""

    def make(name="PlainConvUNet", axes=2, *, stages=4, norm="InstanceNorm", deep_supervision=True, seed=0):
        per_stage = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
        kwargs = {
            "n_stages": stages,
            "features_per_stage": FEATURES[:stages],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * stages,
            "strides": STRIDES[axes][:stages],
            per_stage: [1, 2, 1, 1][:stages],
            "n_conv_per_stage_decoder": [1, 2, 1][: stages - 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.{norm}{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        torch.manual_seed(seed)
        imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
        return get_network_from_plans(f"{UNETS}.{name}", kwargs, imported, 1, 5, True, deep_supervision)

    return make


@pytest.fixture
def make_network(make_planned) -> Callable:
    """`make_network(planned, classes={...}, rank=2)`: MAST-Pro in a copy of `planned`, with random embeddings."""

    def make(
        planned=None,
        *,
        classes=CLASSES,
        has_background=True,
        deep_supervision=True,
        hosts=(),
        organ_channels=0,
        anatomy_dropout=0.0,
        host_task_share=0.5,
        added=(),
        **network,
    ) -> MASTProNet:
        planned = make_planned() if planned is None else copy.deepcopy(planned)
        specs = tuple(
            ClassSpec(label, f"This is a {label}.", is_tumor, added=label in added)
            for label, is_tumor in classes.items()
        )
        resolved = Resolved(specs, EMBEDDING_DIM, has_background, hosts)
        torch.manual_seed(0)
        made = build_mastpro(
            planned,
            NetworkConfig(**{**SMALL, **network}),
            resolved,
            deep_supervision,
            organ_channels,
            anatomy_dropout,
            host_task_share,
        )
        made.embeddings.normal_()
        return made

    return make


@pytest.fixture
def randomize() -> Callable:
    """`randomize(module)`: its parameters as training might leave them, with none at zero as at the start."""

    def fill(module, std=0.5, seed=1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(std * torch.randn(parameter.shape, generator=generator))
        return module

    return fill


@pytest.fixture
def make_moe(randomize) -> Callable:
    """`make_moe(routing="token")`: experts of three types on four channels; `start` leaves the ways up at zero."""

    def make(*, start=False, **values) -> DMoE:
        torch.manual_seed(0)
        sizes = {"dim": 4, "rank": 3, "num_generic": 4, "num_specific": 2, "num_tasks": 3}
        moe = DMoE(**{**sizes, "top_k_generic": 2, "top_k_specific": 1, **values})
        return moe if start else randomize(moe)

    return make


@pytest.fixture
def make_image() -> Callable:
    """`make_image(axes=2, samples=2)`: patches that the planned networks take."""

    def make(axes=2, samples=2, seed=3):
        size = {2: (16, 24), 3: (4, 16, 16)}[axes]
        return torch.randn(samples, 1, *size, generator=torch.Generator().manual_seed(seed))

    return make

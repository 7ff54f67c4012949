"""A small SwinUNETR and an image for it."""

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_mastpro.network.planned import SWIN_UNETR
from nnunetv2_mastpro.network.swin import PlannedSwinUNETR

SIZE = (64, 32, 32)  # two voxels at the bottleneck: the least that instance normalisation takes


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """Swin blocks are large enough to gain from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def planned() -> PlannedSwinUNETR:
    torch.manual_seed(0)
    return get_network_from_plans(SWIN_UNETR, {"feature_size": 12}, [], 1, 5, True, False).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(3))

"""The frozen Swin transformer of organ masks, Eq. 2: what it computes, that it stays, compile, refusal."""

import copy

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import HostValue

from .conftest import SIZE

HOSTED = {"liver_tumor": True, "kidney_tumor": True}
HOSTS = (
    HostValue(value=1, channel=0, structures=("liver",), classes=(0,)),
    HostValue(value=2, channel=1, structures=("kidney_left",), classes=(1,)),
)


@pytest.fixture
def organs() -> torch.Tensor:
    """A box of each organ, (1, 2, spatial)."""
    found = torch.zeros(1, 2, *SIZE)
    found[0, 0, 5:40, 3:20, 8:25], found[0, 1, 30:61, 12:30, 2:9] = 1, 1
    return found


@pytest.fixture
def with_frozen_encoder(planned, make_network, randomize):
    options = {"classes": HOSTED, "hosts": HOSTS, "organ_channels": 2, "anatomy_encoder": "swin"}
    return randomize(make_network(planned, deep_supervision=False, **options), 0.1)


def test_the_frozen_encoder_is_a_swin_transformer_of_the_mask(with_frozen_encoder, organs):
    """Eq. 2: per class MONAI's transformer on its host's mask at half resolution, pooled, to the attention's width."""
    anatomy = with_frozen_encoder.anatomy.eval()
    found = anatomy(organs, torch.Size((2, 1, 1))).tokens[0]
    for place in range(2):
        mask = torch.nn.functional.avg_pool3d(organs[:, [place]], 2)
        last = anatomy.encode.swin(mask, True)[-1]
        assert last.shape[1] == 16 * 12
        assert_close(found[place], anatomy.project(last.mean((2, 3, 4)))[0])
    assert not found[0].allclose(found[1])


def test_the_frozen_encoder_stays_as_it_is(with_frozen_encoder, image, organs):
    network = with_frozen_encoder.train()
    before = copy.deepcopy(network.anatomy.state_dict())
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    output = network(torch.cat([image, organs], 1))
    output.logits[0].square().mean().backward()
    assert network.anatomy.project.weight.grad.any()
    assert not any(module.training for module in network.anatomy.encode.modules())
    optimizer.step()
    after = network.anatomy.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("encode."))
    assert not torch.equal(after["project.weight"], before["project.weight"])
    assert all(not p.requires_grad for p in network.anatomy.encode.parameters())


def test_it_compiles_with_the_frozen_encoder(with_frozen_encoder, image, organs):
    network = with_frozen_encoder.eval()
    given = torch.cat([image, organs], 1)
    with torch.no_grad():
        assert_close(torch.compile(network, fullgraph=True, backend="eager")(given), network(given))


def test_a_unet_has_no_sizes_for_a_frozen_swin_encoder(make_planned, make_network):
    with pytest.raises(ValueError, match="anatomy_encoder 'swin' has the sizes of a SwinUNETR backbone"):
        make_network(make_planned("PlainConvUNet", 3), **{"classes": HOSTED, "hosts": HOSTS, "organ_channels": 2},
                     anatomy_encoder="swin")  # fmt: skip

"""Experts of types that were added to a trained network, beside their place in the routers."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from nnunetv2_mastpro.network.added import KERNEL, AddedExperts

GROWN = {"liver": False, "liver_tumor": True, "kidney_tumor": True, "lung_tumor": True}
ADDED = ("kidney_tumor", "lung_tumor")


@pytest.fixture
def make_experts(randomize):
    """`make_experts(axes)`: of three types on four channels, none at zero."""
    return lambda axes, dim=4: randomize(AddedExperts(dim=dim, rank=2, count=3, axes=axes))


def features(axes):
    return torch.randn(2, 4, *(5, 4, 3)[:axes], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("types", [(0, 1, 2), (2, 0)])
def test_the_sum_is_the_loop(make_experts, axes, types):
    experts, x = make_experts(axes), features(axes)
    convolve = {2: F.conv2d, 3: F.conv3d}[axes]
    selected = torch.tensor([[1.0, 0, 1], [1, 1, 0]])[:, : len(types)]
    expected = x.clone()
    for sample in range(2):
        for place, t in enumerate(types):
            maps = torch.einsum("rc,c...->r...", experts.down[t], x[sample])
            kernel = experts.filters[t].unsqueeze(1)
            maps = F.gelu(convolve(maps.unsqueeze(0), kernel, padding=KERNEL // 2, groups=2)[0])
            expected[sample] += selected[sample, place] * torch.einsum("cr,r...->c...", experts.up[t], maps)
    assert_close(experts(x, selected, types), expected)


def test_what_is_not_selected_changes_no_bit(make_experts):
    experts, x = make_experts(3), features(3)
    assert_close(experts(x, torch.tensor([[0.0], [1.0]]), [1])[0], x[0], rtol=0, atol=0)
    assert experts(x, torch.zeros(2, 0), []) is x


def test_other_types_are_not_read(make_experts):
    experts, x = make_experts(2), features(2)
    expected = experts(x, torch.ones(2, 1), [1])
    with torch.no_grad():
        for parameter in (*experts.own_parameters(0), *experts.own_parameters(2)):
            parameter.fill_(torch.nan)
    assert_close(experts(x, torch.ones(2, 1), [1]), expected, rtol=0, atol=0)


def test_they_start_as_the_identity():
    x = features(3)
    assert_close(AddedExperts(dim=4, rank=2, count=1, axes=3)(x, torch.ones(2, 1), [0]), x, rtol=0, atol=0)


def test_only_added_types_have_them(make_network):
    assert not make_network(classes=GROWN).added_experts


def test_they_sit_at_every_stage_and_reach_the_logits(make_network, randomize, make_image):
    """Full resolution too, where no other experts are; each only by its own column of the task mask."""
    network = make_network(classes=GROWN, added=ADDED, deep_supervision=False).eval()
    stages = [f"encoder_{index}" for index in range(4)] + [f"decoder_{index}" for index in range(3)]
    assert [*network.added_experts] == stages
    assert {"encoder_0", "decoder_2"} & {*network.experts} == set()
    image, kidney, lung = make_image(), torch.tensor([[1.0, 1, 0]] * 2), torch.tensor([[1.0, 0, 1]] * 2)
    with torch.no_grad():
        for stage in stages:
            before = network(image, kidney), network(image, lung)
            network.added_experts[stage].up[1].fill_(0.5)
            assert_close(network(image, kidney), before[0], rtol=0, atol=0)
            assert not network(image, lung).equal(before[1])


@pytest.mark.parametrize("training", [True, False])
def test_with_every_type_selected_all_others_keep_their_logits(make_network, randomize, make_image, training):
    """Each added type's logit is as it is without the other one, and the rest as without both."""
    network = randomize(make_network(classes=GROWN, added=ADDED)).eval()
    image, said = make_image(), {}
    with torch.no_grad():
        for left_out in ([2, 3], [2], [3]):
            network.left_out = left_out
            said[tuple(left_out)] = network(image)
        network.left_out = []
        found = network.train(training)(image)
    for stage, logits in enumerate(found.logits if training else found):
        assert_close(logits[:, :3], said[2, 3][stage][:, :3], rtol=0, atol=0)
        assert_close(logits[:, 3], said[(3,)][stage][:, 3], rtol=0, atol=0)
        assert_close(logits[:, 4], said[(2,)][stage][:, 4], rtol=0, atol=0)
    if training:
        assert found.presence.shape == (2, 4)
        assert all(moe.kept.shape == (2, moe.num_generic + 3 * moe.num_specific) for moe in network.experts.values())

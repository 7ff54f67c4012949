"""Low-rank updates of the backbone's weights: PEFT's, and those that an added type owns."""

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.output import TrainingOutput, together
from nnunetv2_mastpro.network.updates import WeightUpdates, updated

GROWN = {"liver": False, "liver_tumor": True, "kidney_tumor": True, "lung_tumor": True}
ADDED = ("kidney_tumor", "lung_tumor")
RANK = 2


@pytest.fixture
def weights():
    """A convolution's with its bias, and a first layer's whose outputs are fewer than the rank."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.conv.weight": (6, 4, 3, 3), "a.conv.bias": (6,), "first.weight": (1, 5, 1, 1)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_they_add_a_product_of_the_rank(weights, randomize):
    updates = randomize(WeightUpdates(weights, RANK))
    found = updates(weights)
    change = (found["a.conv.weight"] - weights["a.conv.weight"]).flatten(1)
    assert_close(change, updates.up["a_conv_weight"] @ updates.down["a_conv_weight"])
    assert torch.linalg.matrix_rank(change) == RANK
    assert_close(found["a.conv.bias"], weights["a.conv.bias"] + updates.shift["a_conv_bias"])
    assert updates.down["first_weight"].shape == (1, 5)
    sizes = {name: parameter.numel() for name, parameter in updates.named_parameters()}
    assert sum(sizes.values()) == RANK * (36 + 6) + 6 + (5 + 1)


def test_they_start_without_a_change(weights):
    for name, found in WeightUpdates(weights, RANK)(weights).items():
        assert_close(found, weights[name], rtol=0, atol=0)


def test_one_is_on_top_of_the_other(weights, randomize):
    first, second = (randomize(WeightUpdates(weights, RANK), seed=seed) for seed in (1, 2))
    both = updated(weights.__getitem__, [first, second])
    for name, weight in weights.items():
        assert_close(both[name] - weight, first(weights)[name] - weight + second(weights)[name] - weight)
    assert updated(weights.__getitem__, []) == {}


def test_half_precision_leaves_them_whole(weights, randomize):
    updates = randomize(WeightUpdates(weights, RANK))
    expected = updates(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = updates(weights)
    for name in weights:
        assert_close(found[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("norm", ["InstanceNorm", "BatchNorm"])
def test_every_weight_is_updated_and_put_back(make_planned, make_network, randomize, make_image, kind, norm):
    """So that its output is that of a network which has these weights, time and again; gradients reach every update."""
    planned = make_planned(kind, norm=norm)
    network = randomize(make_network(planned, backbone_rank=RANK), 0.2).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.freeze_backbone()
    for _ in range(2):
        network.train()
        loss = sum(stage.square().mean() for stage in network(make_image()).logits)
        loss.backward()
    assert all(parameter.grad is not None for parameter in network.updates.parameters())
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
    found = network.eval()(make_image())
    assert all(before[name].equal(tensor) for name, tensor in network.state_dict().items())
    changed = network.updates(dict(network.named_parameters()))
    assert changed.keys() == {f"backbone.{name}" for name, _ in network.backbone.named_parameters()}
    with torch.no_grad():
        for name, weight in changed.items():
            network.get_parameter(name).copy_(weight)
    network.updates = None
    for stage, expected in zip(found, network(make_image()), strict=True):
        assert_close(stage, expected)


def test_they_are_trained_in_peft_alone(make_network, make_image):
    network = make_network(backbone_rank=RANK).train()
    sum(stage.square().mean() for stage in network(make_image()).logits).backward()
    assert all(parameter.grad is None for parameter in network.updates.parameters())
    network.freeze_backbone()
    assert all(parameter.requires_grad for parameter in network.parts()["weight updates"])
    assert make_network().updates is None


def test_only_added_types_have_their_own(make_network):
    assert not make_network(classes=GROWN).added_updates
    network = make_network(classes=GROWN, added=ADDED)
    changed = {name for name, _ in network.named_parameters() if name.startswith(("backbone.", "fusion.", "head."))}
    assert [{*update.keys} for update in network.added_updates] == [changed, changed]


def test_a_types_updates_reach_its_own_logit_alone(make_network, randomize, make_image):
    network = make_network(classes=GROWN, added=ADDED, deep_supervision=False).eval()
    image, lung = make_image(), 4
    with torch.no_grad():
        before = network(image)
        randomize(network.added_updates[1])
        after = network(image)
    assert_close(after[:, :lung], before[:, :lung], rtol=0, atol=0)
    assert not after[:, lung].equal(before[:, lung])


@pytest.mark.parametrize("has_background", [True, False])
def test_an_added_logit_is_taken_over_as_odds(has_background):
    """Against the background of its own pass; regions have none."""
    first, own = torch.randn(2, 3, 4), torch.randn(2, 4, 4)
    outputs = [TrainingOutput([logits], torch.zeros(2, logits.shape[1]), None) for logits in (first, own)]
    (found,) = together(outputs, has_background).logits
    assert_close(found[:, :3], first, rtol=0, atol=0)
    assert_close(found[:, 3] - found[:, 0] if has_background else found[:, 3], own[:, 3] - own[:, 0] * has_background)


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

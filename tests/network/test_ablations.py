"""Ablations are other parts: what each leaves out, and what stays."""

import copy
import itertools

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import NetworkConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.network.head import FixedHead, apply_kernel
from nnunetv2_mastpro.network.output import CLEARLY_NOT
from nnunetv2_mastpro.network.text import derangement

PARTS = ("text", "anatomy", "experts")
SUBSETS = [parts for count in (1, 2, 3) for parts in itertools.combinations(PARTS, count)]
ORGANS = 2  # channels of a host-organ map


@pytest.fixture
def ablated(make_planned, make_network, randomize, anatomy_hosts):
    """`ablated("text", organs=0)`: a network as training might leave it."""

    def make(*parts, organs=0, planned=None, **values):
        hosts = anatomy_hosts if organs else ()
        network = make_network(planned, ablate=parts, organ_channels=organs, hosts=hosts, **values)
        return randomize(network, std=0.1)

    return make


@pytest.fixture
def anatomy_hosts():
    from nnunetv2_mastpro.config import HostValue

    return (HostValue(1, 0, ("liver",), (0, 1)), HostValue(2, 1, ("kidney_left",), (2, 3)))


def with_organs(image, *filled):
    """The image and two organ channels, of which those `filled` have voxels: 0 hosts liver, 1 kidney tumours."""
    organs = image.new_zeros(len(image), ORGANS, *image.shape[2:])
    for channel in filled:
        organs[:, channel, 3 * channel : 3 * channel + 3] = 1
    return torch.cat([image, organs], 1)


@pytest.mark.parametrize("organs", [0, ORGANS])
@pytest.mark.parametrize("parts", [*SUBSETS, ("text_shuffled",)], ids="+".join)
def test_every_parameter_that_is_left_is_trained(ablated, make_image, parts, organs):
    network = ablated(*parts, organs=organs).train()
    image = with_organs(make_image(), 0, 1) if organs else make_image()
    output = network(image)
    assert [logits.shape[1] for logits in output.logits] == [5, 5]
    assert output.presence.shape == (2, 4)
    assert len(output.choices) == (0 if "experts" in parts else len(network.receipt))
    loss = sum(logits.square().mean() for logits in output.logits) + output.presence.square().mean()
    (loss + output.choices.sum()).backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]
    parameters = [parameter for part in network.parts().values() for parameter in part]
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters()}
    assert len(parameters) == len(list(network.parameters()))
    assert network.eval()(image)[0].shape == (2, 5, 16, 24)


@pytest.mark.parametrize(("name", "axes"), [("PlainConvUNet", 3), ("ResidualEncoderUNet", 2)])
def test_without_all_three_it_is_the_planned_network(make_planned, make_network, randomize, make_image, name, axes):
    planned = randomize(make_planned(name, axes), std=0.1)
    network = make_network(planned, ablate=PARTS)
    expected, found = planned(make_image(axes)), network(make_image(axes)).logits
    assert len(found) == len(expected) - 1  # nnU-Net gives the coarsest no weight
    for ours, theirs in zip(found, expected, strict=False):
        assert_close(ours, theirs)
    count = sum(p.numel() for p in planned.parameters()) - sum(
        p.numel() for p in planned.decoder.seg_layers[0].parameters()
    )
    assert sum(p.numel() for p in network.parameters()) == count + 5  # a presence logit per output


@pytest.mark.parametrize("parts", [("experts",), ()], ids=["without", "with"])
def test_without_experts_features_are_the_planned_networks(make_planned, ablated, make_image, parts):
    planned = make_planned()
    network = ablated(*parts, planned=planned)
    planned.encoder.load_state_dict(copy.deepcopy(network.backbone.encoder.state_dict()))
    found = []
    for stage in network.backbone.encoder.stages:
        stage.register_forward_hook(lambda module, inputs, output: found.append(output))
    network(make_image())
    same = [ours.equal(theirs) for ours, theirs in zip(found, planned.encoder(make_image()), strict=True)]
    assert all(same) == bool(parts)
    assert bool(network.receipt) == bool(list(network.experts.parameters())) == (not parts)


def test_a_fixed_head_is_a_convolution():
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(channels, 3, 1) for channels in (4, 6)]
    kernels = FixedHead(layers)(torch.zeros(2, 9, 1, 1, 1), None)
    for layer, kernel, side in zip(layers, kernels.stages, (4, 2), strict=True):
        features = torch.randn(2, layer.in_channels, side, side, side)
        assert_close(apply_kernel(features, kernel), layer(features))
    assert kernels.presence.shape == (2, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parts", [("anatomy",), ("text", "anatomy")], ids="+".join)
def test_unread_anatomy_changes_nothing(ablated, make_image, parts, training):
    """Neither tokens nor the choice of types: with the liver alone the whole network selects no kidney tumour."""
    image, values = make_image(), {"organs": ORGANS, "host_task_share": 1.0}
    network = ablated(*parts, **values).train(training)
    assert_close(network(with_organs(image, 0)), network(with_organs(image)), rtol=0, atol=0)
    whole = ablated(**values).eval()
    assert not whole(with_organs(image, 0))[0].equal(whole(with_organs(image))[0])


def test_unread_anatomy_still_tells_what_to_skip(ablated, make_image):
    network = ablated("anatomy", organs=ORGANS).eval()
    network.skip_empty = True
    assert (network(with_organs(make_image()))[0][:, 1:] == CLEARLY_NOT).all()
    assert (network(with_organs(make_image(), 0))[0] != CLEARLY_NOT).all()


def test_learned_prompts_do_not_read_the_text(ablated, make_image):
    network = ablated("text").eval()
    before = network(make_image())
    network.embeddings.normal_()
    assert_close(network(make_image()), before, rtol=0, atol=0)
    assert network.text.vectors.shape == network.embeddings.shape
    whole = ablated().eval()
    before = whole(make_image())[0]
    whole.embeddings.normal_()
    assert not whole(make_image())[0].equal(before)


@pytest.mark.parametrize("parts", [("text",), ("text_shuffled",), ("experts",)], ids="+".join)
def test_a_type_that_is_left_out_takes_no_part(ablated, make_image, parts):
    network = ablated(*parts, deep_supervision=False).eval()
    whole = network(make_image())
    network.left_out = [3]
    found = network(make_image())
    assert (found[:, 4] < found[:, :4].amin(1)).all()
    assert found.shape == whole.shape


@pytest.mark.parametrize("count", range(2, 9))
def test_a_derangement_leaves_no_class_its_own(count):
    order = derangement(count)
    assert sorted(order) == list(range(count))
    assert all(order[index] != index for index in range(count))


@pytest.mark.parametrize("left_out", [[], [1]])
def test_shuffled_text_is_the_text_of_another_class(ablated, make_image, left_out):
    shuffled, whole = ablated("text_shuffled").eval(), ablated().eval()
    for network in (shuffled, whole):
        network.left_out = left_out
    assert shuffled.state_dict().keys() == whole.state_dict().keys()
    whole.embeddings.copy_(shuffled.embeddings[[1, 2, 3, 0]])
    assert_close(shuffled(make_image()), whole(make_image()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("ablate", "message"),
    [
        (("txt",), "ablate names 'txt', which is none of text, anatomy, experts, text_shuffled"),
        (("text_shuffled", "text"), "no text to shuffle"),
    ],
)
def test_what_cannot_be_ablated(ablate, message):
    with pytest.raises(MASTProError, match=message):
        NetworkConfig(ablate=ablate)


def test_ablations_have_one_order():
    assert NetworkConfig(ablate=("experts",)).without(("text",)) == NetworkConfig(ablate=("text",)).without(
        ("experts",)
    )
    assert NetworkConfig().without(()) == NetworkConfig()


@pytest.mark.parametrize(
    "parts",
    [PARTS, *(pytest.param(parts, marks=pytest.mark.slow) for parts in (("text",), ("text_shuffled", "anatomy")))],
    ids="+".join,
)
def test_it_compiles_as_one_graph(ablated, make_image, parts):
    network = ablated(*parts, organs=ORGANS).train()
    compiled = torch.compile(network, fullgraph=True, backend="eager")

    def logits(run):
        torch.manual_seed(0)  # training draws which tasks it selects
        return run(with_organs(make_image(), 0)).logits

    assert_close(logits(compiled), logits(network))

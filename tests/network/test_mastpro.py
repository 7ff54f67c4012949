"""The whole network, around what nnU-Net plans."""

import copy

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.inject import AdaptedSite

PLANNED = [(name, axes) for name in ("PlainConvUNet", "ResidualEncoderUNet") for axes in (2, 3)]
ONE_TYPE_EACH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # liver_tumor in the first sample, kidney_tumor in the second
ORGANS = {"liver": False, "spleen": False, "kidney": False}
TUMORS = {"liver_tumor": True, "kidney_tumor": True}


def record_stages(network, experts=None):
    """Site -> features in the passes that follow, after its experts where there are some."""
    seen = {}
    for part in ("encoder", "decoder"):
        for index, stage in enumerate(getattr(network, part).stages):
            name = f"{part}_{index}"
            stage.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    for name, moe in (experts or {}).items():
        moe.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output[0]}))
    network.decoder.transpconvs[0].register_forward_pre_hook(lambda module, inputs: seen.update(bottleneck=inputs[0]))
    return seen


def record(module):
    """A list of (inputs, output) of the calls that follow."""
    calls = []
    module.register_forward_hook(lambda module, inputs, output: calls.append((inputs, output)))
    return calls


@pytest.mark.parametrize("mask", [None, ONE_TYPE_EACH])
@pytest.mark.parametrize("training", [True, False])
def test_it_starts_as_the_planned_network(variant, make_planned, make_network, make_image, training, mask):
    name, axes, values = variant
    planned = make_planned(name, axes)
    network = make_network(planned, encoder_stages=(0, 1, 2, 3), decoder_stages=(0, 1, 2), **values).train(training)
    expected, found = record_stages(planned), record_stages(network.backbone, network.experts)
    planned(make_image(axes))
    network(make_image(axes), mask)
    assert len(found) == 4 + 3 + 1
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "axes"), PLANNED)
def test_stock_weights_load_by_name(make_planned, make_network, make_image, name, axes):
    stock, network = make_planned(name, axes, seed=1), make_network(make_planned(name, axes, seed=2))
    weights = {f"backbone.{key}": value for key, value in stock.state_dict().items() if "seg_layers" not in key}
    assert weights.keys() == {key for key in network.state_dict() if key.startswith("backbone.")}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [key for key in missing if key.startswith("backbone.")]
    expected, found = record_stages(stock), record_stages(network.backbone, network.experts)
    stock(make_image(axes))
    network(make_image(axes))
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stages", "sites"),
    [
        ({}, {"encoder_1": 6, "encoder_2": 8, "encoder_3": 10, "decoder_0": 8, "decoder_1": 6}),
        ({"encoder_stages": (0,), "decoder_stages": (2, 1)}, {"encoder_0": 4, "decoder_2": 4, "decoder_1": 6}),
    ],
)
@pytest.mark.parametrize(("name", "axes"), PLANNED)
def test_the_receipt_lists_what_is_called(make_planned, make_network, make_image, name, axes, stages, sites):
    network = make_network(make_planned(name, axes), **stages)
    calls = {name: record(moe) for name, moe in network.experts.items()}
    network(make_image(axes))
    per_channel = 8 * (1 + 2 + 2)  # of each of 4 + 2 x 2 experts: a router's row, down, up
    assert network.receipt == [AdaptedSite(name, channels) for name, channels in sites.items()]
    counts = {name: sum(parameter.numel() for parameter in moe.parameters()) for name, moe in network.experts.items()}
    assert counts == {name: channels * per_channel for name, channels in sites.items()}
    assert {name: len(called) for name, called in calls.items()} == dict.fromkeys(sites, 1)
    assert {name: called[0][1][0].shape[1] for name, called in calls.items()} == sites


@pytest.mark.parametrize("has_background", [True, False])
def test_forward_is_its_equations(make_network, randomize, make_image, has_background):
    """What the parts are given and what becomes of it, seen at their doors."""
    network = randomize(make_network(has_background=has_background))
    stages = record_stages(network.backbone, network.experts)
    fusions, heads = record(network.fusion), record(network.head)
    sites = [record(moe) for moe in network.experts.values()]
    output = network(make_image(), ONE_TYPE_EACH)
    ((image, text, selected, anatomy), attended), ((given, prompts), kernels) = fusions[0], heads[0]
    assert anatomy is None
    assert_close(image, stages["encoder_3"], rtol=0, atol=0)
    scale = (network.embeddings.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert_close(text, (network.embeddings - network.embeddings.mean(1, keepdim=True)) / scale)
    assert selected.tolist() == [[True, True, True, False], [True, False, True, True]]
    assert_close(stages["bottleneck"], stages["encoder_3"] + attended, rtol=0, atol=0)  # Eq. 7
    assert given is attended  # not detached
    assert_close(prompts, torch.cat([network.background, text]) if has_background else text, rtol=0, atol=0)
    for logits, site, kernel in zip(output.logits, ("decoder_2", "decoder_1"), kernels.stages, strict=True):
        expected = torch.einsum("bchw,btc->bthw", stages[site], kernel[..., :-1]) + kernel[..., -1, None, None]  # Eq. 8
        assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert_close(output.presence, kernels.presence[:, 1:] if has_background else kernels.presence, rtol=0, atol=0)
    assert_close(output.choices, torch.stack([calls[0][1][1] for calls in sites]), rtol=0, atol=0)


def test_exchanged_sentences_exchange_logits(make_network, randomize, make_image):
    """Classes are told apart by their sentences alone, organs at any time, tumour types while experts are alike."""
    trained, fresh = randomize(make_network()), make_network()
    randomize(fresh.fusion), randomize(fresh.head)
    for network, order in ((trained, [2, 1, 0, 3]), (fresh, [0, 3, 2, 1])):
        before = network(make_image())
        network.embeddings.copy_(network.embeddings[order])
        after = network(make_image())
        outputs = [0, *[1 + index for index in order]]
        for one, other in zip(after.logits, before.logits, strict=True):
            assert_close(one, other[:, outputs], rtol=1e-4, atol=1e-4)
        assert_close(after.presence, before.presence[:, order], rtol=1e-4, atol=1e-4)
        assert not after.logits[0].allclose(before.logits[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("on", [True, False])
def test_a_type_that_is_off_leaves_the_other_outputs(make_network, randomize, make_image, on):
    """Neither its experts nor its sentence reach them; its own output is still given."""
    network = randomize(make_network()).eval()
    task_mask = torch.tensor([[1.0, float(on)]] * 2)
    before = network(make_image(), task_mask)[0]
    with torch.no_grad():
        network.embeddings[3] = -network.embeddings[3]
        for moe in network.experts.values():
            for parameter in (moe.router.specific[1], moe.down[2], moe.up[2]):
                parameter.neg_()
    after = network(make_image(), task_mask)[0]
    assert before[:, :4].equal(after[:, :4]) is not on
    assert not before[:, 4].allclose(after[:, 4])


def test_all_types_are_on_unless_said(make_network, randomize, make_image):
    network = randomize(make_network()).eval()
    logits = network(make_image())
    assert_close(network(make_image(), torch.ones(2, 2)), logits, rtol=0, atol=0)
    assert not network(make_image(), torch.tensor([[0, 1]] * 2))[0].allclose(logits[0])


@pytest.mark.parametrize(
    ("classes", "mask", "selected"),
    [
        ({"a": True, "b": False, "c": True}, [[1, 0], [0, 1], [0, 0]], [[1, 1, 0], [0, 1, 1], [0, 1, 0]]),
        (TUMORS, [[1, 0], [1, 1]], [[1, 0], [1, 1]]),
        (ORGANS, [[], []], [[1, 1, 1], [1, 1, 1]]),
    ],
)
def test_organs_are_always_selected(make_network, classes, mask, selected):
    found = make_network(classes=classes).selected_classes(torch.tensor(mask))
    assert_close(found, torch.tensor(selected, dtype=torch.bool))


@pytest.mark.parametrize(("name", "axes"), PLANNED)
def test_evaluation_returns_what_nnunets_networks_return(make_planned, make_network, make_image, name, axes):
    network, image = make_network(make_planned(name, axes)), make_image(axes)
    trained = network(image)
    stages = network.eval()(image)
    assert isinstance(stages, list)
    assert_close(stages, trained.logits, rtol=0, atol=0)
    stock = make_planned(name, axes)(image)
    assert [logits.shape for logits in stages] == [logits.shape for logits in stock[:-1]]
    network.deep_supervision = False
    assert_close(network(image), stages[0], rtol=0, atol=0)
    assert_close(network.train()(image).logits, stages[0], rtol=0, atol=0)


def test_without_deep_supervision_from_the_start(make_network, make_image):
    """nnU-Net builds it so for prediction, and loads the weights of the other strictly."""
    trained, predicting = make_network().eval(), make_network(deep_supervision=False).eval()
    trained.embeddings.mul_(2)
    predicting.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert_close(predicting(make_image()), trained(make_image())[0], rtol=0, atol=0)


@pytest.mark.parametrize("has_background", [True, False])
def test_parts_hold_every_parameter_once(make_network, has_background):
    network = make_network(has_background=has_background)
    parts = network.parts()
    found = sorted(id(parameter) for part in parts.values() for parameter in part)
    assert found == sorted(id(parameter) for parameter in network.parameters())
    names = {id(parameter): name.split(".")[0] for name, parameter in network.named_parameters()}
    assert {part: {names[id(parameter)] for parameter in held} for part, held in parts.items()} == {
        "backbone": {"backbone"},
        "experts": {"experts"},
        "fusion": {"fusion"},
        "mask proposal": {"head", "background"} if has_background else {"head"},
    }

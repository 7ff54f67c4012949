"""The whole network in training: gradients, masks, compilation, autocast, PEFT."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from nnunetv2_mastpro.network.experts import load_balance
from nnunetv2_mastpro.network.output import TrainingOutput

ONE_TYPE_EACH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # liver_tumor in the first sample, kidney_tumor in the second
ORGANS = {"liver": False, "spleen": False, "kidney": False}
TUMORS = {"liver_tumor": True, "kidney_tumor": True}


def some_loss(output):
    """Cross-entropy on every supervised stage, presence, balance, of labels drawn once."""
    generator = torch.Generator().manual_seed(0)
    loss = 0.01 * load_balance(output.choices)
    for logits in output.logits:
        target = torch.randint(0, logits.shape[1], (len(logits), *logits.shape[2:]), generator=generator)
        loss = loss + F.cross_entropy(logits.float(), target)
    seen = torch.randint(0, 2, output.presence.shape, generator=generator).float()
    return loss + 0.1 * F.binary_cross_entropy_with_logits(output.presence.float(), seen)


def test_everything_is_trained(variant, make_planned, make_network, make_image):
    """No gradient is None in any step, which DDP refuses; by the third none has been zero throughout."""
    name, axes, values = variant
    network = make_network(make_planned(name, axes), **values).requires_grad_(True)  # updates too, as in PEFT
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    cancelled = ("conv.bias", "conv_bias")  # by the norm
    idle = {key for key, _ in network.named_parameters() if not key.endswith(cancelled)}
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        some_loss(network(make_image(axes), ONE_TYPE_EACH)).backward()
        assert not [key for key, parameter in network.named_parameters() if parameter.grad is None]
        idle -= {key for key, parameter in network.named_parameters() if parameter.grad.any()}
        optimizer.step()
    assert not idle


@pytest.mark.parametrize(("mask", "on"), [([[0.0, 0.0], [0.0, 0.0]], []), ([[0.0, 1.0], [0.0, 0.0]], [1])])
def test_masked_types_get_zero_gradients(make_network, randomize, make_image, mask, on):
    network = randomize(make_network())
    some_loss(network(make_image(), torch.tensor(mask))).backward()
    for moe in network.experts.values():
        for task in range(2):
            for parameter in (moe.router.specific[task], moe.down[task + 1], moe.up[task + 1]):
                assert parameter.grad is not None
                assert bool(parameter.grad.any()) is (task in on)


@pytest.mark.parametrize("has_background", [True, False])
@pytest.mark.parametrize("classes", [ORGANS, TUMORS, {"tumor": True}])
def test_any_data_set_can_be_trained(make_network, make_image, classes, has_background):
    """Organs alone, tumours alone, one class; labels with background, or regions without."""
    network = make_network(classes=classes, has_background=has_background)
    output = network(make_image())
    assert [logits.shape[1] for logits in output.logits] == [len(classes) + has_background] * 2
    assert output.presence.shape == (2, len(classes))
    some_loss(output).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert (network.background is not None) is has_background


@pytest.mark.parametrize(
    "variant",
    [
        ("PlainConvUNet", 2, {"routing": "sample", "router": "split"}),
        ("ResidualEncoderUNet", 3, {"routing": "token", "router": "joint"}),
    ],
    ids=["sample", "token"],
)
def test_it_compiles_as_one_graph(variant, make_planned, make_network, randomize, make_image):
    name, axes, values = variant
    network = randomize(make_network(make_planned(name, axes), **values))
    expected = network(make_image(axes), ONE_TYPE_EACH)
    kept = {site: moe.kept for site, moe in network.experts.items()}
    for moe in network.experts.values():
        moe.kept = torch.zeros_like(moe.kept)
    torch._dynamo.reset()
    found = torch.compile(network, fullgraph=True, backend="eager")(make_image(axes), ONE_TYPE_EACH)
    assert isinstance(found, TrainingOutput)
    assert_close(found, expected, rtol=0, atol=0)
    for site, moe in network.experts.items():
        assert kept[site].sum() > 0
        assert_close(moe.kept, kept[site], rtol=0, atol=0)
        assert not moe.kept.requires_grad


def test_compiled_it_follows_what_each_batch_annotates(make_network, randomize, make_image):
    """With one graph for training and one for validation, so that an epoch does not begin with waiting."""
    network = randomize(make_network())
    network.host_task_share, network.annotated_task_share = 0.0, 1.0
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(network, fullgraph=True, backend=counter)
    for masks in (ONE_TYPE_EACH, ONE_TYPE_EACH.flip(0)):
        network.train().annotated = network.selected_classes(masks)
        assert_close(compiled(make_image()), network(make_image(), masks), rtol=0, atol=0)
        network.eval()
        with torch.no_grad():
            assert_close(compiled(make_image()), network(make_image()), rtol=0, atol=0)
    assert counter.frame_count == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler on a CPU: apt install g++")
def test_the_compiler_that_a_gpu_gets_makes_the_same_network(
    make_network, randomize, make_image, tmp_path, monkeypatch
):
    """Forward and backward by inductor, which nnU-Net uses on a GPU; here it writes C++.

    Four generic experts and four classes: equal shapes share memory.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # a killed run leaves broken files in the shared one
    network = randomize(make_network())
    torch._dynamo.reset()
    outputs = [forward(make_image(), ONE_TYPE_EACH) for forward in (network, torch.compile(network, fullgraph=True))]
    assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    trained = [*network.parameters()]
    expected, found = (torch.autograd.grad(some_loss(output), trained) for output in outputs)
    assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_annotated_types_alone_are_selected_in_their_share_of_samples(make_network, share):
    network = make_network().train()
    image = torch.zeros(4000, 1, 1, 1)
    network.annotated = network.selected_classes(torch.tensor([[1.0, 0.0]]).expand(4000, -1))
    network.host_task_share, network.annotated_task_share = 0.0, share
    torch.manual_seed(0)
    selected = network.select_tasks(image, None)
    assert (selected[:, 0] == 1).all()
    assert (selected[:, 1] == 0).float().mean().item() == pytest.approx(share, abs=0.03)
    network.eval()
    assert (network.select_tasks(image, None) == 1).all()  # prediction is not told what was annotated


def test_where_a_sample_annotates_none_all_types_are_selected(make_network):
    """So it is with the old types where a case annotates an added one alone."""
    network = make_network().train()
    image = torch.zeros(200, 1, 1, 1)
    network.annotated = torch.zeros(200, len(network.embeddings), dtype=torch.bool)
    network.host_task_share, network.annotated_task_share = 0.0, 1.0
    assert (network.select_tasks(image, None) == 1).all()


def test_bfloat16(variant, make_planned, make_network, make_image):
    """Without oneDNN, which on CPUs with AVX512_BF16 gives nan for the gradient of a plain, small torch.nn.Conv3d."""
    name, axes, values = variant
    network = make_network(make_planned(name, axes), **values).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
        output = network(make_image(axes))
        loss = some_loss(output)
        loss.backward()
    assert {logits.dtype for logits in output.logits} == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in (*output.logits, output.presence, output.choices))
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    exact = network(make_image(axes))
    assert_close(output.logits[0].float(), exact.logits[0], rtol=0.1, atol=0.1)


def test_float16_with_scaled_gradients_trains_as_float32(variant, make_planned, make_network, make_image):
    """As nnU-Net trains on a GPU: no step is left out, and the losses are those of float32."""
    name, axes, values = variant
    losses = {}
    for half in (False, True):
        network = make_network(make_planned(name, axes), **values)
        optimizer, scaler = torch.optim.AdamW(network.parameters(), lr=3e-3), torch.amp.GradScaler("cpu", enabled=half)
        losses[half] = []
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = some_loss(network(make_image(axes), ONE_TYPE_EACH))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses[half].append(loss.item())
        assert scaler.get_scale() == (2.0**16 if half else 1.0)  # halved where a gradient is not finite
    assert losses[True] == pytest.approx(losses[False], rel=0.01)
    assert losses[True][-1] < losses[True][0]


def test_a_frozen_backbone_stays(make_network, make_image):
    network = make_network()
    assert network.backbone_is_trained
    network.freeze_backbone()
    assert not network.backbone_is_trained
    parts = network.parts()
    trainable = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert trainable == {id(p) for part in ("experts", "fusion", "mask proposal") for p in parts[part]}
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        some_loss(network(make_image(), ONE_TYPE_EACH)).backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in parts["backbone"])
    changed = {key for key, value in network.state_dict().items() if not value.equal(before[key])}
    assert not [key for key in changed if key.startswith("backbone.")]
    kept = {"embeddings", "trained"}
    assert changed >= {key for key in before if not key.startswith("backbone.") and key not in kept}


@pytest.mark.parametrize("again", [True, False])
def test_a_frozen_backbone_keeps_running_statistics(make_planned, make_network, make_image, again):
    """Batch normalisation would go on averaging in training mode; `again`, as nnU-Net does before every epoch."""
    network = make_network(make_planned(norm="BatchNorm"))
    network.freeze_backbone()
    if again:
        network.train()
    before = copy.deepcopy(network.backbone.state_dict())
    network(make_image())
    assert_close(network.backbone.state_dict(), before, rtol=0, atol=0)
    assert network.training
    assert not any(module.training for module in network.backbone.modules())
    assert all(module.training for module in (*network.experts.values(), network.fusion, network.head))


@pytest.mark.parametrize("mode", [True, False])
def test_modes_reach_every_part_unless_the_backbone_is_frozen(make_network, mode):
    network = make_network().train(not mode).train(mode)
    assert {module.training for module in network.modules()} == {mode}

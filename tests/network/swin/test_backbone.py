"""SwinUNETR as a backbone: MONAI's features at the start, every block adapted, refusals, compile, autocast."""

import copy
import re
import shutil

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import NetworkConfig
from nnunetv2_mastpro.network.experts import load_balance
from nnunetv2_mastpro.network.planned import SWIN_UNETR, refuse
from nnunetv2_mastpro.network.swin import PlannedSwinUNETR, SwinBackbone

SMALL = ("generic_experts", "specific_experts", "rank", "attention_dim", "kernel_hidden")  # of make_network
BLOCKS = [f"swin_{stage}_{block}" for stage in range(4) for block in range(2)]


def features_of(network: PlannedSwinUNETR, image: torch.Tensor) -> list[torch.Tensor]:
    """What MONAI's own forward gives on the way: encoder10 and the decoder blocks, coarsest first."""
    found = []
    names = ("encoder10", "decoder5", "decoder4", "decoder3", "decoder2", "decoder1")
    hooks = [getattr(network, name).register_forward_hook(lambda *a: found.append(a[2])) for name in names]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return found


def test_features_are_monais_bit_for_bit(planned, image):
    bottleneck, *decoded = features_of(planned, image)
    backbone = SwinBackbone(copy.deepcopy(planned)).eval()
    with torch.no_grad():
        skips = backbone.encode(image, lambda site, features: features)
        found = backbone.decode(skips, lambda site, features: features)
    assert torch.equal(skips[-1], bottleneck)
    assert all(torch.equal(a, b) for a, b in zip(found, decoded, strict=True))


def test_an_adapted_network_starts_as_the_plain_one(planned, make_network, image):
    network = make_network(planned, deep_supervision=False).eval()
    decoded = []
    decode = network.backbone.decode
    network.backbone.decode = lambda *args: decoded.extend(decode(*args)) or decoded
    with torch.no_grad():
        network(image)
    assert torch.equal(decoded[-1], features_of(planned, image)[-1])


def test_every_block_is_adapted_and_called(planned, make_network, randomize, image):
    network = make_network(planned, deep_supervision=False, rank=4).train()
    assert [site.name for site in network.receipt] == BLOCKS
    assert [site.channels for site in network.receipt] == [12, 12, 24, 24, 48, 48, 96, 96]
    randomize(network.experts)
    called = []
    for name, moe in network.experts.items():
        moe.register_forward_hook(lambda *a, name=name: called.append(name))
    out = network(image)
    assert called == BLOCKS
    out.logits.square().mean().backward()
    for name, moe in network.experts.items():
        assert moe.up[0].grad.abs().sum() > 0, name


def test_an_added_type_changes_the_convolutions_and_no_swin_block(planned, make_network, image):
    """Blocks have experts, and checkpointing computes them again when the weights are as they were."""
    network = make_network(planned, added=("kidney_tumor",), deep_supervision=False).train()
    (own,) = network.added_updates
    rest = {name for name, _ in network.backbone.named_parameters() if not name.startswith("swinViT.")}
    assert {name for name in own.keys if name.startswith("backbone.")} == {f"backbone.{name}" for name in rest}
    assert {name.split(".")[0] for name in rest} >= {"encoder1", "encoder10", "decoder5", "decoder1"}
    network(image).logits.square().mean().backward()
    for name, parameter in own.up.items():
        assert not name.startswith("backbone_") or parameter.grad.abs().sum() > 0, name


def test_chosen_stages(planned, make_network):
    network = make_network(planned, deep_supervision=False, encoder_stages=(3,), decoder_stages=(0, 4))
    sites = {site.name: site.channels for site in network.receipt}
    assert sites == {"swin_3_0": 96, "swin_3_1": 96, "decoder_0": 96, "decoder_4": 12}


def test_fused_attention_is_monais_up_to_rounding(image):
    networks = []
    for fused in (True, False):
        torch.manual_seed(0)
        networks.append(PlannedSwinUNETR(1, 3, feature_size=12, fused_attention=fused).eval())
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()
    results = []
    for network in networks:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "relative_position" in name:
                    parameter.mul_(20)  # so that the biases matter
            results.append(network(image.repeat(2, 1, 1, 1, 1) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1)))
    assert_close(*results, atol=1e-4, rtol=1e-4)


def test_checkpointing_changes_no_gradient(make_network, randomize, image):
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        planned = PlannedSwinUNETR(1, 5, feature_size=12, use_checkpoint=checkpointed)
        network = randomize(make_network(planned, deep_supervision=False), std=0.1).train()
        network.freeze_backbone()
        torch.manual_seed(1)
        network(image, torch.ones(1, 2)).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, msg=name)


def kept_bytes(network, image) -> int:
    """Of what a forward pass keeps for backward, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image)
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"fused_attention": True}, {"fused_attention": False}),
        ({"use_checkpoint": True}, {"use_checkpoint": False}),
    ],
)
def test_options_that_save_memory_in_peft(make_network, image, less, more):
    kept = []
    for options in (less, more):
        network = make_network(PlannedSwinUNETR(1, 5, feature_size=12, **options), deep_supervision=False).train()
        network.freeze_backbone()
        kept.append(kept_bytes(network, image))
    assert kept[0] < 0.9 * kept[1]


def test_frozen_backbone_gets_no_gradient(planned, make_network, image):
    network = make_network(planned, deep_supervision=False).train()
    network.freeze_backbone()
    network(image).logits.square().mean().backward()
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert not network.backbone.training


def test_what_lies_before_the_first_expert_is_not_kept_for_backward(planned, make_network, image):
    network = make_network(planned, deep_supervision=False).train()
    seen = []
    first = network.experts[BLOCKS[0]]
    first.register_forward_pre_hook(lambda moe, given: seen.append(given[0].requires_grad))
    network(image)
    network.freeze_backbone()
    network(image)
    assert seen == [True, False]


@pytest.mark.slow
def test_compiles_without_graph_breaks(planned, make_network, image):
    network = make_network(planned, deep_supervision=False).train()
    network(image)  # MONAI's masks are made with the sizes of the patch
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    mask = torch.ones(1, 2)
    assert_close(compiled(image, mask).logits, network(image, mask).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler on a CPU: apt install g++")
def test_inductor_makes_the_same_network(make_network, image, tmp_path, monkeypatch):
    """Forward and backward in PEFT, by the compiler that nnU-Net uses on a GPU; few blocks, for it takes minutes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    planned = PlannedSwinUNETR(1, 5, feature_size=12, depths=(2, 1, 1, 1))
    network = make_network(planned, deep_supervision=False).train()
    network.freeze_backbone()
    network(image)
    torch._dynamo.reset()
    mask = torch.ones(1, 2)
    logits = [forward(image, mask).logits for forward in (network, torch.compile(network, fullgraph=True))]
    assert_close(logits[1], logits[0], atol=1e-3, rtol=1e-3)
    trained = list(network.experts.parameters())
    expected, found = (torch.autograd.grad(each.square().mean(), trained, allow_unused=True) for each in logits)
    assert_close(found, expected, atol=1e-4, rtol=1e-2)


@pytest.mark.slow
def test_half_precision_step(planned, make_network, image):
    network = make_network(planned, deep_supervision=False).train()
    network.freeze_backbone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image)
        loss = output.logits.float().square().mean() + output.presence.float().sum() + load_balance(output.choices)
    loss.backward()
    assert loss.isfinite()
    grads = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_the_papers_size_in_peft(make_network):
    """Feature size 48, 96^3, 8 tumour types: at most 5.3 M trainable parameters and 9 % of the network."""
    network = make_network(
        PlannedSwinUNETR(1, 9, feature_size=48),
        classes={f"tumour {index}": True for index in range(8)},
        deep_supervision=False,
        **{name: getattr(NetworkConfig(), name) for name in SMALL},
    )
    network.freeze_backbone()
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    assert len(network.receipt) == 8
    assert trainable <= 5.3e6
    assert trainable <= 0.09 * total


@pytest.mark.parametrize(
    ("patch_size", "spacing", "kwargs", "reason"),
    [
        ([96, 96], [1, 1], {}, "three-dimensional"),
        ([64, 64, 64], [3.0, 1.0, 1.0], {}, r"spacing \[3.0, 1.0, 1.0\] mm is anisotropic"),
        ([64, 96, 32], [1, 1, 1], {}, "side of 32"),
        ([64, 96, 80], [1, 1, 1], {}, "side of 80"),
        ([64, 64, 64], [1, 1, 1], {"feature_size": 20}, "feature_size 20"),
    ],
)
def test_refused_plans(patch_size, spacing, kwargs, reason):
    architecture = {"network_class_name": SWIN_UNETR, "arch_kwargs": kwargs}
    configuration = {"patch_size": patch_size, "spacing": spacing, "architecture": architecture}
    assert re.search(reason, refuse(configuration))


def test_taken_plans():
    architecture = {"network_class_name": SWIN_UNETR, "arch_kwargs": {"feature_size": 48}}
    assert refuse({"patch_size": [64, 96, 128], "spacing": [1.5, 1.5, 1.5], "architecture": architecture}) is None


def test_deep_supervision_is_refused():
    with pytest.raises(ValueError, match="no deep supervision"):
        PlannedSwinUNETR(1, 3, deep_supervision=True, feature_size=12)


def test_without_prompts_and_experts_it_is_monais(planned, make_network, image):
    network = make_network(planned, ablate=("text", "anatomy", "experts"), deep_supervision=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image), planned(image))

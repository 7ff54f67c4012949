"""The plans' values reach the parts."""

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import ClassSpec, NetworkConfig, Resolved
from nnunetv2_mastpro.network.build import build_mastpro


def test_sizes_reach_the_parts(make_network):
    sizes = {"generic_experts": 5, "specific_experts": 3, "top_k_generic": 4, "top_k_specific": 2, "rank": 6}
    network = make_network(**sizes, attention_dim=12, attention_heads=3, kernel_hidden=9)
    for site in network.receipt:
        moe = network.experts[site.name]
        assert [down.shape for down in moe.down] == [(5, 6, site.channels), *[(3, 6, site.channels)] * 2]
        assert (moe.top_k_generic, moe.top_k_specific) == (4, 2)
    for attention in (network.fusion.to_prompts, network.fusion.to_image):
        assert (attention.query.out_features, attention.heads) == (12, 3)
    assert network.head.mlp[0].out_features == 9


@pytest.mark.parametrize("router", ["split", "joint"])
@pytest.mark.parametrize("routing", ["sample", "token"])
def test_routing_reaches_the_experts(make_network, routing, router):
    for moe in make_network(routing=routing, router=router).experts.values():
        assert (moe.routing, moe.router.joint) == (routing, router == "joint")


@pytest.mark.parametrize(
    ("stages", "supervised"), [(4, [4, 6]), (3, [4]), (2, [4])], ids=["four stages", "three stages", "two stages"]
)
def test_the_coarsest_decoder_stage_is_not_supervised(make_planned, make_network, make_image, stages, supervised):
    network = make_network(make_planned(stages=stages))
    output = network(make_image())
    assert [layer.out_features for layer in (network.head.mlp[2], *network.head.coarser)] == [c + 1 for c in supervised]
    assert [logits.shape for logits in output.logits] == [(2, 5, 16 >> s, 24 >> s) for s in range(len(supervised))]


def test_embeddings_are_zero_until_they_are_put_in(make_planned):
    classes = (ClassSpec("liver", "", False), ClassSpec("liver_tumor", "", True), ClassSpec("kidney", "", False))
    network = build_mastpro(make_planned(), NetworkConfig(), Resolved(classes, 7, True), True)
    assert_close(network.embeddings, torch.zeros(3, 7), rtol=0, atol=0)
    assert "embeddings" in network.state_dict()
    assert network.tumor_classes == [1]
    assert network.background.shape == (1, 7)
    assert not network.trained

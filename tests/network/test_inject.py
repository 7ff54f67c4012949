"""Which stages get experts, and the receipt."""

import re

import pytest
import torch
from torch import nn

from nnunetv2_mastpro.network.experts import DMoE
from nnunetv2_mastpro.network.inject import AdaptedSite, choose_sites, inject_experts

ENCODER_DIMS, DECODER_DIMS = [4, 6, 8, 10], [8, 6, 4]


@pytest.mark.parametrize(
    ("encoder_stages", "decoder_stages", "sites"),
    [
        (None, None, {"encoder_1": 6, "encoder_2": 8, "encoder_3": 10, "decoder_0": 8, "decoder_1": 6}),
        (None, (), {"encoder_1": 6, "encoder_2": 8, "encoder_3": 10}),
        ((), None, {"decoder_0": 8, "decoder_1": 6}),
        ((0, 3), (2,), {"encoder_0": 4, "encoder_3": 10, "decoder_2": 4}),
        ([2], [0, 1, 2], {"encoder_2": 8, "decoder_0": 8, "decoder_1": 6, "decoder_2": 4}),
    ],
)
def test_sites(encoder_stages, decoder_stages, sites):
    assert choose_sites(ENCODER_DIMS, DECODER_DIMS, encoder_stages, decoder_stages) == sites


@pytest.mark.parametrize(
    ("encoder_stages", "decoder_stages", "said"),
    [
        ((1, 4), None, "encoder_stages holds 4, but the encoder has stages 0 to 3; correct mastpro.network.encoder_"),
        ((-1,), None, "encoder_stages holds -1, but the encoder has stages 0 to 3"),
        (None, (3,), "decoder_stages holds 3, but the decoder has stages 0 to 2; correct mastpro.network.decoder_"),
        ((), (-1,), "decoder_stages holds -1, but the decoder has stages 0 to 2"),
        ((), (), "no stage is adapted; name at least one in mastpro.network.encoder_stages or decoder_stages"),
    ],
)
def test_sites_that_cannot_be(encoder_stages, decoder_stages, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        choose_sites(ENCODER_DIMS, DECODER_DIMS, encoder_stages, decoder_stages)


def test_the_receipt_lists_what_was_made():
    def make(channels: int) -> DMoE:
        sizes = {"rank": 2, "num_generic": 3, "num_specific": 2, "num_tasks": 2}
        return DMoE(dim=channels, **sizes, top_k_generic=1, top_k_specific=1)

    sites = {"encoder_1": 6, "decoder_0": 8}
    experts, receipt = inject_experts(sites, make)
    assert isinstance(experts, nn.ModuleDict)
    assert [*experts] == [*sites]
    assert [experts[name].up[0].shape[1] for name in sites] == [6, 8]
    per_channel = 7 * (1 + 2 + 2)  # of each of seven experts: a router's row, down, up
    assert receipt == [AdaptedSite("encoder_1", 6), AdaptedSite("decoder_0", 8)]
    counts = [sum(parameter.numel() for parameter in moe.parameters()) for moe in experts.values()]
    assert counts == [6 * per_channel, 8 * per_channel]
    assert not torch.equal(experts["encoder_1"].down[0][0], experts["encoder_1"].down[0][1])

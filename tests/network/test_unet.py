"""The planned networks, split between their stages, against themselves."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nnunetv2_mastpro.network.unet import UNetBackbone

PLANNED = [(name, axes) for name in ("PlainConvUNet", "ResidualEncoderUNet") for axes in (2, 3)]
SITES = ["encoder_0", "encoder_1", "encoder_2", "encoder_3", "decoder_0", "decoder_1", "decoder_2"]


def run(backbone, image, adapt=lambda site, features: features):
    """Site -> features of a whole pass."""
    skips = backbone.encode(image, adapt)
    return dict(zip(SITES, [*skips, *backbone.decode(skips, adapt)], strict=True))


@pytest.mark.parametrize(("name", "axes"), PLANNED)
def test_stages_give_what_the_planned_network_gives(make_planned, make_image, name, axes):
    planned, image = make_planned(name, axes), make_image(axes)
    found = run(UNetBackbone(copy.deepcopy(planned)), image)
    skips = planned.encoder(image)
    assert_close([found[site] for site in SITES[:4]], skips, rtol=0, atol=0)
    logits = [layer(found[site]) for layer, site in zip(planned.decoder.seg_layers, SITES[4:], strict=True)]
    assert_close(logits[::-1], planned(image), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "axes"), PLANNED)
def test_channels_are_those_of_the_stages(make_planned, make_image, name, axes):
    backbone = UNetBackbone(make_planned(name, axes))
    channels = [features.shape[1] for features in run(backbone, make_image(axes)).values()]
    assert backbone.encoder_dims + backbone.decoder_dims == channels == [4, 6, 8, 10, 8, 6, 4]


def test_what_adapt_returns_goes_on(make_planned, make_image):
    """Each site is adapted once, in order; the stages after it see what became of it, and so do the skips."""
    backbone, image, sites = UNetBackbone(make_planned()), make_image(), []

    def negate(site, features):
        sites.append(site)
        return -features

    found = run(backbone, image, negate)
    assert sites == SITES
    features = image
    for index, stage in enumerate(backbone.encoder.stages):
        features = -stage(features)
        assert_close(found[f"encoder_{index}"], features, rtol=0, atol=0)
    for index, stage in enumerate(backbone.decoder.stages):
        skip = found[f"encoder_{2 - index}"]
        features = -stage(torch.cat([backbone.decoder.transpconvs[index](features), skip], 1))
        assert_close(found[f"decoder_{index}"], features, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "axes"), PLANNED)
def test_parameters_keep_the_planned_names(make_planned, name, axes):
    planned = make_planned(name, axes)
    expected = {key: value for key, value in planned.state_dict().items() if "seg_layers" not in key}
    found = UNetBackbone(copy.deepcopy(planned)).state_dict()
    assert [*found] == [*expected]
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            (),
            "ModuleDict has no encoder.stages, decoder.stages, decoder.transpconvs; MAST-Pro adapts PlainConvUNet, R",
        ),
        (("encoder",), "ModuleDict has no decoder.stages, decoder.transpconvs; MAST-Pro adapts"),
    ],
)
def test_another_network_is_refused(make_planned, parts, said):
    planned = make_planned()
    with pytest.raises(TypeError, match=said):
        UNetBackbone(nn.ModuleDict({part: getattr(planned, part) for part in parts}))

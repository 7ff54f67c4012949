"""The Universal Model's head against a naive loop, and the network around it."""

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.build import make_backbone
from nnunetv2_mastpro.network.universal import UniversalHead, UniversalNet


@pytest.fixture
def head(randomize) -> UniversalHead:
    torch.manual_seed(0)
    return randomize(UniversalHead(image_dim=10, text_dim=5, decoder_dim=4, hidden=6, axes=2))


def loop(head, bottleneck, decoded, text):
    """One voxel, one class, one sample at a time; theta is three layers' weights, each followed by its biases."""
    features = head.reduce(decoded)
    logits = torch.zeros(len(decoded), len(text), *decoded.shape[2:])
    for sample in range(len(decoded)):
        pooled = head.embed_image(bottleneck[sample].mean((1, 2)))
        for index, sentence in enumerate(text):
            theta = head.controller(torch.cat([pooled, head.embed_text(sentence)]))
            assert len(theta) == 8 * 8 + 8 + 8 * 8 + 8 + 8 + 1
            for row in range(decoded.shape[2]):
                for column in range(decoded.shape[3]):
                    value, place = features[sample, :, row, column], 0
                    for number, out in enumerate((8, 8, 1)):
                        weight = theta[place : place + 8 * out].view(out, 8)
                        bias = theta[place + 8 * out : place + 8 * out + out]
                        value = weight @ (value if number == 0 else value.relu()) + bias
                        place += 8 * out + out
                    logits[sample, index, row, column] = value[0]
    return logits


def test_the_head_is_three_layers_per_class(head):
    bottleneck, decoded, text = torch.randn(2, 10, 2, 3), torch.randn(2, 4, 3, 4), torch.randn(3, 5)
    assert_close(head(bottleneck, decoded, text), loop(head, bottleneck, decoded, text))


@pytest.mark.parametrize(("name", "axes"), [("PlainConvUNet", 3), ("ResidualEncoderUNet", 2)])
@pytest.mark.parametrize("has_background", [True, False])
def test_background_has_logit_zero(make_planned, make_image, name, axes, has_background):
    backbone = make_backbone(make_planned(name, axes))
    head = UniversalHead(image_dim=10, text_dim=5, decoder_dim=4, hidden=6, axes=axes)
    network = UniversalNet(backbone=backbone, head=head, sentences=torch.randn(3, 5), has_background=has_background)
    image = make_image(axes)
    logits = network(image)
    assert logits.shape == (2, 3 + has_background, *image.shape[2:])
    if has_background:
        assert (logits[:, 0] == 0).all()
        found, probability = logits.argmax(1), logits[:, 1:].sigmoid()
        assert_close(found > 0, probability.amax(1) > 0.5)
    logits.square().mean().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]


def test_a_sentence_decides_its_class_alone(make_planned, make_image):
    backbone = make_backbone(make_planned())
    head = UniversalHead(image_dim=10, text_dim=5, decoder_dim=4, hidden=6, axes=2)
    network = UniversalNet(backbone=backbone, head=head, sentences=torch.randn(3, 5), has_background=True).eval()
    before = network(make_image())
    network.sentences[1] = torch.randn(5)
    after = network(make_image())
    assert_close(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    assert not after[:, 2].allclose(before[:, 2], atol=1e-3)

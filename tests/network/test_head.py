"""Mask proposal and its kernels against loops over samples, classes and voxels, written from Eq. 8."""

import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.head import MaskProposal, apply_kernel

SAMPLES, CLASSES, CHANNELS, TEXT, HIDDEN = 2, 3, 5, 7, 6
SPATIAL = [(2, 3), (2, 1, 3)]
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def make_head(randomize):
    def make(decoder_dims=(4, 6, 8)) -> MaskProposal:
        torch.manual_seed(0)
        sizes = {"image_dim": CHANNELS, "text_dim": TEXT, "hidden": HIDDEN}
        return randomize(MaskProposal(**sizes, decoder_dims=list(decoder_dims))).double()

    return make


def loop_linear(linear, vector):
    return torch.stack([row @ vector + bias for row, bias in zip(linear.weight, linear.bias, strict=True)])


def loop_theta(head, attended, sentence):
    """theta^t = MLP([GAP(F_attn); E_txt^t]) of one sample and one class."""
    voxels = [attended[(slice(None), *place)] for place in product(*map(range, attended.shape[1:]))]
    hidden = loop_linear(head.mlp[0], torch.cat([sum(voxels) / len(voxels), sentence]))
    return loop_linear(head.mlp[2], 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))


def loop_kernel(features, kernel):
    """<F_dec, theta^t> at each voxel, plus the bias that theta ends with."""
    logits = features.new_empty(len(features), kernel.shape[1], *features.shape[2:])
    for sample, index in product(range(len(features)), range(kernel.shape[1])):
        theta = kernel[sample, index]
        for place in product(*map(range, features.shape[2:])):
            products = [theta[c] * features[(sample, c, *place)] for c in range(features.shape[1])]
            logits[(sample, index, *place)] = sum(products) + theta[-1]
    return logits


def assert_same_gradients(found, expected, inputs):
    losses = [sum((out * draw(*out.shape, seed=9)).sum() for out in outputs) for outputs in (found, expected)]
    pairs = [torch.autograd.grad(loss, inputs) for loss in losses]
    for one, other in zip(*pairs, strict=True):
        assert_close(one, other, **EXACT)


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("decoder_dims", [(4,), (4, 6), (4, 6, 8)])
def test_mask_proposal_is_the_loop(make_head, decoder_dims, spatial):
    head = make_head(decoder_dims)
    attended, text = draw(SAMPLES, CHANNELS, *spatial).requires_grad_(), draw(CLASSES, TEXT, seed=1).requires_grad_()
    found = head(attended, text)
    theta = [[loop_theta(head, sample, sentence) for sentence in text] for sample in attended]
    stages = [torch.stack([torch.stack(row) for row in theta])]
    stages += [
        torch.stack([torch.stack([loop_linear(coarser, kernel) for kernel in row]) for row in theta])
        for coarser in head.coarser
    ]
    presence = torch.stack([torch.cat([loop_linear(head.presence, kernel) for kernel in row]) for row in theta])
    assert [kernel.shape[2] - 1 for kernel in found.stages] == [*decoder_dims]
    for one, other in zip([*found.stages, found.presence], [*stages, presence], strict=True):
        assert_close(one, other, **EXACT)
    inputs = [attended, text, *head.parameters()]
    assert_same_gradients([*found.stages, found.presence], [*stages, presence], inputs)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_apply_kernel_is_the_loop(spatial):
    features = draw(SAMPLES, 4, *spatial).requires_grad_()
    kernel = draw(SAMPLES, CLASSES, 4 + 1, seed=1).requires_grad_()
    found, expected = apply_kernel(features, kernel), loop_kernel(features, kernel)
    assert_close(found, expected, **EXACT)
    assert_same_gradients([found], [expected], [features, kernel])


def test_a_class_has_its_own_kernel(make_head):
    """A sentence changes its own class's kernel and presence in every sample, and no other's."""
    head, attended, text = make_head(), draw(SAMPLES, CHANNELS, 2, 3), draw(CLASSES, TEXT, seed=1)
    before = head(attended, text)
    text[1] += 1
    after = head(attended, text)
    pairs = zip([*before.stages, before.presence[..., None]], [*after.stages, after.presence[..., None]], strict=True)
    for one, other in pairs:
        assert_close(one[:, [0, 2]], other[:, [0, 2]], rtol=0, atol=0)
        assert not one[:, 1].allclose(other[:, 1])


def test_exchanged_sentences_exchange_kernels(make_head):
    head, attended, text = make_head(), draw(SAMPLES, CHANNELS, 2, 3), draw(CLASSES, TEXT, seed=1)
    before, after = head(attended, text), head(attended, text[[2, 1, 0]])
    assert_close(after.stages, [kernel[:, [2, 1, 0]] for kernel in before.stages])
    assert_close(after.presence, before.presence[:, [2, 1, 0]])

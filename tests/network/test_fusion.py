"""Attention and prompt fusion against loops over heads, queries and keys, written from Eq. 6-7."""

import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.fusion import Attention, PromptFusion

SAMPLES, PROMPTS, CHANNELS, TEXT, WIDTH = 2, 3, 5, 7, 8
SELECTED = torch.tensor([[True, True, True], [False, True, False]])
SPATIAL = [(2, 3), (2, 1, 3)]
EXACT = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def make_fusion(randomize):
    def make(heads=2, start=False) -> PromptFusion:
        torch.manual_seed(0)
        fusion = PromptFusion(image_dim=CHANNELS, text_dim=TEXT, dim=WIDTH, heads=heads)
        return (fusion if start else randomize(fusion)).double()

    return make


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_norm(norm, vector):
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def loop_linear(linear, vector):
    rows = torch.stack([row @ vector for row in linear.weight])
    return rows if linear.bias is None else rows + linear.bias


def loop_attention(module, query, context, allowed=None):
    """Softmax(Q K^T / sqrt(d)) V, Eq. 6, query by query in each head."""
    samples = []
    for sample in range(len(query)):
        vectors = [loop_norm(module.norm_context, vector) for vector in context[sample]]
        keys = [loop_linear(module.key, vector) for vector in vectors]
        values = [loop_linear(module.value, vector) for vector in vectors]
        which = [index for index in range(len(keys)) if allowed is None or allowed[sample, index]]
        attended = []
        for vector in query[sample]:
            asked = loop_linear(module.query, loop_norm(module.norm_query, vector))
            width = len(asked) // module.heads
            heads = []
            for head in range(module.heads):
                own = slice(head * width, (head + 1) * width)
                scores = {index: ((asked[own] @ keys[index][own]) / math.sqrt(width)).exp() for index in which}
                total = sum(scores.values())
                heads.append(sum(scores[index] / total * values[index][own] for index in which))
            attended.append(loop_linear(module.out, torch.cat(heads)))
        samples.append(torch.stack(attended))
    return torch.stack(samples)


def loop_fusion(fusion, image, text, selected, further=None):
    """Prompts query the voxels, then every voxel queries the selected prompts of its sample."""
    places = [*product(*map(range, image.shape[2:]))]
    attended = torch.empty_like(image)
    for sample in range(len(image)):
        voxels = torch.stack([image[(sample, slice(None), *place)] for place in places])
        queries = [loop_linear(fusion.embed_text, sentence) for sentence in text]
        on = [bool(chosen) for chosen in selected[sample]]
        if further is not None:
            queries, on = queries + list(further[sample]), on + on
        refined = [
            query + loop_attention(fusion.to_prompts, query[None, None], voxels[None])[0, 0]
            for query, chosen in zip(queries, on, strict=True)
            if chosen
        ]
        for place, vector in zip(places, voxels, strict=True):
            found = loop_attention(fusion.to_image, vector[None, None], torch.stack(refined)[None])
            attended[(sample, slice(None), *place)] = found[0, 0]
    return attended


def assert_same_gradients(found, expected, inputs):
    weights = draw(*found.shape, seed=9)
    pairs = [torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        assert_close(one, other, **EXACT)


@pytest.mark.parametrize("allowed", [None, torch.tensor([[True, False, True, True], [False, False, True, False]])])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_loop(randomize, heads, allowed):
    torch.manual_seed(0)
    module = randomize(Attention(query_dim=CHANNELS, context_dim=6, dim=WIDTH, heads=heads, out_dim=3)).double()
    query, context = draw(SAMPLES, 2, CHANNELS).requires_grad_(), draw(SAMPLES, 4, 6, seed=1).requires_grad_()
    found, expected = module(query, context, allowed), loop_attention(module, query, context, allowed)
    assert found.shape == (SAMPLES, 2, 3)
    assert_close(found, expected, **EXACT)
    assert_same_gradients(found, expected, [query, context, *module.parameters()])


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_fusion_is_the_loop(make_fusion, heads, further, spatial):
    fusion = make_fusion(heads)
    image, text = draw(SAMPLES, CHANNELS, *spatial).requires_grad_(), draw(PROMPTS, TEXT, seed=1).requires_grad_()
    queries = draw(SAMPLES, PROMPTS, WIDTH, seed=2).requires_grad_() if further else None
    found, expected = fusion(image, text, SELECTED, queries), loop_fusion(fusion, image, text, SELECTED, queries)
    assert_close(found, expected, **EXACT)
    inputs = [image, text, *([queries] if further else []), *fusion.parameters()]
    assert_same_gradients(found, expected, inputs)


@pytest.mark.parametrize("further", [False, True])
def test_what_is_not_selected_changes_nothing(make_fusion, further):
    """The first sample selects all prompts, the second one only prompt 1."""
    fusion, image, text = make_fusion(), draw(SAMPLES, CHANNELS, 2, 3), draw(PROMPTS, TEXT, seed=1)
    queries = draw(SAMPLES, PROMPTS, WIDTH, seed=2) if further else None
    before = fusion(image, text, SELECTED, queries)
    other_text, other_queries = text.clone(), queries
    other_text[[0, 2]] = 4
    if further:
        other_queries = queries.clone()
        other_queries[:, [0, 2]] = -4
    for changed in (fusion(image, other_text, SELECTED, queries), fusion(image, text, SELECTED, other_queries)):
        assert_close(changed[1], before[1], rtol=0, atol=0)
    assert not fusion(image, other_text, SELECTED, queries)[0].allclose(before[0])
    assert further is not fusion(image, text, SELECTED, other_queries)[0].allclose(before[0])


def test_what_is_not_selected_gets_zero_gradients(make_fusion):
    fusion, text = make_fusion(), draw(PROMPTS, TEXT, seed=1).requires_grad_()
    fusion(draw(SAMPLES, CHANNELS, 2, 3), text, SELECTED)[1].square().sum().backward()
    assert_close(text.grad[[0, 2]], torch.zeros(2, TEXT, dtype=torch.float64), rtol=0, atol=0)
    assert (text.grad[1] != 0).any()


def test_nothing_selected_is_finite(make_fusion):
    """A data set of tumours only, all of them masked: the attention has no key to turn to."""
    fusion, image = make_fusion(), draw(SAMPLES, CHANNELS, 2, 3).requires_grad_()
    attended = fusion(image, draw(PROMPTS, TEXT, seed=1), torch.tensor([[False] * PROMPTS, [True] * PROMPTS]))
    assert_close(attended[0], fusion.to_image.out.bias[:, None, None].expand(-1, 2, 3))
    attended.square().sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (image, *fusion.parameters()))


def test_prompts_do_not_attend_to_each_other(make_fusion):
    fusion, image, text = make_fusion(), draw(SAMPLES, CHANNELS, 2, 3), draw(PROMPTS, TEXT, seed=1)
    refined = []
    fusion.to_prompts.register_forward_hook(lambda module, inputs, output: refined.append(output))
    fusion(image, text, SELECTED)
    fusion(image, text[1:2], SELECTED[:, 1:2])
    assert_close(refined[0][:, 1:2], refined[1])


@pytest.mark.parametrize("spatial", SPATIAL)
def test_it_starts_at_zero(make_fusion, spatial):
    fusion, image = make_fusion(start=True), draw(SAMPLES, CHANNELS, *spatial)
    assert_close(fusion(image, draw(PROMPTS, TEXT), SELECTED), torch.zeros_like(image), rtol=0, atol=0)


def test_samples_do_not_see_each_other(make_fusion):
    fusion, image, text = make_fusion(), draw(SAMPLES, CHANNELS, 2, 3), draw(PROMPTS, TEXT, seed=1)
    together = fusion(image, text, SELECTED)
    assert_close(fusion(image[1:], text, SELECTED[1:]), together[1:])

"""Attention and prompt fusion against loops over heads, queries and keys, written from Eq. 6-7."""

import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.anatomy import AnatomyPrompts
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


def loop_attention(module, query, context, allowed=None, bias=None):
    """Softmax(Q K^T / sqrt(d)) V, Eq. 6, query by query in each head."""
    samples = []
    for sample in range(len(query)):
        vectors = [loop_norm(module.norm_context, vector) for vector in context[sample]]
        keys = [loop_linear(module.key, vector) for vector in vectors]
        values = [loop_linear(module.value, vector) for vector in vectors]
        which = [index for index in range(len(keys)) if allowed is None or allowed[sample, index]]
        attended = []
        for place, vector in enumerate(query[sample]):
            asked = loop_linear(module.query, loop_norm(module.norm_query, vector))
            width = len(asked) // module.heads
            heads = []
            for head in range(module.heads):
                own = slice(head * width, (head + 1) * width)
                added = {index: 0 if bias is None else bias[sample, head, place, index] for index in which}
                scores = {i: ((asked[own] @ keys[i][own]) / math.sqrt(width) + added[i]).exp() for i in which}
                total = sum(scores.values()) + (0 if bias is None else 1)  # or to nothing, at logit 0
                heads.append(sum(scores[index] / total * values[index][own] for index in which))
            attended.append(loop_linear(module.out, torch.cat(heads)))
        samples.append(torch.stack(attended))
    return torch.stack(samples)


def loop_fusion(fusion, image, text, selected, anatomy=None):
    """Prompts query the voxels, then every voxel queries the selected prompts of its sample."""
    places = [*product(*map(range, image.shape[2:]))]
    attended = torch.empty_like(image)
    for sample in range(len(image)):
        voxels = torch.stack([image[(sample, slice(None), *place)] for place in places])
        queries = [loop_linear(fusion.embed_text, sentence) for sentence in text]
        classes = [index for index in range(len(text)) if selected[sample, index]]
        if anatomy is not None:
            queries += [query + token for query, token in zip(queries, anatomy.tokens[sample], strict=True)]
        chosen = classes + ([len(text) + index for index in classes] if anatomy is not None else [])
        refined, pull = [], []
        for index in chosen:
            bias = None if anatomy is None else anatomy.guidance[sample, :, index % len(text)]  # (H, N)
            shaped = None if bias is None else bias[None, :, None]
            query = queries[index]
            refined.append(
                query + loop_attention(fusion.to_prompts, query[None, None], voxels[None], bias=shaped)[0, 0]
            )
            pull.append(bias)
        for number, (place, vector) in enumerate(zip(places, voxels, strict=True)):
            bias = None if anatomy is None else torch.stack([b[:, number] for b in pull], 1)[None, :, None]
            found = loop_attention(fusion.to_image, vector[None, None], torch.stack(refined)[None], bias=bias)
            attended[(sample, slice(None), *place)] = found[0, 0]
    return attended


def draw_anatomy(heads, voxels) -> AnatomyPrompts:
    tokens, guidance = draw(SAMPLES, PROMPTS, WIDTH, seed=2), draw(SAMPLES, heads, PROMPTS, voxels, seed=3)
    return AnatomyPrompts(tokens.requires_grad_(), guidance.requires_grad_())


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
@pytest.mark.parametrize("with_anatomy", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_fusion_is_the_loop(make_fusion, heads, with_anatomy, spatial):
    fusion = make_fusion(heads)
    image, text = draw(SAMPLES, CHANNELS, *spatial).requires_grad_(), draw(PROMPTS, TEXT, seed=1).requires_grad_()
    anatomy = draw_anatomy(heads, math.prod(spatial)) if with_anatomy else None
    found, expected = fusion(image, text, SELECTED, anatomy), loop_fusion(fusion, image, text, SELECTED, anatomy)
    assert_close(found, expected, **EXACT)
    inputs = [image, text, *(anatomy or []), *fusion.parameters()]
    assert_same_gradients(found, expected, inputs)


@pytest.mark.parametrize("with_anatomy", [False, True])
def test_what_is_not_selected_changes_nothing(make_fusion, with_anatomy):
    """The first sample selects all prompts, the second one only prompt 1."""
    fusion, image, text = make_fusion(), draw(SAMPLES, CHANNELS, 2, 3), draw(PROMPTS, TEXT, seed=1)
    anatomy = AnatomyPrompts(*(part.detach() for part in draw_anatomy(2, 6))) if with_anatomy else None
    before = fusion(image, text, SELECTED, anatomy)
    other_text = text.clone()
    other_text[[0, 2]] = 4
    others = [(other_text, anatomy)]
    if with_anatomy:
        tokens, guidance = anatomy.tokens.clone(), anatomy.guidance.clone()
        tokens[:, [0, 2]], guidance[:, :, [0, 2]] = -4, 2
        others += [(text, AnatomyPrompts(tokens, anatomy.guidance)), (text, AnatomyPrompts(anatomy.tokens, guidance))]
    for changed in (fusion(image, given, SELECTED, prior) for given, prior in others):
        assert_close(changed[1], before[1], rtol=0, atol=0)
        assert not changed[0].allclose(before[0])


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

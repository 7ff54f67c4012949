"""Staying with what the model said of the old types, against loops written from the definition."""

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.training.old_types import say_without, stay_with

OLD, NEW = 2, [2, 3]  # old classes; new ones, from 0


def make_logits(outputs, seed):
    return torch.randn(2, outputs, 3, 4, generator=torch.Generator().manual_seed(seed)) * 2


def labels(seed=2):
    return torch.randint(0, OLD + len(NEW) + 1, (2, 1, 3, 4), generator=torch.Generator().manual_seed(seed)).float()


def test_softmax_is_the_loop():
    logits, before, target = make_logits(5, 0), make_logits(5, 1), labels()
    terms = []
    for sample in range(2):
        for y in range(3):
            for x in range(4):
                if target[sample, 0, y, x] > OLD:
                    continue  # annotated as new
                p = logits[sample, :, y, x].softmax(0)
                q = before[sample, : OLD + 1, y, x].softmax(0)
                now = [p[0] + p[3] + p[4], p[1], p[2]]
                terms.append(sum(b * (b.log() - a.log()) for a, b in zip(now, q, strict=True)))
    assert 0 < len(terms) < 24
    assert_close(stay_with(logits, before, target, NEW, False, False), torch.stack(terms).mean())


def test_regions_are_the_loop():
    logits, before = make_logits(4, 0), make_logits(4, 1)
    p, q = logits[:, :OLD].sigmoid(), before[:, :OLD].sigmoid()
    terms = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    assert_close(stay_with(logits, before, torch.ones(2, 4, 3, 4), NEW, True, False), terms.sum(1).mean())


def test_background_may_become_the_new_type_and_an_old_type_may_not():
    before = torch.zeros(1, 3, 2, 2)  # background, old, new
    before[:, 2] = -40  # as a class that was left out
    nothing = torch.zeros(1, 1, 2, 2)
    shared = before.clone()
    shared[:, 0] = shared[:, 2] = torch.tensor(0.5).log()  # half of the background each
    assert_close(stay_with(shared, before, nothing, [1], False, False), torch.tensor(0.0))
    taken = before.clone()
    taken[:, 1], taken[:, 2] = -3, 0  # from the old type
    assert stay_with(taken, before, nothing, [1], False, False) > 0.3
    assert stay_with(taken, before, nothing + 2, [1], False, False) == 0  # there it is annotated


def test_half_precision_is_summed_in_float32():
    logits, before = make_logits(5, 0).half(), make_logits(5, 1).half()
    found = stay_with(logits, before, labels(), NEW, False, False)
    assert found.dtype == torch.float32
    assert_close(found, stay_with(logits.float(), before.float(), labels(), NEW, False, False))


@pytest.mark.parametrize("training", [True, False])
def test_what_was_said_before_is_what_prediction_says_without_the_types(make_network, training):
    network, *_ = make_network()
    network.train(training)
    network.deep_supervision = True
    image = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    said = say_without(network, image, [2])
    assert not said.requires_grad
    assert (network.training, network.deep_supervision, network.left_out) == (training, True, [])
    network.eval()
    network.deep_supervision, network.left_out = False, [2]
    assert_close(said, network(image), rtol=0, atol=0)

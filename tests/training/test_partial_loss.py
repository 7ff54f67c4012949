"""The loss with partial labels against loops over voxels, and against nnU-Net's where everything is annotated."""

import math
from itertools import product

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.testing import assert_close

from nnunetv2_mastpro.training.partial_loss import SMOOTH, PartialLabelLoss

LIVER, LIVER_TUMOR, KIDNEY_TUMOR = range(3)
CLASSES, IGNORE = 3, 4
FLAT = [[False] * CLASSES for _ in range(CLASSES)]
NESTED = [[u == LIVER_TUMOR and a == LIVER for a in range(CLASSES)] for u in range(CLASSES)]
ANNOTATED = torch.tensor([[True, True, True], [True, False, False], [False, False, True], [False, True, False]])
SPATIAL = (4, 5)


def make_loss(*, nested=FLAT, has_regions=False, ignore=False, batch_dice=True, annotated=ANNOTATED):
    loss = PartialLabelLoss(
        nested=nested,
        has_regions=has_regions,
        ignore_label=IGNORE if ignore else None,
        batch_dice=batch_dice,
        ddp=False,
    )
    loss.annotated = annotated
    return loss


def make_batch(*, has_regions=False, ignore=False, annotated=ANNOTATED, seed=0):
    """Labels only of what each sample annotates, as a merged data set holds them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES + 1, (len(annotated), 1, *SPATIAL), generator=generator)
    for sample, known in zip(labels, annotated.tolist(), strict=True):
        for index, annotates in enumerate(known):
            if not annotates:
                sample[sample == index + 1] = 0
    ignored = torch.rand(labels.shape, generator=generator) < 0.2
    if has_regions:
        target = torch.cat([labels == 1 + index for index in range(CLASSES)] + [ignored] * ignore, 1)
    else:
        target = labels.masked_fill(ignored, IGNORE) if ignore else labels
    outputs = CLASSES + (not has_regions)
    logits = torch.randn(len(annotated), outputs, *SPATIAL, generator=generator, dtype=torch.float32)
    return logits.requires_grad_(), target.float()


def loop_loss(logits, target, annotated, *, nested, has_regions, ignore, batch_dice):
    """Voxel by voxel."""
    terms, sums = [], {}
    for b in range(len(logits)):
        known = annotated[b].tolist()
        for place in product(*map(range, SPATIAL)):
            voxel, label = logits[(b, slice(None), *place)], target[(b, slice(None), *place)]
            if ignore and (label[-1] == 1 if has_regions else label[0] == IGNORE):
                continue
            if has_regions:
                found, truth = voxel.sigmoid(), label[:CLASSES]
                for c in range(CLASSES):
                    if known[c]:
                        terms.append(-(truth[c] * found[c].log() + (1 - truth[c]) * (1 - found[c]).log()))
            else:
                p, value = voxel.softmax(0), int(label[0])
                under = [u for u in range(CLASSES) if not known[u] and (value == 0 or nested[u][value - 1])]
                terms.append(-(p[value] + sum(p[1 + u] for u in under)).log())
                truth = [float(value == 1 + c) for c in range(CLASSES)]
                found = [
                    p[1 + c] + sum(p[1 + u] for u in range(CLASSES) if nested[u][c] and not known[u])
                    for c in range(CLASSES)
                ]
            for c in range(CLASSES):
                if known[c]:
                    key = c if batch_dice else (b, c)
                    both, predicted, present = sums.get(key, (0, 0, 0))
                    sums[key] = both + found[c] * truth[c], predicted + found[c], present + truth[c]
    dice = [(2 * both + SMOOTH) / (predicted + present + SMOOTH) for both, predicted, present in sums.values()]
    return torch.stack(terms).mean() - torch.stack(dice).mean()


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("ignore", [True, False])
@pytest.mark.parametrize(("nested", "has_regions"), [(FLAT, False), (NESTED, False), (FLAT, True)])
def test_equals_a_loop(nested, has_regions, ignore, batch_dice):
    logits, target = make_batch(has_regions=has_regions, ignore=ignore)
    loss = make_loss(nested=nested, has_regions=has_regions, ignore=ignore, batch_dice=batch_dice)(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = loop_loss(
        logits, target, ANNOTATED, nested=nested, has_regions=has_regions, ignore=ignore, batch_dice=batch_dice
    )
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert_close(loss, expected)
    assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize(("has_regions", "ignore"), [(False, False), (False, True), (True, False)])
def test_equals_nnunet_where_everything_is_annotated(has_regions, ignore, batch_dice):
    annotated = torch.ones(4, CLASSES, dtype=torch.bool)
    logits, target = make_batch(has_regions=has_regions, ignore=ignore, annotated=annotated)
    dice = {"batch_dice": batch_dice, "do_bg": has_regions, "smooth": 1e-5, "ddp": False}
    if has_regions:
        stock = DC_and_BCE_loss({}, dice, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        label = IGNORE if ignore else None
        stock = DC_and_CE_loss(dice, {}, ignore_label=label, dice_class=MemoryEfficientSoftDiceLoss)
    loss = make_loss(nested=NESTED, has_regions=has_regions, ignore=ignore, batch_dice=batch_dice, annotated=annotated)(
        logits, target
    )
    assert_close(loss, stock(logits, target))


def test_background_does_not_speak_against_what_is_not_annotated():
    annotated = torch.tensor([[True, True, False]])
    logits, _ = make_batch(annotated=annotated)
    loss = make_loss(annotated=annotated)
    background = torch.zeros(1, 1, *SPATIAL)
    (gradient,) = torch.autograd.grad(loss(logits, background), logits)
    # descending raises the unknown class and background alike, by their probabilities, against the known classes
    assert (gradient[:, 1 + KIDNEY_TUMOR] < 0).all()
    assert (gradient[:, 1 + LIVER] > 0).all()
    ratio = gradient[:, 1 + KIDNEY_TUMOR] / gradient[:, 0]
    assert_close(ratio, (logits[:, 1 + KIDNEY_TUMOR] - logits[:, 0]).exp(), atol=1e-4, rtol=1e-3)


def test_unannotated_regions_have_no_gradient():
    logits, target = make_batch(has_regions=True)
    (gradient,) = torch.autograd.grad(make_loss(has_regions=True)(logits, target), logits)
    assert_close(gradient[~ANNOTATED], torch.zeros_like(gradient[~ANNOTATED]))
    assert (gradient[ANNOTATED] != 0).all()


@pytest.mark.parametrize("has_regions", [True, False])
@pytest.mark.parametrize("others", [0, 7, 31])
def test_dice_gradient_does_not_depend_on_the_number_of_other_classes(has_regions, others):
    def gradient(classes: int) -> torch.Tensor:
        annotated = torch.zeros(1, classes, dtype=torch.bool)
        annotated[:, 0] = True
        loss = make_loss(nested=[[False] * classes] * classes, has_regions=has_regions)
        found = torch.full((1, classes, 6), 0.3).requires_grad_()
        truth = torch.zeros(1, classes, 6)
        truth[:, 0, :2] = 1
        (grad,) = torch.autograd.grad(loss.dice(found, truth, torch.ones(1, 1, 6), annotated), found)
        return grad[:, 0]

    assert_close(gradient(1 + others), gradient(1))


def test_a_batch_without_a_valid_voxel_gives_a_finite_loss():
    logits, target = make_batch(ignore=True)
    loss = make_loss(ignore=True)(logits, torch.full_like(target, IGNORE))
    assert math.isfinite(loss.item())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("nested", [FLAT, NESTED], ids=["flat", "nested"])
def test_autocast_leaves_scaled_gradients_finite(nested):
    """A class that is annotated, absent and hardly predicted: Dice's gradient there, scaled, is beyond float16."""
    logits = torch.zeros(2, 1 + CLASSES, *SPATIAL)
    logits[:, 0] = 25
    target = torch.zeros(2, 1, *SPATIAL)
    loss = make_loss(nested=nested, annotated=ANNOTATED[:2])
    gradients = []
    for half in (False, True):
        leaf = logits.clone().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=half):
            value = loss(leaf.half() if half else leaf, target)
        (value * 2**16).backward()
        gradients.append(leaf.grad)
    assert gradients[0].isfinite().all()
    assert_close(gradients[1], gradients[0], rtol=1e-2, atol=2**16 * 1e-6)

"""The loss against loops written from its definition."""

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.testing import assert_close

from nnunetv2_mastpro.network.experts import load_balance
from nnunetv2_mastpro.network.output import TrainingOutput
from nnunetv2_mastpro.training.loss import MASTProLoss

CLASSES, IGNORE = 3, 4
DICE = {"batch_dice": False, "do_bg": False, "smooth": 1e-5, "ddp": False}


def make_loss(*, has_regions=False, ignore=False, supervised=(1, 2), presence_weight=0.1, balance_weight=0.01):
    """nnU-Net's own loss of each kind, as nnUNetTrainer._build_loss composes it."""
    if has_regions:
        dice = {**DICE, "do_bg": True}
        segmentation = DC_and_BCE_loss({}, dice, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        label = IGNORE if ignore else None
        segmentation = DC_and_CE_loss(DICE, {}, ignore_label=label, dice_class=MemoryEfficientSoftDiceLoss)
    return MASTProLoss(
        DeepSupervisionWrapper(segmentation, [2 / 3, 1 / 3]),
        supervised=list(supervised),
        has_regions=has_regions,
        ignore_label=IGNORE if ignore else None,
        presence_weight=presence_weight,
        balance_weight=balance_weight,
    )


def make_batch(*, has_regions=False, ignore=False, seed=0, spatial=(6, 5)):
    """Four samples: all classes; class 1 only; background only; background and, with `ignore`, ignored voxels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES + 1, (4, 1, *spatial), generator=generator)
    labels[1:] = labels[1:] == 1
    labels[2:] = 0
    ignored = torch.rand(labels.shape, generator=generator) < 0.3
    ignored[0] = ignored[2] = False
    target = labels
    if has_regions:  # whole, its two parts, and what is ignored
        regions = [labels > 0, labels == 1, labels > 1] + ([ignored] if ignore else [])
        target = torch.cat(regions, 1)
    elif ignore:
        target = labels.masked_fill(ignored, IGNORE)
    outputs = CLASSES + (not has_regions)
    coarser = target[..., ::2, ::2]
    logits = [torch.randn(4, outputs, *t.shape[2:], generator=generator) for t in (target, coarser)]
    presence = torch.randn(4, CLASSES, generator=generator).requires_grad_()
    choices = torch.rand(2, 3, 2, 6, generator=generator).requires_grad_()
    output = TrainingOutput(logits, presence, choices)
    return output, [target.float(), coarser.float()]


def loop_category(presence, target, *, supervised, has_regions, ignore):
    terms = []
    for logits, sample in zip(presence, target, strict=True):
        for index in supervised:
            seen = bool(sample[index].any()) if has_regions else bool((sample == index + 1).any())
            hidden = ignore and bool(sample[-1].any() if has_regions else (sample == IGNORE).any())
            if seen:
                terms.append(-torch.log(torch.sigmoid(logits[index])))
            elif not hidden:
                terms.append(-torch.log(1 - torch.sigmoid(logits[index])))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("spatial", [(6, 5), (6, 4, 5)])
@pytest.mark.parametrize("supervised", [(0, 1, 2), (1, 2), (2,)])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("has_regions", [False, True])
def test_category_is_the_loop(has_regions, ignore, supervised, spatial):
    loss = make_loss(has_regions=has_regions, ignore=ignore, supervised=supervised)
    output, (target, _) = make_batch(has_regions=has_regions, ignore=ignore, spatial=spatial)
    naive = output.presence.detach().clone().requires_grad_()
    expected = loop_category(naive, target, supervised=supervised, has_regions=has_regions, ignore=ignore)
    found = loss.category(output.presence, target)
    assert_close(found, expected)
    found.backward()
    expected.backward()
    assert_close(output.presence.grad, naive.grad)


@pytest.mark.parametrize("has_regions", [False, True])
def test_a_class_that_may_be_under_ignored_voxels_is_left_out(has_regions):
    loss = make_loss(has_regions=has_regions, ignore=True, supervised=(0, 1, 2))
    output, (target, _) = make_batch(has_regions=has_regions, ignore=True)
    loss.category(output.presence, target).backward()
    assert (output.presence.grad[0] != 0).all()  # nothing ignored: every class counts
    assert (output.presence.grad[2] != 0).all()
    assert (output.presence.grad[3] == 0).all()  # nothing seen, some ignored: unknown
    assert output.presence.grad[1, 0] != 0  # seen in spite of ignored voxels
    assert output.presence.grad[1, 2] == 0


@pytest.mark.parametrize("has_regions", [False, True])
def test_a_class_that_is_not_annotated_is_left_out(has_regions):
    loss = make_loss(has_regions=has_regions, supervised=(1, 2))
    output, (target, _) = make_batch(has_regions=has_regions)
    loss.annotated = torch.tensor([[True, True, False], [True, False, True], [True, True, True], [True, False, False]])
    found = loss.category(output.presence, target)
    found.backward()
    assert_close(output.presence.grad != 0, loss.annotated & torch.tensor([False, True, True]))
    loss.annotated = torch.ones_like(loss.annotated)
    everything = loop_category(output.presence, target, supervised=(1, 2), has_regions=has_regions, ignore=False)
    assert_close(loss.category(output.presence, target), everything)


def test_nothing_known_is_no_loss():
    loss = make_loss(ignore=True)
    presence = torch.zeros(2, CLASSES, requires_grad=True)
    found = loss.category(presence, torch.full((2, 1, 4, 4), float(IGNORE)))
    found.backward()
    assert found == 0
    assert_close(presence.grad, torch.zeros_like(presence))


@pytest.mark.parametrize(("presence_weight", "balance_weight"), [(0.1, 0.01), (0, 0.5), (2.0, 0), (0, 0)])
@pytest.mark.parametrize("has_regions", [False, True])
def test_loss_is_the_sum_of_its_parts(has_regions, presence_weight, balance_weight):
    loss = make_loss(has_regions=has_regions, presence_weight=presence_weight, balance_weight=balance_weight)
    output, target = make_batch(has_regions=has_regions)
    segmentation = loss.segmentation(output.logits, target)
    category = loop_category(output.presence, target[0], supervised=(1, 2), has_regions=has_regions, ignore=False)
    assert_close(
        loss(output, target), segmentation + presence_weight * category + balance_weight * load_balance(output.choices)
    )
    assert segmentation != 0


def test_without_deep_supervision():
    loss = make_loss()
    loss.segmentation = loss.segmentation.loss
    output, (target, _) = make_batch()
    output = output._replace(logits=output.logits[0])
    category = loop_category(output.presence, target, supervised=(1, 2), has_regions=False, ignore=False)
    expected = loss.segmentation(output.logits, target) + 0.1 * category + 0.01 * load_balance(output.choices)
    assert_close(loss(output, target), expected)


def test_evaluation_output_gets_the_segmentation_loss_alone():
    loss = make_loss()
    output, target = make_batch()
    assert_close(loss(output.logits, target), loss.segmentation(output.logits, target))


def test_half_precision_logits_are_summed_in_float32():
    loss = make_loss()
    output, (target, _) = make_batch()
    half = output.presence.detach().bfloat16()
    found = loss.category(half, target)
    assert found.dtype == torch.float32
    assert_close(found, loss.category(half.float(), target))

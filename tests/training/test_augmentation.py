"""The paper's augmentation beside nnU-Net's and instead of it."""

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.testing import assert_close

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training import augmentation
from nnunetv2_mastpro.training.augmentation import LARGEST_SHIFT, augmented, equal_axes, keeping_organs

SIZE, SPACING_MM = (8, 8, 8), (1.0, 1.0, 1.0)


def stock(cascaded=False, mirror_axes=(0, 1, 2)):
    return nnUNetTrainer.get_training_transforms(
        SIZE, (-0.5, 0.5), None, mirror_axes, False, [False], cascaded, [1, 2] if cascaded else None
    )


@pytest.fixture
def sample():
    torch.manual_seed(0)
    np.random.seed(0)
    labels = torch.randint(0, 3, (1, *SIZE), dtype=torch.int16)
    return {"image": torch.randn(1, *SIZE), "segmentation": labels}


@pytest.fixture
def always(monkeypatch):
    for name in ("ROTATION_PROBABILITY", "SHIFT_PROBABILITY"):
        monkeypatch.setattr(augmentation, name, 1)


def turned(tensor):
    """All 90-degree rotations in one plane."""
    return [torch.rot90(tensor, k, axes) for k in (1, 2, 3) for axes in ((1, 2), (1, 3), (2, 3))]


@pytest.mark.usefixtures("always")
def test_the_papers_alone_turns_and_shifts_and_does_no_more(sample):
    image, labels = sample["image"].clone(), sample["segmentation"].clone()
    transforms = augmented(stock(), SIZE, SPACING_MM, "paper")
    shifts = []
    for _ in range(20):
        found = transforms(image=image.clone(), segmentation=labels.clone())
        place = next(n for n, other in enumerate(turned(labels)) if torch.equal(other, found["segmentation"]))
        shift = found["image"] - turned(image)[place]
        assert_close(shift, torch.full_like(shift, shift.mean().item()), atol=1e-5, rtol=0)
        shifts.append(shift.mean().item())
    assert max(np.abs(shifts)) <= LARGEST_SHIFT
    assert min(shifts) < -0.1 < 0.1 < max(shifts)


def test_both_keeps_all_of_nnunets():
    before = stock().transforms
    after = augmented(stock(), SIZE, SPACING_MM, "both").transforms
    kinds = [repr(type(getattr(entry, "transform", entry))) for entry in after]
    expected = [repr(type(getattr(entry, "transform", entry))) for entry in before]
    assert len(after) == len(before) + 2
    assert [kind for kind in kinds if "Rot90" not in kind and "BrightnessAdditive" not in kind] == expected


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["paper", "both"])
def test_organ_masks_turn_with_the_image_and_are_not_shifted(sample, kind):
    labels = sample["segmentation"]
    both = torch.cat([labels, labels])  # the host-organ map as nnU-Net's previous stage
    found = augmented(stock(cascaded=True), SIZE, SPACING_MM, kind)(image=sample["image"], segmentation=both)
    assert found["image"].shape == (3, *SIZE)
    assert set(found["image"][1:].unique().tolist()) <= {0, 1}
    if kind == "paper":
        assert any(
            "RandomBinaryOperator" in repr(type(t.transform))
            for t in augmented(stock(cascaded=True), SIZE, SPACING_MM, kind).transforms
            if hasattr(t, "transform")
        )


@pytest.mark.parametrize(
    ("patch_size", "spacing_mm", "axes"),
    [
        ((96, 96, 96), (1, 1, 1), {0, 1, 2}),
        ((64, 96, 96), (1, 1, 1), {1, 2}),
        ((96, 96, 96), (5, 0.781, 0.7812), {1, 2}),  # turned out of its slices, an organ would be stretched
        ((96, 96), (0.8, 0.8), {0, 1}),
    ],
)
def test_axes_that_can_be_turned(patch_size, spacing_mm, axes):
    assert equal_axes(patch_size, spacing_mm) == axes


@pytest.mark.parametrize(("patch_size", "spacing_mm"), [((32, 64, 96), (1, 1, 1)), ((32, 64, 64), (1, 1, 2))])
def test_axes_that_cannot(patch_size, spacing_mm):
    with pytest.raises(MASTProError, match=rf"\[32, 64, {patch_size[2]}\] has no two equal sides.*'nnunet'"):
        equal_axes(patch_size, spacing_mm)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["paper", "both"])
def test_patches_that_nnunet_augments_slice_by_slice(kind):
    """Its dummy 2D; slices are turned as they are, and none goes to another place."""
    size, given = (4, 8, 8), (4, 12, 12)
    dummy = nnUNetTrainer.get_training_transforms(size, (-0.5, 0.5), None, None, True, [False], False, None)
    transforms = augmented(dummy, size, (5.0, 1.0, 1.0), kind)
    labels = torch.arange(4, dtype=torch.int16)[None, :, None, None].expand(1, *given).clone()
    for _ in range(10):
        found = transforms(image=torch.randn(1, *given), segmentation=labels.clone())
        assert found["image"].shape == found["segmentation"].shape == (1, *size)
        assert [set(part.unique().tolist()) - {-1} for part in found["segmentation"][0]] == [{0}, {1}, {2}, {3}]


def lost_organs(transforms, trials=60):
    """How often a small organ beside a large one is gone from the masks, and how often it is another."""
    size = (32, 32, 32)
    labels = torch.zeros(1, *size, dtype=torch.int16)
    labels[:, 4:28, 4:16, 4:28] = 1
    labels[:, 12:19, 20:27, 12:19] = 2
    torch.manual_seed(0)
    np.random.seed(0)
    gone = changed = 0
    for _ in range(trials):
        found = transforms(image=torch.zeros(1, *size), segmentation=torch.cat([labels, labels]))
        small = found["image"][2]
        gone += not small.any()
        changed += not torch.equal(small, (labels[0] == 2).to(small.dtype))
    return gone, changed


def test_no_change_of_the_masks_takes_an_organ_away():
    """It would say that the organ is absent, and a tumour in it not to be looked for."""
    stock = nnUNetTrainer.get_training_transforms(
        (32, 32, 32), (0.0, 0.0), None, None, False, [False], is_cascaded=True, foreground_labels=[1, 2]
    )
    gone, _ = lost_organs(stock)
    assert gone > 0  # else nnU-Net has changed, and this is no longer needed
    gone, changed = lost_organs(keeping_organs(stock))
    assert gone == 0
    assert changed > 0  # nnU-Net's changes of the masks stay

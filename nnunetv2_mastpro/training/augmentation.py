"""The paper's augmentation (Sec. 3.1), besides nnU-Net's or instead of it: 90-degree rotations and intensity shifts.

The paper gives no probabilities; these are those of MONAI's SwinUNETR recipe. A shift there is up to a tenth of the
intensity window, which is about 0.4 standard deviations of what nnU-Net's normalisation gives.
"""

from collections.abc import Sequence

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunetv2_mastpro.errors import MASTProError

ROTATION_PROBABILITY, SHIFT_PROBABILITY, LARGEST_SHIFT = 0.1, 0.5, 0.4


def equal_axes(patch_size: Sequence[int], spacing_mm: Sequence[float]) -> set[int]:
    """Axes of the most frequent length and spacing: a patch turned by 90 degrees in them keeps its shape and grid.

    Raises MASTProError where no two sides are equal in both.
    """
    sides = [(size, round(float(mm), 2)) for size, mm in zip(patch_size, spacing_mm, strict=True)]
    common = max(sides, key=sides.count)
    axes = {axis for axis, side in enumerate(sides) if side == common}
    if len(axes) < 2:
        raise MASTProError(
            f"patch_size {[*patch_size]} has no two equal sides of one spacing ({[mm for _, mm in sides]} mm), so a "
            "patch cannot be rotated by 90 degrees; change it, or give mastpro.training.augmentation 'nnunet' in the "
            "plans"
        )
    return axes


def augmented(
    stock: ComposeTransforms, patch_size: Sequence[int], spacing_mm: Sequence[float], kind: str
) -> ComposeTransforms:
    """nnU-Net's training transforms with the paper's after the cropping; `kind` "paper" drops nnU-Net's random ones.

    What conditions the network on organ masks, and what prepares the target, stays.
    """
    cropping = next(n for n, entry in enumerate(stock.transforms) if isinstance(entry, SpatialTransform))
    slices = [n for n, entry in enumerate(stock.transforms) if isinstance(entry, Convert2DTo3DTransform)]
    place = 1 + max([cropping, *slices])  # with nnU-Net's dummy 2D, what is cropped are stacks of slices
    before, after = list(stock.transforms[:place]), list(stock.transforms[place:])
    if kind == "paper":
        before[cropping].p_rotation = before[cropping].p_scaling = 0
        masks = next((n for n, e in enumerate(after) if isinstance(e, MoveSegAsOneHotToDataTransform)), len(after))
        after = [entry for entry in after[:masks] if not _is_random(entry)] + after[masks:]
    shift = BrightnessAdditiveTransform(-LARGEST_SHIFT, LARGEST_SHIFT)  # its two limits, in spite of their names
    own = [
        RandomTransform(Rot90Transform(1, allowed_axes=equal_axes(patch_size, spacing_mm)), ROTATION_PROBABILITY),
        RandomTransform(shift, SHIFT_PROBABILITY),
    ]
    return ComposeTransforms([*before, *own, *after])


class KeepOrgans(BasicTransform):
    """nnU-Net's random changes of a previous stage's masks, of which none takes an organ away altogether.

    An organ that is missing beside others counts as absent, and its tumours, which may be there, as not to be found.
    """

    def __init__(self, transforms: Sequence[BasicTransform], channels: int):
        super().__init__()
        self.changes, self.channels = ComposeTransforms([*transforms]), channels

    def apply(self, data_dict: dict, **params) -> dict:
        """The last channels of "image" (C, spatial) are the masks of the host organs."""
        before = data_dict["image"][-self.channels :].clone()
        data_dict = self.changes(**data_dict)
        masks = data_dict["image"][-self.channels :]
        lost = before.flatten(1).any(1) & ~masks.flatten(1).any(1)
        masks[lost] = before[lost]
        return data_dict


def keeping_organs(stock: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's training transforms, in which no change of the masks loses a host organ."""
    place = next(n for n, entry in enumerate(stock.transforms) if isinstance(entry, MoveSegAsOneHotToDataTransform))
    changes, after = [], list(stock.transforms[place + 1 :])
    while after and isinstance(after[0], RandomTransform):
        changes.append(after.pop(0))
    kept = KeepOrgans(changes, len(stock.transforms[place].all_labels))
    return ComposeTransforms([*stock.transforms[: place + 1], kept, *after])


def _is_random(transform: BasicTransform) -> bool:
    """Whether it is one of nnU-Net's image transforms, or its mirroring."""
    inner = transform.transform if isinstance(transform, RandomTransform) else transform
    return isinstance(inner, MirrorTransform) or (inner is not transform and isinstance(inner, ImageOnlyTransform))

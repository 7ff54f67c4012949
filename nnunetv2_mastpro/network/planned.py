"""What the plans say of the network: which backbone, and whether it can take the planned patch. No torch.

U-Nets are those of dynamic-network-architectures, as nnU-Net plans them; SwinUNETR comes from the plugin's own plans.
"""

from collections.abc import Mapping, Sequence
from math import prod

SWIN_UNETR = "nnunetv2_mastpro.network.swin.PlannedSwinUNETR"
SWIN_STEP, SWIN_SMALLEST = 32, 64  # at 32 the bottleneck is one voxel, which instance normalisation refuses
SWIN_FEATURES, SWIN_DEPTHS = 24, (2, 2, 2, 2)  # MONAI's defaults: feature size, blocks per stage


def is_swin(configuration: Mapping) -> bool:
    """Whether a configuration of the plans has SwinUNETR as its network."""
    return configuration.get("architecture", {}).get("network_class_name") == SWIN_UNETR


def refuse(configuration: Mapping) -> str | None:
    """Why the configuration's network cannot be trained on its patch, or None if it can."""
    kwargs = configuration.get("architecture", {}).get("arch_kwargs", {})
    if is_swin(configuration):
        return refuse_swin(configuration["patch_size"], configuration.get("spacing"), kwargs)
    return refuse_patch(configuration["patch_size"], kwargs["strides"]) if "strides" in kwargs else None


def refuse_swin(patch_size: Sequence[int], spacing_mm: Sequence[float] | None, kwargs: Mapping) -> str | None:
    """The same for SwinUNETR: 3D, isotropic, sides that are multiples of 32 from 64 on."""
    if len(patch_size) != 3:
        return f"SwinUNETR is three-dimensional here, but patch_size {list(patch_size)} is 2D; use 3d_fullres"
    if spacing_mm is not None and max(spacing_mm) > 1.01 * min(spacing_mm):
        return (
            f"SwinUNETR halves all axes alike, but the spacing {[round(float(s), 3) for s in spacing_mm]} mm is "
            "anisotropic; give an isotropic one, as mastpro plan --overlay swinunetr does"
        )
    wrong = [size for size in patch_size if size % SWIN_STEP or size < SWIN_SMALLEST]
    if wrong:
        return (
            f"patch_size {list(patch_size)} has a side of {wrong[0]}, but SwinUNETR wants multiples of {SWIN_STEP} "
            f"that are at least {SWIN_SMALLEST}"
        )
    if kwargs.get("feature_size", SWIN_FEATURES) % 12:
        return f"feature_size {kwargs['feature_size']} of SwinUNETR is not a multiple of 12"
    return None


def refuse_patch(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> str | None:
    """The same for a U-Net of these strides."""
    if any(len(stride) != len(patch_size) for stride in strides):
        return f"patch_size {list(patch_size)} and strides {strides} differ in their number of axes; give one each"
    factors = [prod(axis) for axis in zip(*strides, strict=True)]
    uneven = [axis for axis, (size, factor) in enumerate(zip(patch_size, factors, strict=True)) if size % factor]
    if uneven:
        return (
            f"patch_size {list(patch_size)} is not divisible by the network's total strides {factors} "
            f"in axis {uneven[0]}; make it a multiple of them"
        )
    if prod(size // factor for size, factor in zip(patch_size, factors, strict=True)) == 1:
        return (
            f"patch_size {list(patch_size)} leaves one voxel at the bottleneck (total strides {factors}), which "
            "instance normalisation refuses; double one axis of the patch"
        )
    return None

"""The networks that nnU-Net plans, split so that features can be adapted between their stages."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

Adapt = Callable[[str, Tensor], Tensor]


class UNetBackbone(nn.Module):
    """PlainConvUNet or ResidualEncoderUNet, 2D or 3D, without its segmentation layers.

    Its parameters keep the planned network's names. `adapt(site, features)` is called on every stage's output;
    sites are "encoder_0" (full resolution) ... and "decoder_0" (coarsest) ...
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        missing = [
            name for name in ("encoder.stages", "decoder.stages", "decoder.transpconvs") if not _has(network, name)
        ]
        if missing:
            raise TypeError(
                f"{type(network).__name__} has no {', '.join(missing)}; "
                "MAST-Pro adapts PlainConvUNet and ResidualEncoderUNet plans"
            )
        self.encoder, self.decoder = network.encoder, network.decoder
        self.decoder.seg_layers = nn.ModuleList()  # the head is generated

    @property
    def axes(self) -> int:
        """2 or 3."""
        return {nn.Conv2d: 2, nn.Conv3d: 3}[self.encoder.conv_op]

    @property
    def encoder_dims(self) -> list[int]:
        """Channels per encoder stage, full resolution first."""
        return list(self.encoder.output_channels)

    @property
    def decoder_dims(self) -> list[int]:
        """Channels per decoder stage, coarsest first."""
        return self.encoder_dims[-2::-1]

    def encode(self, image: Tensor, adapt: Adapt) -> list[Tensor]:
        """image (B, C, spatial) -> features per stage, full resolution first, bottleneck last."""
        stem = getattr(self.encoder, "stem", None)
        features = image if stem is None else stem(image)
        skips = []
        for index, stage in enumerate(self.encoder.stages):
            features = adapt(f"encoder_{index}", stage(features))
            skips.append(features)
        return skips

    def decode(self, skips: list[Tensor], adapt: Adapt) -> list[Tensor]:
        """What `encode` gave -> features per decoder stage, coarsest first."""
        features, decoded = skips[-1], []
        for index, (upsample, stage) in enumerate(zip(self.decoder.transpconvs, self.decoder.stages, strict=True)):
            joined = torch.cat((upsample(features), skips[-2 - index]), 1)
            features = adapt(f"decoder_{index}", stage(joined))
            decoded.append(features)
        return decoded


def refuse_patch(patch_size: list[int], strides: list[list[int]]) -> str | None:
    """Why a U-Net of these strides cannot be trained on the patch, or None if it can."""
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


def _has(network: nn.Module, path: str) -> bool:
    for name in path.split("."):
        network = getattr(network, name, None)
    return network is not None

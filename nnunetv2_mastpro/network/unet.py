"""The networks that nnU-Net plans, split so that features can be adapted between their stages."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nnunetv2_mastpro.network.inject import choose_sites

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
                "MAST-Pro adapts PlainConvUNet, ResidualEncoderUNet and its own plans' SwinUNETR"
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

    @property
    def bottleneck_dim(self) -> int:
        """Channels that the prompts meet."""
        return self.encoder_dims[-1]

    @property
    def supervised_dims(self) -> list[int]:
        """Channels of the stages that the loss sees, full resolution first; never the coarsest of several."""
        return self.decoder_dims[::-1][: max(1, len(self.decoder_dims) - 1)]

    def sites(self, encoder_stages, decoder_stages) -> dict[str, int]:
        """Site -> channels."""
        return choose_sites(self.encoder_dims, self.decoder_dims, encoder_stages, decoder_stages)

    def updatable(self) -> dict[str, nn.Parameter]:
        """What low-rank updates may change, by name: all of it."""
        return dict(self.named_parameters())

    def forward(self, way: str, *inputs) -> list[Tensor]:
        """`way`: "encode" or "decode", with their inputs; functional_call goes through forward."""
        return getattr(self, way)(*inputs)

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


def _has(network: nn.Module, path: str) -> bool:
    for name in path.split("."):
        network = getattr(network, name, None)
    return network is not None

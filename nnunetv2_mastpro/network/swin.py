"""MONAI's SwinUNETR as plans name it, and the same network with features adapted after every Swin block.

B batch, C channels, F feature size, W windows, H heads, N voxels of a window.
"""

import warnings

import torch.nn.functional as F
from torch import Tensor, nn

with warnings.catch_warnings():  # MONAI asks torch for interfaces that are about to go
    warnings.simplefilter("ignore", FutureWarning)
    from monai.networks.nets import SwinUNETR
    from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, compute_mask, get_window_size

from nnunetv2_mastpro.network.inject import choose_swin_sites
from nnunetv2_mastpro.network.unet import Adapt


class FusedWindowAttention(WindowAttention):
    """MONAI's window attention by torch's fused kernel, which keeps no (W, H, N, N) weights for the way back."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B W, N, C), mask (W, N, N) or None: what separates the regions of a shifted window."""
        count, voxels, channels = x.shape
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B W, H, N, C / H) each
        index = self.relative_position_index[:voxels, :voxels]
        bias = self.relative_position_bias_table[index].permute(2, 0, 1).unsqueeze(0)  # (1, H, N, N)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).repeat(count // len(mask), 1, 1, 1)  # (B W, H, N, N)
        dropout = self.attn_drop.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
        return self.proj_drop(self.proj(attended.transpose(1, 2).reshape(count, voxels, channels)))


class PlannedSwinUNETR(SwinUNETR):
    """MONAI's SwinUNETR with nnU-Net's names for the arguments that nnU-Net gives. Other values are MONAI's.

    `fused_attention`: torch's kernel instead of MONAI's three products; equal up to rounding.
    Raises ValueError where deep supervision is asked for, which SwinUNETR does not have.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        fused_attention: bool = True,
        **swin_kwargs,
    ):
        if deep_supervision:
            raise ValueError("SwinUNETR has no deep supervision; train it with a trainer that leaves it out")
        super().__init__(in_channels=input_channels, out_channels=num_classes, **swin_kwargs)
        if fused_attention:
            for module in self.modules():
                if type(module) is WindowAttention:
                    module.__class__ = FusedWindowAttention  # the parameters and their names stay as they are


class SwinBackbone(nn.Module):
    """SwinUNETR without its last layer; its parameters keep MONAI's names.

    `adapt(site, features)` is called on what every Swin block gives, "swin_0_0" ... "swin_3_1", and on every decoder
    block, "decoder_0" (coarsest) ... "decoder_4" (full resolution).
    """

    axes = 3

    def __init__(self, network: SwinUNETR):
        super().__init__()
        self.feature_size = network.out.conv.conv.in_channels
        self.normalize = network.normalize
        self.swinViT = network.swinViT
        for name, part in network.named_children():
            if name not in ("swinViT", "out"):
                setattr(self, name, part)

    @property
    def bottleneck_dim(self) -> int:
        """Channels that the prompts meet."""
        return 16 * self.feature_size

    @property
    def supervised_dims(self) -> list[int]:
        """Channels of the stages that the loss sees: full resolution alone."""
        return [self.feature_size]

    def sites(self, encoder_stages, decoder_stages) -> dict[str, int]:
        """Site -> channels."""
        depths = [len(stage.blocks) for stage in self.stages()]
        return choose_swin_sites(self.feature_size, depths, encoder_stages, decoder_stages)

    def stages(self) -> list[BasicLayer]:
        """Of the Swin transformer, in order."""
        vit = self.swinViT
        return [vit.layers1[0], vit.layers2[0], vit.layers3[0], vit.layers4[0]]

    def updatable(self) -> dict[str, nn.Parameter]:
        """What low-rank updates may change, by name: the convolutions. Swin blocks have experts after each of them, and
        checkpointing computes them again when the weights are as they were.
        """
        return {name: weight for name, weight in self.named_parameters() if not name.startswith("swinViT.")}

    def forward(self, way: str, *inputs) -> list[Tensor]:
        """`way`: "encode" or "decode", with their inputs; functional_call goes through forward."""
        return getattr(self, way)(*inputs)

    def encode(self, image: Tensor, adapt: Adapt) -> list[Tensor]:
        """image (B, channels, spatial) -> features by resolution, full first, bottleneck last."""
        vit = self.swinViT
        before = [vit.layers1c, vit.layers2c, vit.layers3c, vit.layers4c] if vit.use_v2 else None
        features = vit.pos_drop(vit.patch_embed(image))
        hidden = [vit.proj_out(features, self.normalize)]
        for index, stage in enumerate(self.stages()):
            if before is not None:
                features = before[index][0](features.contiguous())
            features = run_stage(stage, features.contiguous(), f"swin_{index}", adapt)
            hidden.append(vit.proj_out(features, self.normalize))
        return [
            self.encoder1(image),
            self.encoder2(hidden[0]),
            self.encoder3(hidden[1]),
            self.encoder4(hidden[2]),
            hidden[3],
            self.encoder10(hidden[4]),
        ]

    def decode(self, skips: list[Tensor], adapt: Adapt) -> list[Tensor]:
        """What `encode` gave -> features per decoder block, coarsest first."""
        features, decoded = skips[-1], []
        blocks = (self.decoder5, self.decoder4, self.decoder3, self.decoder2, self.decoder1)
        for index, (block, skip) in enumerate(zip(blocks, skips[-2::-1], strict=True)):
            features = adapt(f"decoder_{index}", block(features, skip))
            decoded.append(features)
        return decoded


def run_stage(stage: BasicLayer, features: Tensor, site: str, adapt: Adapt) -> Tensor:
    """A stage of MONAI's Swin transformer, features (B, C, spatial), with `adapt` after every block."""
    shape = features.shape[2:]
    window, shift = get_window_size(shape, stage.window_size, stage.shift_size)
    padded = [-(-size // side) * side for size, side in zip(shape, window, strict=True)]
    mask = compute_mask(padded, window, shift, features.device)
    tokens = features.movedim(1, -1)  # (B, spatial, C)
    for index, block in enumerate(stage.blocks):
        tokens = block(tokens, mask)
        tokens = adapt(f"{site}_{index}", tokens.movedim(-1, 1)).movedim(1, -1)
    if stage.downsample is not None:
        tokens = stage.downsample(tokens)
    return tokens.movedim(-1, 1)

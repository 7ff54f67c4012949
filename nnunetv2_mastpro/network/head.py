"""Mask proposal: a segmentation kernel per class, generated from its prompt, Eq. 8.

B batch, T classes (background first where there is one), D text width, C decoder channels, K = C + 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Kernels(NamedTuple):
    """theta^t as used: per supervised stage (B, T, C_s + 1), full resolution first; presence logits (B, T)."""

    stages: list[Tensor]
    presence: Tensor


class MaskProposal(nn.Module):
    """theta^t = MLP([GAP(F_attn); E_txt^t]), Eq. 8: kernel and bias over the full-resolution decoder channels.

    Each coarser supervised stage gets its kernel by a linear map of theta; so does the presence logit of the
    class (category supervision). `decoder_dims`: channels per supervised stage, full resolution first.
    """

    generated = True  # reads prompts, the background's too

    def __init__(self, *, image_dim: int, text_dim: int, decoder_dims: list[int], hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(image_dim + text_dim, hidden), nn.GELU(), nn.Linear(hidden, decoder_dims[0] + 1)
        )
        self.coarser = nn.ModuleList([nn.Linear(decoder_dims[0] + 1, dim + 1) for dim in decoder_dims[1:]])
        self.presence = nn.Linear(decoder_dims[0] + 1, 1)

    def forward(self, attended: Tensor, text: Tensor) -> Kernels:
        """attended: F_attn (B, image_dim, spatial), text (T, D)."""
        pooled = attended.mean(tuple(range(2, attended.ndim)))  # GAP, (B, image_dim)
        pairs = torch.cat([pooled[:, None].expand(-1, len(text), -1), text.expand(len(pooled), -1, -1)], 2)
        theta = self.mlp(pairs)  # (B, T, K)
        return Kernels([theta, *[to_stage(theta) for to_stage in self.coarser]], self.presence(theta)[..., 0])


class FixedHead(nn.Module):
    """In place of MaskProposal where no prompt is left: the planned network's own output layers, 1 x 1 convolutions.

    `layers`: per supervised stage, full resolution first. Such kernels say nothing of a patch, so the presence logit is
    one number per class, and category supervision reaches nothing else.
    """

    generated = False

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.presence = nn.Parameter(torch.zeros(layers[0].out_channels))

    def forward(self, attended: Tensor, text: Tensor | None) -> Kernels:
        """attended: (B, image_dim, spatial), of which the number of samples alone is read."""
        kernels = [torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1) for layer in self.layers]
        samples = len(attended)
        return Kernels([each.expand(samples, -1, -1) for each in kernels], self.presence.expand(samples, -1))


def apply_kernel(features: Tensor, kernel: Tensor) -> Tensor:
    """F_final = F_dec theta^t, Eq. 8: features (B, C, spatial), kernel (B, T, C + 1) -> logits (B, T, spatial)."""
    weight, bias = kernel[..., :-1], kernel[..., -1:]
    return torch.baddbmm(bias, weight, features.flatten(2)).unflatten(2, features.shape[2:])

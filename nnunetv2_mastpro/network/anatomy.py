"""Anatomical prompts: from the host organs' masks to one token per class, Eq. 2.

B batch, L channels of the host-organ map, T classes, A attention width, H heads, N bottleneck voxels.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

GUIDANCE = 4.0  # at the start a voxel outside the host weighs e^-4 times as much as one inside


class AnatomyPrompts(NamedTuple):
    """What the fusion takes: E_a^t (B, T, A), and a term for the attention's logits (B, H, T, N)."""

    tokens: Tensor
    guidance: Tensor


class HostTable(nn.Module):
    """`table` (T, L) of {0, 1}: which channels of a host-organ map host which class; `added`: those added later.

    `classes`, where it is given, are the classes that take part; T is then their number. Channels that host neither one
    of them nor one that the model always had count as empty: maps of before a type was added lack its hosts.
    """

    def __init__(self, table: Tensor, added: Sequence[int] = ()):
        super().__init__()
        self.added = tuple(added)
        self.register_buffer("table", table.float(), persistent=False)

    def hosted_by(self, classes: Sequence[int] | None) -> Tensor:
        """The rows (T, L) of the table."""
        return self.table if classes is None else self.table[classes]

    def find(self, organs: Tensor, classes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """organs (B, L, spatial) -> is the class's host in the patch (B, T), and is that known at all (B, T)."""
        table = self.hosted_by(classes)
        other = [
            index for index in range(len(self.table)) if index not in self.added or index in (classes or self.added)
        ]
        filled = (organs > 0).flatten(2).any(2) & (self.table[other].sum(0) > 0)  # (B, L)
        present = filled.to(table.dtype) @ table.T > 0
        return present, filled.any(1, keepdim=True) & (table.sum(1) > 0)


class UnreadAnatomy(HostTable):
    """In place of AnatomyEncoder where organ masks are not to be used: the network is as if no organ were known.

    The maps still tell which patches are skipped, if that is asked for.
    """

    def drop(self, organs: Tensor) -> Tensor:
        """organs (B, L, spatial) -> empty channels, in evaluation too."""
        return torch.zeros_like(organs)

    def forward(self, organs: Tensor, grid: torch.Size, classes: Sequence[int] | None = None) -> None:
        """No prompt."""


class SmallEncoder(nn.Sequential):
    """Two convolutions on a mask and its coordinates, trained with the rest."""

    def __init__(self, *, axes: int, features: int):
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
        super().__init__(
            conv(1 + axes, features, 3, stride=2, padding=1),
            nn.GELU(),
            conv(features, 2 * features, 3, padding=1),
            nn.GELU(),
        )
        self.width = 2 * features

    def forward(self, hosts: Tensor, occupied: Tensor) -> Tensor:
        """hosts (B, T, spatial) of {0, 1}, occupied: their share of voxels twice as fine as the bottleneck's, of which
        this encoder is made -> (B T, width).
        """
        axes = [torch.linspace(-1, 1, size, device=hosts.device) for size in occupied.shape[2:]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        masks = occupied.flatten(0, 1).unsqueeze(1)  # (B T, 1, ...)
        return super().forward(torch.cat([masks, masks * places], 1)).flatten(2).mean(2)  # GAP


class FrozenSwin(nn.Module):
    """A Swin transformer, pretrained on images and never trained here, that sees a mask at half resolution.

    `swin`: that of the SwinUNETR backbone, copied with one input channel. Its weights come from the file that
    `mastpro weights` is given; `pretrained`, in the checkpoint, tells that they came.
    """

    def __init__(self, *, swin: nn.Module, normalize: bool, width: int):
        super().__init__()
        self.swin, self.normalize, self.width = copy.deepcopy(swin), normalize, width
        proj = swin.patch_embed.proj
        self.swin.patch_embed.proj = nn.Conv3d(1, proj.out_channels, proj.kernel_size, proj.stride)
        self.register_buffer("pretrained", torch.tensor(False))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenSwin":
        """As nn.Module; always in evaluation, so that nothing is dropped at random."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, hosts: Tensor, occupied: Tensor) -> Tensor:
        """hosts (B, T, spatial) of {0, 1}; `occupied` is for SmallEncoder -> (B T, width)."""
        masks = nn.functional.avg_pool3d(hosts, 2).flatten(0, 1).unsqueeze(1)
        return self.swin(masks, self.normalize)[-1].flatten(2).mean(2)  # GAP


class AnatomyEncoder(HostTable):
    """E_a^t, Eq. 2, from the one-hot channels that nnU-Net makes of a host-organ map.

    `encode`: SmallEncoder, or FrozenSwin, the paper's kind. A class without a host, and every class of a sample whose
    channels are all empty, gets a learned "unknown" token; an empty host beside others is told as absent. In training a
    sample's channels are all emptied with probability `dropout`. No parameter depends on L or T.
    """

    def __init__(
        self, *, table: Tensor, encode: nn.Module, dim: int, heads: int, dropout: float, added: Sequence[int] = ()
    ):
        super().__init__(table, added)
        self.dropout = dropout
        self.encode = encode
        self.project = nn.Linear(encode.width, dim)
        self.unknown = nn.Parameter(torch.randn(dim))
        self.strength = nn.Parameter(torch.full((heads,), GUIDANCE))

    def drop(self, organs: Tensor) -> Tensor:
        """Whole-anatomy dropout in training: organs (B, L, spatial) of some samples become empty."""
        if not self.training or self.dropout == 0:
            return organs
        kept = torch.rand(len(organs), device=organs.device) >= self.dropout
        return organs * kept.view(-1, *[1] * (organs.ndim - 1)).to(organs.dtype)

    def forward(self, organs: Tensor, grid: torch.Size, classes: Sequence[int] | None = None) -> AnatomyPrompts:
        """organs (B, L, spatial), grid: the bottleneck's spatial shape."""
        _, known = self.find(organs, classes)
        resize = {2: nn.functional.adaptive_avg_pool2d, 3: nn.functional.adaptive_avg_pool3d}[len(grid)]
        # sums of {0, 1} are exact, so that neither more channels nor other values of the maps change what is pooled
        hosts = torch.einsum("bl...,tl->bt...", organs.to(self.table.dtype), self.hosted_by(classes)).clamp(max=1)
        hosts = hosts.to(self.table.dtype)
        occupied = resize(hosts, [2 * size for size in grid])  # (B, T, ...), share of a voxel
        tokens = self.project(self.encode(hosts, occupied)).unflatten(0, occupied.shape[:2])  # (B, T, A)
        tokens = torch.where(known.unsqueeze(2), tokens, self.unknown.to(tokens.dtype))
        outside = (1 - resize(occupied, grid).flatten(2)) * known.unsqueeze(2)  # (B, T, N)
        return AnatomyPrompts(tokens, -self.strength.view(1, -1, 1, 1) * outside.unsqueeze(1))

"""What a type that is added to a trained network adds to its features, beside its place in the routers.

B batch, C channels, A added types that are looked for, r rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_mastpro.network.experts import add_experts, identity_filters

KERNEL = 3  # side of the filters


class AddedExperts(nn.Module):
    """y = x + sum_t m_t E_t(x): one expert per added type, outside the routers, m_t whether the type is selected.

    The network that a type is added to is frozen, and its full-resolution features need not hold what tells the new
    type apart. So these experts sit at every stage, full resolution too, and their maps are filtered, so that they see
    around a voxel. The way up starts at zero. A type that is not in `types` is not computed.
    """

    def __init__(self, *, dim: int, rank: int, count: int, axes: int):
        super().__init__()
        self.down = nn.ParameterList([torch.randn(rank, dim) * dim**-0.5 for _ in range(count)])
        self.up = nn.ParameterList([torch.zeros(dim, rank) for _ in range(count)])
        self.filters = nn.ParameterList([identity_filters(1, rank, KERNEL, axes)[0] for _ in range(count)])

    def forward(self, x: Tensor, selected: Tensor, types: Sequence[int]) -> Tensor:
        """x (B, C, spatial), selected (B, A) of {0, 1}, types: which the A are -> adapted x."""
        if not len(types):
            return x
        factors = tuple(torch.stack([part[t] for t in types]) for part in (self.down, self.up, self.filters))
        return add_experts(x, selected.unsqueeze(2).to(x.dtype), factors)

    def own_parameters(self, index: int) -> list[nn.Parameter]:
        """Of added type `index`."""
        return [self.down[index], self.up[index], self.filters[index]]

"""How often each expert is chosen in training, per adapted stage and tumour type in the patch.

B batch, T tumour types, E experts of a stage (generic first, then type by type).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_mastpro.network.experts import DMoE
from nnunetv2_mastpro.network.mastpro import MASTProNet

ALL = "all"  # patches


class ExpertUsage:
    """Shares of an epoch. `types`: labels of the tumour types, in the network's order.

    `sums` are of this process's patches; add those of others for theirs.
    """

    def __init__(self, network: MASTProNet, types: Sequence[str]):
        self.experts, self.types = dict(network.experts.items()), tuple(types)
        self.sizes = [moe.num_experts for moe in self.experts.values()]
        self.sums = torch.zeros(1 + len(self.types), 1 + sum(self.sizes))  # patches, then shares, all sites' experts

    def add(self, present: Tensor) -> None:
        """Count the last training step: present (B, T), which tumour types each patch is known to hold."""
        with torch.no_grad():
            rows = torch.cat([present.new_ones(len(present), 1), present], 1).float()  # (B, 1 + T)
            shares = torch.cat([rows[:, :1], *(moe.kept for moe in self.experts.values())], 1)
            self.sums = self.sums.to(rows.device) + rows.T @ shares

    def report(self) -> dict:
        """patches: type -> number; kept: site -> type -> owner ("generic" or a type) -> share of positions by expert.

        A type that was in no patch is left out.
        """
        number, *kept = self.sums.cpu().split([1, *self.sizes], 1)
        patches = dict(zip((ALL, *self.types), number[:, 0].tolist(), strict=True))
        shares = {site: (each / number.clamp(min=1)).tolist() for site, each in zip(self.experts, kept, strict=True)}
        return {
            "patches": {name: int(number) for name, number in patches.items()},
            "kept": {
                site: {
                    name: _by_owner(self.experts[site], row, self.types)
                    for (name, number), row in zip(patches.items(), rows, strict=True)
                    if number
                }
                for site, rows in shares.items()
            },
        }


def _by_owner(moe: DMoE, row: list[float], types: Sequence[str]) -> dict[str, list[float]]:
    shares = [round(share, 6) for share in row]
    owners = {"generic": shares[: moe.num_generic]}
    for index, name in enumerate(types[: moe.num_tasks]):
        start = moe.num_generic + index * moe.num_specific
        owners[name] = shares[start : start + moe.num_specific]
    return owners

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
    """Shares of an epoch, of this process's patches. `types`: labels of the tumour types, in the network's order."""

    def __init__(self, network: MASTProNet, types: Sequence[str]):
        self.experts, self.types = dict(network.experts.items()), tuple(types)
        self.patches = torch.zeros(1 + len(self.types))
        self.kept = {site: torch.zeros(1 + len(self.types), moe.kept.shape[1]) for site, moe in self.experts.items()}

    def add(self, present: Tensor) -> None:
        """Count the last training step: present (B, T), which tumour types each patch is known to hold."""
        with torch.no_grad():
            rows = torch.cat([present.new_ones(len(present), 1), present], 1).float()  # (B, 1 + T)
            self.patches = self.patches.to(rows.device) + rows.sum(0)
            for site, moe in self.experts.items():
                positions = moe.kept[:, : moe.num_generic].sum(1, keepdim=True) / moe.top_k_generic
                self.kept[site] = self.kept[site].to(rows.device) + rows.T @ (moe.kept / positions)

    def report(self) -> dict:
        """patches: type -> number; kept: site -> type -> owner ("generic" or a type) -> share of positions by expert.

        A type that was in no patch is left out.
        """
        patches = dict(zip((ALL, *self.types), self.patches.tolist(), strict=True))
        shares = {site: (kept / self.patches.clamp(min=1)[:, None]).tolist() for site, kept in self.kept.items()}
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

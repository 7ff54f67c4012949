"""D-MoE: routers and low-rank experts, Eq. 3-5.

B batch, C channels, N voxels, T tumour types, E experts (generic first, then type by type), r rank.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def keep_top_k(logits: Tensor, allowed: Tensor, k: int, dim: int = 1) -> Tensor:
    """KeepTop-k, Eq. 5: logits outside the k largest allowed ones become the dtype's minimum.

    logits, allowed: same shape, experts along `dim`. With fewer than k allowed, all allowed ones stay.
    """
    lowest = torch.finfo(logits.dtype).min
    masked = logits.masked_fill(~allowed, lowest)
    kept = torch.zeros_like(allowed).scatter(dim, masked.topk(k, dim).indices, True)
    return masked.masked_fill(~kept, lowest)


def load_balance(choices: Tensor) -> Tensor:
    """Mean over sites and groups of n sum_e f_e P_e, n the experts that are allowed; 1 where usage is uniform.

    choices (..., 3, G, E), as a DMoE gives them -> scalar. Several processes that average the first two of the three,
    which have no gradient, get on average what one process gets of all samples.
    """
    chosen, allowed, probability = choices.unbind(-3)
    terms = (allowed > 0).sum(-1) * (chosen * probability).sum(-1)
    return terms.mean() if terms.numel() else terms.sum()


def add_experts(x: Tensor, gates: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
    """x + sum_e g_e E_e(x), every expert computed: two matrix products over the concatenated factors.

    x (B, C, spatial), gates (B, E, N) or (B, E, 1); factors: down (E, r, C), up (E, C, r).
    """
    down, up = factors
    rank = down.shape[1]
    down, up = down.flatten(0, 1), up.transpose(0, 1).flatten(1)  # (E r, C), (C, E r)
    down, up = (factor.expand(len(x), -1, -1) for factor in (down, up))  # else matmul copies the whole map
    hidden = F.gelu(down @ x.flatten(2))  # (B, E r, N)
    hidden = hidden.unflatten(1, (-1, rank)) * gates.unsqueeze(2)
    return x + (up @ hidden.flatten(1, 2)).view_as(x)


class Router(nn.Module):
    """R^g and R^t, Eq. 4: logits of every expert from the features.

    `joint` gives each type's router rows for the generic experts too; they are averaged over the allowed types
    and added to the generic logits.
    """

    def __init__(self, *, dim: int, num_generic: int, num_specific: int, num_tasks: int, joint: bool):
        super().__init__()
        self.num_generic, self.joint = num_generic, joint and num_tasks > 0
        rows = num_specific + (num_generic if joint else 0)
        self.generic = nn.Parameter(torch.randn(num_generic, dim) * dim**-0.5)
        self.specific = nn.ParameterList([torch.randn(rows, dim) * dim**-0.5 for _ in range(num_tasks)])

    def forward(self, features: Tensor, task_mask: Tensor, types: Sequence[int] | None = None) -> Tensor:
        """features (B, C, ...), task_mask (B, T) of {0, 1} -> logits (B, E, ...); `types` as DMoE has them."""
        types = range(len(self.specific)) if types is None else types
        weight = torch.cat([self.generic, *(self.specific[index] for index in types)])  # W of Eq. 4
        with torch.autocast(features.device.type, enabled=False):  # half precision would turn close choices
            logits = torch.einsum("bc...,ec->be...", features.to(weight.dtype), weight)
            return self.share(logits, task_mask, len(types)) if self.joint and len(types) else logits

    def share(self, logits: Tensor, task_mask: Tensor, num_types: int) -> Tensor:
        """The types' logits for the generic experts averaged over the allowed types and added to R^g's."""
        generic, specific = logits.split([self.num_generic, logits.shape[1] - self.num_generic], 1)
        per_type = specific.unflatten(1, (num_types, -1))  # (B, T, Eg + k1, ...)
        weights = task_mask / task_mask.sum(1, keepdim=True).clamp(min=1)
        shared = torch.einsum("bte...,bt->be...", per_type[:, :, : self.num_generic], weights.to(logits.dtype))
        return torch.cat([generic + shared, per_type[:, :, self.num_generic :].flatten(1, 2)], 1)


class DMoE(nn.Module):
    """Mixture of low-rank experts on a feature map: y = x + sum_i g_i E_i(x), Eq. 3.

    E_i goes down to `rank`, through GELU, and up to C. The way up starts at zero, so the module starts as the
    identity. `num_generic` experts are shared; each of `num_tasks` tumour types owns `num_specific` as Parameters of
    its own. `routing`: "token" gates each voxel, "sample" gates a whole sample by its mean features and then computes
    only the chosen experts. With `types` only these tumour types' parameters are gathered, and T is their number:
    another type takes no part in any sum.

    In training mode a forward pass also returns the choices that load balance is computed of, and leaves in `kept`
    (B, E) the share of voxels (sample routing: 0 or 1) at which each expert was kept.
    """

    def __init__(
        self,
        *,
        dim: int,
        rank: int,
        num_generic: int,
        num_specific: int,
        num_tasks: int,
        top_k_generic: int,
        top_k_specific: int,
        routing: str = "sample",
        joint_router: bool = False,
    ):
        super().__init__()
        num_specific = num_specific if num_tasks else 0
        num_tasks = num_tasks if num_specific else 0
        self.routing = routing
        self.num_generic, self.num_specific, self.num_tasks = num_generic, num_specific, num_tasks
        self.top_k_generic, self.top_k_specific = top_k_generic, min(top_k_specific, num_specific * num_tasks)
        self.router = Router(
            dim=dim, num_generic=num_generic, num_specific=num_specific, num_tasks=num_tasks, joint=joint_router
        )
        owners = [num_generic] + [num_specific] * num_tasks
        self.down = nn.ParameterList([torch.randn(n, rank, dim) * dim**-0.5 for n in owners])
        self.up = nn.ParameterList([torch.zeros(n, dim, rank) for n in owners])
        self.num_experts = sum(owners)
        self.kept = torch.zeros(0, self.num_experts)  # no buffer: DDP would send the first process's to the others

    def forward(self, x: Tensor, task_mask: Tensor, types: Sequence[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """x (B, C, spatial), task_mask (B, T) of {0, 1} -> adapted x, choices (3, groups, E) in training."""
        types = range(self.num_tasks) if types is None or not self.num_tasks else types
        seen = x.mean(tuple(range(2, x.ndim)), keepdim=True) if self.routing == "sample" else x
        allowed = self.allowed(task_mask)
        logits = self.router(seen, task_mask, types)
        gates = self.gate(logits, allowed)
        choices = self.choices(logits, gates, allowed) if self.training else None
        if self.training:
            with torch.no_grad():
                self.kept = self.among_all((gates > 0).flatten(2).float().mean(2), types)
        mix = self.mix_chosen if self.routing == "sample" else self.mix_all
        return mix(x, gates.to(x.dtype), types), choices

    def among_all(self, shares: Tensor, types: Sequence[int]) -> Tensor:
        """(B, E) of the generic experts and those of the types -> of all experts, 0 for the others."""
        if len(types) == self.num_tasks:
            return shares
        every = shares.new_zeros(len(shares), self.num_experts)
        own = [self.num_generic + t * self.num_specific + i for t in types for i in range(self.num_specific)]
        columns = torch.tensor([*range(self.num_generic), *own], device=shares.device)
        return every.index_copy(1, columns, shares)

    def allowed(self, task_mask: Tensor) -> Tensor:
        """(B, E) bool: generic experts always, a type's own where its task is on."""
        own = task_mask.bool() if self.num_tasks else task_mask[:, :0].bool()
        own = own[:, :, None].expand(-1, -1, self.num_specific).flatten(1)  # torch 2.7 compiles no repeat_interleave
        return torch.cat([own.new_ones(len(own), self.num_generic), own], 1)

    def gate(self, logits: Tensor, allowed: Tensor) -> Tensor:
        """R(X) = Softmax(KeepTop-k(...)), Eq. 4: top k of each group, softmax jointly over what is kept."""
        allowed = allowed.view(*allowed.shape, *[1] * (logits.ndim - 2)).expand_as(logits)
        sizes = [self.num_generic, logits.shape[1] - self.num_generic]
        top_k = (self.top_k_generic, min(self.top_k_specific, sizes[1]))
        kept = [
            keep_top_k(group, mask, k)
            for group, mask, k in zip(logits.split(sizes, 1), allowed.split(sizes, 1), top_k, strict=True)
        ]
        return torch.cat(kept, 1).softmax(1)

    def choices(self, logits: Tensor, gates: Tensor, allowed: Tensor) -> Tensor:
        """(3, G, E): per group in which there is a choice, and 0 outside it, over samples and voxels f_e, the share of
        its choices that keep expert e; whether any sample may use e; and P_e, the mean probability of e before top-k.
        """
        over = (0, *range(2, logits.ndim))
        groups = [logits.new_zeros(3, 0, logits.shape[1])]
        for start, stop, k in (
            (0, self.num_generic, self.top_k_generic),
            (self.num_generic, logits.shape[1], self.top_k_specific),
        ):
            if k == 0 or stop - start < 2:
                continue
            mask = allowed[:, start:stop].view(len(logits), -1, *[1] * (logits.ndim - 2))
            lowest = torch.finfo(logits.dtype).min
            probability = logits[:, start:stop].masked_fill(~mask, lowest).softmax(1) * mask
            chosen = (gates[:, start:stop] > 0).to(logits.dtype).mean(over) / k
            group = torch.stack([chosen, mask.flatten(1).any(0).to(logits.dtype), probability.mean(over)])
            groups.append(F.pad(group, (start, logits.shape[1] - stop)).unsqueeze(1))
        return torch.cat(groups, 1)

    def own_parameters(self, index: int) -> list[nn.Parameter]:
        """What tumour type `index` owns: rows of the router, ways down and up; nothing without own experts."""
        if not self.num_tasks:
            return []
        return [self.router.specific[index], self.down[1 + index], self.up[1 + index]]

    def factors(self, types: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Down (E, r, C) and up (E, C, r) of the generic experts and those of the types."""
        owners = [0, *(1 + index for index in types)]
        down, up = (torch.cat([factor[owner] for owner in owners]) for factor in (self.down, self.up))
        return down, up

    def mix_all(self, x: Tensor, gates: Tensor, types: Sequence[int]) -> Tensor:
        """Gates per voxel."""
        return add_experts(x, gates.flatten(2), self.factors(types))

    def mix_chosen(self, x: Tensor, gates: Tensor, types: Sequence[int]) -> Tensor:
        """Gates per sample, (B, E, 1, ...): the chosen experts' factors are gathered, the rest is not computed."""
        kept = self.top_k_generic + min(self.top_k_specific, gates.shape[1] - self.num_generic)
        weight, index = gates.flatten(1).topk(kept, 1)  # (B, k)
        down, up = self.factors(types)
        down = down[index].flatten(1, 2)  # (B, k r, C)
        up = (up[index] * weight[:, :, None, None]).transpose(1, 2).flatten(2)  # (B, C, k r)
        hidden = F.gelu(down @ x.flatten(2))  # (B, k r, N)
        return x + (up @ hidden).view_as(x)

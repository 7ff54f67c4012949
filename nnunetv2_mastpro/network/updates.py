"""Low-rank updates of a frozen backbone's weights, after LoRA (Hu et al., ICLR 2022)."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call


class WeightUpdates(nn.Module):
    """W + B A for each weight of a convolution, v + d for each bias and value of a norm.

    An expert adds to what a stage gives, and what no filter of a frozen stage sees is lost for it. These change the
    filters themselves, at the cost of a matrix product of their size. A weight of O outputs (first axis) and I numbers
    for each has A (r, I) and B (O, r), r at most `rank`. B and d start at zero, so W + B A starts as W, bit for bit.
    """

    def __init__(self, weights: Mapping[str, Tensor], rank: int):
        super().__init__()
        self.keys = {name: name.replace(".", "_") for name in weights}  # of nn.ParameterDict, which takes no dots
        self.down, self.up, self.shift = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, weight in weights.items():
            key = self.keys[name]
            if weight.ndim == 1:
                self.shift[key] = torch.zeros_like(weight)
                continue
            outputs, inputs = len(weight), weight[0].numel()
            own_rank = min(rank, outputs, inputs)
            self.down[key] = torch.randn(own_rank, inputs) * inputs**-0.5
            self.up[key] = torch.zeros(outputs, own_rank)

    @property
    def change_something(self) -> bool:
        """False as they start."""
        return any(bool(values.any()) for values in (*self.up.values(), *self.shift.values()))

    def forward(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by name -> the updated ones."""
        updated = {}
        with torch.autocast(next(iter(weights.values())).device.type, enabled=False):
            for name, key in self.keys.items():
                weight = weights[name]
                change = self.shift[key] if key in self.shift else (self.up[key] @ self.down[key]).view_as(weight)
                updated[name] = weight + change
        return updated


def updated(get: Callable[[str], Tensor], updates: Iterable[WeightUpdates]) -> dict[str, Tensor]:
    """The weights that `get` gives with all updates, one on top of the other; nothing where there are none."""
    changed: dict[str, Tensor] = {}
    for update in updates:
        changed.update(update({name: changed[name] if name in changed else get(name) for name in update.keys}))
    return changed


def run(module: nn.Module, name: str, weights: Mapping[str, Tensor], *inputs):
    """The module, which is `name` in its network, with those of the weights that are its own in their place."""
    own = {key.removeprefix(f"{name}."): weight for key, weight in weights.items() if key.startswith(f"{name}.")}
    # planned U-Nets register a module under several names, and "tied" weights would not be put back
    return functional_call(module, own, inputs, tie_weights=False) if own else module(*inputs)

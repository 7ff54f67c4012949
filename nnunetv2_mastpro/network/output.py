"""What the network gives to the loss, of one pass or of several.

B batch, T classes, S supervised stages.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TrainingOutput(NamedTuple):
    """What the loss needs: logits first, full resolution first, so that nnU-Net can index them."""

    logits: list[Tensor] | Tensor  # per supervised stage (B, outputs, spatial), or one tensor
    presence: Tensor  # (B, T): is the class in the patch
    choices: Tensor  # (sites, 3, groups, experts): what load balance is computed of; no site without experts


def together(passes: Sequence[TrainingOutput]) -> TrainingOutput:
    """All of the first pass, and of each other one the last class, the added type that it is for."""
    first, *others = passes
    logits = [
        torch.cat([stage, *(added.logits[place][:, -1:] for added in others)], 1)
        for place, stage in enumerate(first.logits)
    ]
    presence = torch.cat([first.presence, *(added.presence[:, -1:] for added in others)], 1)
    return TrainingOutput(logits, presence, passes[-1].choices)


def stack_choices(choices: list[Tensor], image: Tensor) -> Tensor:
    """(sites, 3, groups, experts) of what the sites' experts gave, on the image's device."""
    return torch.stack(choices) if choices else image.new_zeros(0, 3, 0, 0)

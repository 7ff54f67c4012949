"""What the network gives to the loss, of one pass or of several.

B batch, T classes, S supervised stages.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CLEARLY_NOT = -10.0  # logit where the network is not run; nnU-Net sums logits in half precision
LEFT_OUT = -20.0  # below the lowest logit: a probability under e^-20, which leaves a float32 sum of them as it is


class TrainingOutput(NamedTuple):
    """What the loss needs: logits first, full resolution first, so that nnU-Net can index them."""

    logits: list[Tensor] | Tensor  # per supervised stage (B, outputs, spatial), or one tensor
    presence: Tensor  # (B, T): is the class in the patch
    choices: Tensor | None  # (sites, 3, groups, experts): what load balance is computed of, in training


def together(passes: Sequence[TrainingOutput], has_background: bool) -> TrainingOutput:
    """All of the first pass, and of each other one the last class, the added type that it is for.

    Beside a background its logit is taken over as its pass says it, relative to the background there: the odds. Load
    balance is of the added types' passes, which have each as many types, since no other one is trained beside them.
    """
    first, *others = passes
    if not others:
        return first
    logits = []
    for place, stage in enumerate(first.logits):
        added = [found.logits[place] for found in others]
        odds = [own[:, -1:] - own[:, :1] + stage[:, :1] if has_background else own[:, -1:] for own in added]
        logits.append(torch.cat([stage, *odds], 1))
    presence = torch.cat([first.presence, *(found.presence[:, -1:] for found in others)], 1)
    choices = None if first.choices is None else torch.cat([found.choices for found in others])
    return TrainingOutput(logits, presence, choices)


def stack_choices(choices: list[Tensor], image: Tensor) -> Tensor:
    """(sites, 3, groups, experts) of what the sites' experts gave, on the image's device."""
    return torch.stack(choices) if choices else image.new_zeros(0, 3, 0, 0)


def fill_left_out(logits: Tensor, total: int, has_background: bool, classes: Sequence[int]) -> Tensor:
    """logits (B, ., spatial) of `classes` -> of all `total`: the others get less than every one of the voxel."""
    first = int(has_background)
    lowest = logits.amin(1, keepdim=True) + LEFT_OUT if first else torch.full_like(logits[:, :1], CLEARLY_NOT)
    filled = lowest.repeat(1, first + total, *[1] * (logits.ndim - 2))
    filled[:, [*range(first), *(first + index for index in classes)]] = logits
    return filled


def nothing_found(image: Tensor, classes: int, has_background: bool) -> TrainingOutput:
    """Of a pass that is not run: background, in a tensor of its own, since nnU-Net writes into it."""
    logits = image.new_full((len(image), classes + has_background, *image.shape[2:]), CLEARLY_NOT)
    if has_background:
        logits[:, 0] = 0
    return TrainingOutput([logits], image.new_full((len(image), classes), CLEARLY_NOT), None)

"""nnU-Net's loss plus category supervision and load balance.

B batch, T classes.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mastpro.network.experts import load_balance
from nnunetv2_mastpro.network.output import TrainingOutput
from nnunetv2_mastpro.training.ranks import mean_over


class MASTProLoss(nn.Module):
    """segmentation + presence_weight * category + balance_weight * balance.

    `segmentation` is nnU-Net's own loss. The category term (Sec. 2.2) is binary cross-entropy of the presence
    logits of `supervised` classes; a class that is not seen in a patch with ignored voxels is left out, since it
    may be under them, and so is one that the sample does not annotate by `annotated` (B, T). With `ddp` its mean is
    over the samples of all processes, and so is load balance. What a network returns in evaluation gets the
    segmentation loss alone.
    """

    def __init__(
        self,
        segmentation: nn.Module,
        *,
        supervised: list[int],
        has_regions: bool,
        ignore_label: int | None,
        presence_weight: float,
        balance_weight: float,
        ddp: bool = False,
    ):
        super().__init__()
        self.segmentation = segmentation
        self.supervised, self.has_regions, self.ignore_label = supervised, has_regions, ignore_label
        self.presence_weight, self.balance_weight, self.ddp = presence_weight, balance_weight, ddp
        self.annotated: Tensor | None = None
        self.seen = torch.zeros(0)  # (B, T): classes known to be in the last training batch's samples

    def forward(self, output: TrainingOutput | list[Tensor] | Tensor, target: list[Tensor] | Tensor) -> Tensor:
        """target as nnU-Net's loaders give it: per supervised stage, or one tensor."""
        if not isinstance(output, TrainingOutput):
            return self.segmentation(output, target)
        full_resolution = target[0] if isinstance(target, (list, tuple)) else target
        return (
            self.segmentation(output.logits, target)
            + self.presence_weight * self.category(output.presence, full_resolution)
            + self.balance_weight * self.balance(output.choices)
        )

    def category(self, presence: Tensor, target: Tensor) -> Tensor:
        """presence (B, T) logits, target (B, 1 or regions, spatial) -> scalar."""
        present, ignored = self.present(target, presence.shape[1])
        self.seen = present if self.annotated is None else present & self.annotated.to(present.device)
        present, logits = present[:, self.supervised], presence[:, self.supervised].float()
        known = present | ~ignored[:, None]
        if self.annotated is not None:
            known = known & self.annotated[:, self.supervised].to(known.device)
        losses = F.binary_cross_entropy_with_logits(logits, present.float(), reduction="none")
        return mean_over(losses, known, self.ddp)

    def balance(self, choices: Tensor) -> Tensor:
        """choices (sites, 3, groups, experts) -> scalar; its mean over processes is that of all samples together."""
        if self.ddp and len(choices):  # without experts there is nothing to share
            shared = choices[:, :2].detach() / dist.get_world_size()
            dist.all_reduce(shared)
            choices = torch.cat([shared, choices[:, 2:]], 1)
        return load_balance(choices)

    def present(self, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Which classes are in each sample (B, T), and which samples have ignored voxels (B); both bool."""
        if self.has_regions:
            seen = target.bool().flatten(2).any(2)
            ignored = seen[:, -1] if self.ignore_label is not None else torch.zeros_like(seen[:, 0])
            return seen[:, :num_classes], ignored
        voxels = target.flatten(1)
        seen = torch.stack([(voxels == label).any(1) for label in range(1, num_classes + 1)], 1)
        ignored = (
            (voxels == self.ignore_label).any(1) if self.ignore_label is not None else torch.zeros_like(seen[:, 0])
        )
        return seen, ignored

"""Dice and cross-entropy in which a class that a case does not annotate is unknown, not background.

B batch, T classes, K outputs (background first, or one per region), N voxels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn

from nnunetv2_mastpro.training.ranks import mean_over

SMOOTH = 1e-5  # as nnU-Net's


class PartialLabelLoss(nn.Module):
    """nnU-Net's Dice + CE (regions: Dice + BCE) over what each sample's annotators looked for.

    `annotated` (B, T) bool is set before each call. Softmax: a voxel's label allows a set of outputs, background the
    classes that are not annotated too, a class the ones nested in it that are not annotated; its term is -log of their
    summed probability. Regions: channels that are not annotated are masked. Dice is averaged over annotated classes,
    with nnU-Net's batch and DDP semantics over the samples that annotate the class. With everything annotated it is
    nnU-Net's loss, but that with regions and an ignore label BCE is averaged over channels too.

    With `ddp` every mean is over the samples of all processes, but in evaluation (`eval()`): validation takes samples
    one by one, and processes may have more or fewer.

    `nested`: [u][a], whether class u lies inside class a.
    """

    def __init__(
        self,
        *,
        nested: Sequence[Sequence[bool]],
        has_regions: bool,
        ignore_label: int | None,
        batch_dice: bool,
        ddp: bool,
    ):
        super().__init__()
        self.register_buffer("nested", torch.tensor(nested, dtype=torch.bool), persistent=False)
        self.has_regions, self.ignore_label = has_regions, ignore_label
        self.batch_dice, self.ddp = batch_dice, ddp
        self.annotated: Tensor | None = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, spatial), target as nnU-Net gives it: (B, 1, spatial), or (B, regions, spatial) -> scalar.

        In float32 under autocast too: the gradient of Dice where hardly anything is predicted exceeds half precision.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float().flatten(2), target.flatten(2)  # (B, K, N)
            annotated = self.annotated.to(logits.device)
            return self.regions(logits, target, annotated) if self.has_regions else self.flat(logits, target, annotated)

    def flat(self, logits: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
        """One label a voxel: target (B, 1, N)."""
        labels = target[:, 0].long()
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore_label is None else labels != self.ignore_label
        labels = labels.where(valid, 0)
        unknown = self.nested.to(logits.device).mT & ~annotated[:, None]  # (B, T, T): [a, u], u may be under label a
        log_p = logits.log_softmax(1)
        allowed = self.allowed(unknown, annotated)
        allowed = allowed.gather(1, labels[..., None].expand(-1, -1, logits.shape[1])).mT  # (B, K, N)
        surprise = -log_p.masked_fill(~allowed, -torch.inf).logsumexp(1)  # (B, N)
        cross_entropy = mean_over(surprise, valid, self.together)
        found = log_p[:, 1:].exp()
        found = found + unknown.to(found.dtype) @ found
        classes = torch.arange(1, logits.shape[1], device=labels.device)
        truth = labels[:, None] == classes[:, None]  # (B, T, N); one_hot would be eight times as large
        return cross_entropy - self.dice(found, truth, valid[:, None], annotated)

    def allowed(self, unknown: Tensor, annotated: Tensor) -> Tensor:
        """(B, K, K) bool: [label, output], which outputs a voxel's label allows."""
        allowed = torch.eye(annotated.shape[1] + 1, dtype=torch.bool, device=annotated.device)
        allowed = allowed.repeat(len(annotated), 1, 1)
        allowed[:, 0, 1:] = ~annotated
        allowed[:, 1:, 1:] |= unknown
        return allowed

    def regions(self, logits: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
        """A channel a region: target (B, regions, N), with an ignore label one channel more."""
        valid = torch.ones_like(target[:, :1], dtype=torch.bool)
        if self.ignore_label is not None:
            valid, target = ~target[:, -1:].bool(), target[:, :-1]
        target = target.float()
        counts = annotated[..., None] & valid  # (B, T, N)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        cross_entropy = mean_over(losses, counts, self.together)
        return cross_entropy - self.dice(logits.sigmoid(), target, valid, annotated)

    def dice(self, found: Tensor, truth: Tensor, valid: Tensor, annotated: Tensor) -> Tensor:
        """Soft Dice, mean over annotated classes. found, truth (B, T, N), valid (B, 1, N) -> scalar."""
        known = annotated.to(found.dtype)
        sums = [(part * valid).sum(2) * known for part in (found * truth, found, truth)]  # each (B, T)
        if self.batch_dice:
            *sums, known = self.over_batch(torch.stack([*sums, known], 1))
            known = (known > 0).to(found.dtype)
        both, predicted, present = sums
        dice = (2 * both + SMOOTH) / (predicted + present + SMOOTH)
        return mean_over(dice, known, self.together and not self.batch_dice)

    def over_batch(self, parts: Tensor) -> Tensor:
        """(B, parts, T) -> (parts, T), over all processes."""
        parts = parts.sum(0)
        return AllGatherGrad.apply(parts).sum(0) if self.together else parts

    @property
    def together(self) -> bool:
        """Whether other processes' samples count."""
        return self.ddp and self.training

"""The MAST-Pro network: planned backbone, D-MoE, prompt fusion, generated head (Fig. 1).

B batch, T classes, D text width, S supervised stages.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mastpro.network.fusion import PromptFusion
from nnunetv2_mastpro.network.head import MaskProposal, apply_kernel
from nnunetv2_mastpro.network.inject import AdaptedSite
from nnunetv2_mastpro.network.unet import UNetBackbone


class TrainingOutput(NamedTuple):
    """What the loss needs: logits first, full resolution first, so that nnU-Net can index them."""

    logits: list[Tensor] | Tensor  # per supervised stage (B, outputs, spatial), or one tensor
    presence: Tensor  # (B, T): is the class in the patch
    balance: Tensor  # scalar: load balance, mean over the adapted sites


class MASTProNet(nn.Module):
    """Segments T classes, each described by the embedding of its sentence.

    embeddings (T, D) are a persistent buffer: a checkpoint needs no text encoder. `is_tumor` (T) marks the tumour
    types, which own experts in the order in which they occur. With `has_background` a learned prompt gives the
    background's kernel, and outputs are background, class 1, ...

    In training mode returns TrainingOutput; in evaluation the logits, a list while `deep_supervision` is on, as
    nnU-Net's own networks do. The coarsest decoder stage is never supervised: nnU-Net's loss gives it no weight.
    """

    def __init__(
        self,
        *,
        backbone: UNetBackbone,
        experts: nn.ModuleDict,
        receipt: list[AdaptedSite],
        fusion: PromptFusion,
        head: MaskProposal,
        embeddings: Tensor,
        is_tumor: list[bool],
        has_background: bool,
        deep_supervision: bool,
    ):
        super().__init__()
        self.backbone, self.experts, self.fusion, self.head = backbone, experts, fusion, head
        self.receipt, self.deep_supervision = receipt, deep_supervision
        self.tumor_classes = [index for index, tumor in enumerate(is_tumor) if tumor]
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("trained", torch.tensor(False))  # a checkpoint's backbone may be built upon
        self.background = nn.Parameter(torch.randn(1, embeddings.shape[1])) if has_background else None

    def forward(self, image: Tensor, task_mask: Tensor | None = None) -> TrainingOutput | list[Tensor] | Tensor:
        """image (B, channels, spatial); task_mask (B, number of tumour types) of {0, 1}, None selects all."""
        if task_mask is None:
            task_mask = image.new_ones(len(image), len(self.tumor_classes))
        balances = []

        def adapt(site: str, features: Tensor) -> Tensor:
            if site not in self.experts:
                return features
            features, balance = self.experts[site](features, task_mask)  # Eq. 3-5
            balances.append(balance)
            return features

        text = F.layer_norm(self.embeddings, self.embeddings.shape[1:])  # (T, D), unit variance
        *skips, bottleneck = self.backbone.encode(image, adapt)
        attended = self.fusion(bottleneck, text, self.selected_classes(task_mask))  # Eq. 6
        decoded = self.backbone.decode([*skips, bottleneck + attended], adapt)  # Eq. 7
        prompts = text if self.background is None else torch.cat([self.background, text])
        kernels = self.head(attended, prompts)  # Eq. 8
        stages = len(kernels.stages) if self.deep_supervision else 1
        logits = [apply_kernel(decoded[-1 - s], kernels.stages[s]) for s in range(stages)]
        logits = logits if self.deep_supervision else logits[0]
        if not self.training:
            return logits
        presence = kernels.presence if self.background is None else kernels.presence[:, 1:]
        return TrainingOutput(logits, presence, torch.stack(balances).mean())

    def selected_classes(self, task_mask: Tensor) -> Tensor:
        """(B, T) bool: organs always, tumour types where their task is on."""
        selected = torch.ones(len(task_mask), len(self.embeddings), dtype=torch.bool, device=task_mask.device)
        selected[:, self.tumor_classes] = task_mask.bool()
        return selected

    def freeze_backbone(self) -> None:
        """PEFT: the backbone's parameters, its norms' too, stay as they are."""
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> "MASTProNet":
        """As nn.Module; a frozen backbone stays in evaluation, so that running statistics stay as they are."""
        super().train(mode)
        self.backbone.train(mode and self.backbone_is_trained)
        return self

    @property
    def backbone_is_trained(self) -> bool:
        """False after freeze_backbone."""
        return any(parameter.requires_grad for parameter in self.backbone.parameters())

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by part; the one list behind optimizer and start-up table."""
        head = [*self.head.parameters()] + ([] if self.background is None else [self.background])
        return {
            "backbone": [*self.backbone.parameters()],
            "experts": [*self.experts.parameters()],
            "fusion": [*self.fusion.parameters()],
            "mask proposal": head,
        }

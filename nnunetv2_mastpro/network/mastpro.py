"""The MAST-Pro network: planned backbone, D-MoE, prompt fusion, generated head (Fig. 1).

B batch, T classes, K outputs, D text width, S supervised stages.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mastpro.network.anatomy import AnatomyEncoder
from nnunetv2_mastpro.network.fusion import PromptFusion
from nnunetv2_mastpro.network.head import MaskProposal, apply_kernel
from nnunetv2_mastpro.network.inject import AdaptedSite
from nnunetv2_mastpro.network.unet import UNetBackbone

CLEARLY_NOT = -10.0  # logit of what is left out; nnU-Net sums logits in half precision


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

    With `anatomy` the last channels of the image are those of the host-organ map, which the backbone never sees. Then
    tumour types are selected by patch: in evaluation those whose host is in it, all where that is unknown; in training
    that only in a share `host_task_share` of the samples. Where the trainer has set `annotated` (B, T), a share
    `annotated_task_share` has the types selected that the sample annotates. The other samples have all.
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
        anatomy: AnatomyEncoder | None = None,
        host_task_share: float = 0.5,
        annotated_task_share: float = 0.25,
    ):
        super().__init__()
        self.backbone, self.experts, self.fusion, self.head = backbone, experts, fusion, head
        self.anatomy, self.host_task_share, self.annotated_task_share = anatomy, host_task_share, annotated_task_share
        self.annotated: Tensor | None = None
        self.receipt, self.deep_supervision = receipt, deep_supervision
        self.tumor_classes = [index for index, tumor in enumerate(is_tumor) if tumor]
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("trained", torch.tensor(False))  # a checkpoint's backbone may be built upon
        self.background = nn.Parameter(torch.randn(1, embeddings.shape[1])) if has_background else None
        self.left_out: list[int] = []  # classes that prediction does not look for
        self.skip_empty = False  # prediction runs the network only where a host organ is

    def forward(self, image: Tensor, task_mask: Tensor | None = None) -> TrainingOutput | list[Tensor] | Tensor:
        """image (B, channels, spatial); task_mask (B, number of tumour types) of {0, 1}, None selects them itself."""
        organs = None
        if self.anatomy is not None:
            image, organs = image.split([image.shape[1] - self.anatomy.table.shape[1], self.anatomy.table.shape[1]], 1)
            if self.skip_empty and not self.training and not organs.any():
                return self.nothing_found(image)
            organs = self.anatomy.drop(organs)
        if task_mask is None:
            task_mask = self.select_tasks(image, organs)
        balances = []

        def adapt(site: str, features: Tensor) -> Tensor:
            if site not in self.experts:
                return features
            features, balance = self.experts[site](features, task_mask)  # Eq. 3-5
            balances.append(balance)
            return features

        text = F.layer_norm(self.embeddings, self.embeddings.shape[1:])  # (T, D), unit variance
        *skips, bottleneck = self.backbone.encode(image, adapt)
        prior = None if organs is None else self.anatomy(organs, bottleneck.shape[2:])  # Eq. 2
        attended = self.fusion(bottleneck, text, self.selected_classes(task_mask), prior)  # Eq. 6
        decoded = self.backbone.decode([*skips, bottleneck + attended], adapt)  # Eq. 7
        prompts = text if self.background is None else torch.cat([self.background, text])
        kernels = self.head(attended, prompts)  # Eq. 8
        stages = len(kernels.stages) if self.deep_supervision else 1
        logits = [apply_kernel(decoded[-1 - s], kernels.stages[s]) for s in range(stages)]
        if not self.training:
            logits = [self.leave_out(stage) for stage in logits]
        logits = logits if self.deep_supervision else logits[0]
        if not self.training:
            return logits
        presence = kernels.presence if self.background is None else kernels.presence[:, 1:]
        return TrainingOutput(logits, presence, torch.stack(balances).mean())

    def select_tasks(self, image: Tensor, organs: Tensor | None) -> Tensor:
        """(B, number of tumour types) of {0, 1} from organs (B, L, spatial)."""
        hosted = everything = image.new_ones(len(image), len(self.tumor_classes))
        if organs is not None:
            present, known = self.anatomy.find(organs)
            hosted = (present | ~known)[:, self.tumor_classes].to(everything.dtype)
        selected = hosted
        if self.training:
            annotated = everything
            if self.annotated is not None:
                annotated = self.annotated[:, self.tumor_classes].to(everything.dtype)
            drawn = torch.rand(len(image), 1, device=image.device)
            selected = torch.where(drawn >= 1 - self.annotated_task_share, annotated, everything)
            selected = torch.where(drawn < self.host_task_share, hosted, selected)
        if self.left_out and not self.training:
            kept = [float(index not in self.left_out) for index in self.tumor_classes]
            selected = selected * selected.new_tensor(kept)
        return selected

    def leave_out(self, logits: Tensor) -> Tensor:
        """logits (B, K, spatial): classes that are not looked for get less than every other output of the voxel."""
        if not self.left_out:
            return logits
        first = len(logits[0]) - len(self.embeddings)  # background
        outputs = [first + index for index in self.left_out]
        kept = [index for index in range(logits.shape[1]) if index not in outputs]
        lowest = logits[:, kept].amin(1, keepdim=True) if first else torch.zeros_like(logits[:, :1])
        return logits.index_copy(
            1,
            torch.tensor(outputs, device=logits.device),
            (lowest + CLEARLY_NOT).expand(-1, len(outputs), *[-1] * (logits.ndim - 2)),
        )

    def nothing_found(self, image: Tensor) -> Tensor:
        """Logits (B, K, spatial) of background, in a tensor of their own: nnU-Net writes into it."""
        outputs = len(self.embeddings) + (self.background is not None)
        logits = image.new_full((len(image), outputs, *image.shape[2:]), CLEARLY_NOT)
        if self.background is not None:
            logits[:, 0] = 0
        return logits

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
        anatomy = {} if self.anatomy is None else {"anatomy encoder": [*self.anatomy.parameters()]}
        return {
            "backbone": [*self.backbone.parameters()],
            "experts": [*self.experts.parameters()],
            "fusion": [*self.fusion.parameters()],
            **anatomy,
            "mask proposal": head,
        }

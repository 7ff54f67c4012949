"""The CLIP-Driven Universal Model's head in nnU-Net, with the same data, draws of cases, optimizer and steps.

B batch, T classes, K outputs.
"""

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.network.build import make_backbone
from nnunetv2_mastpro.network.universal import UniversalHead, UniversalNet
from nnunetv2_mastpro.training.partial_loss import PartialLabelLoss
from nnunetv2_mastpro.training.patches import Patches
from nnunetv2_mastpro.training.ranks import unwrapped
from nnunetv2_mastpro.training.recipe import AdamWRecipe, epoch_variants
from nnunetv2_mastpro.training.setup import resolve, settle


class SigmoidLoss(nn.Module):
    """Dice + BCE per class over annotated classes; a label map is taken apart into its classes first.

    `masked`: PartialLabelLoss of regions, whose `annotated` is set before each call.
    """

    def __init__(self, masked: PartialLabelLoss, *, num_classes: int, has_regions: bool):
        super().__init__()
        self.masked, self.num_classes, self.has_regions = masked, num_classes, has_regions

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, spatial), target as nnU-Net gives it -> scalar."""
        if self.has_regions:
            return self.masked(logits, target)
        classes = range(1, self.num_classes + 1)
        ignore = [] if self.masked.ignore_label is None else [self.masked.ignore_label]
        truth = torch.cat([target == label for label in (*classes, *ignore)], 1)
        return self.masked(logits[:, 1:], truth)


class nnUNetTrainerUniversal(Patches, AdamWRecipe):
    """GAP and text embedding give each class three layers of width 8; sigmoid per class, masked where unannotated.

    For plans without organ masks. Backbone, prompts, draws, optimizer and length are those of nnUNetTrainerMASTPro.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        self.mastpro, self.sentences = resolve(plans, dataset_json)
        self.check_plans(plans, configuration)
        settle(plans, configuration, self.mastpro, type(self).__name__)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    @property
    def announces(self) -> bool:
        return True  # the masked loss is that of complete labels, too

    def find_classes(self, plans: dict, dataset_json: dict) -> tuple:
        return self.mastpro.resolved.classes

    @staticmethod
    def build_network_architecture(
        plans_manager,
        configuration_manager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> UniversalNet:
        """For training and prediction alike; the sentences' embeddings come from trainer or checkpoint."""
        config = MASTProConfig.from_dict(plans_manager.plans["mastpro"])
        backbone = make_backbone(
            nnUNetTrainer.build_network_architecture(
                plans_manager, configuration_manager, num_input_channels, num_output_channels, False
            )
        )
        text_dim = config.resolved.embedding_dim
        head = UniversalHead(
            image_dim=backbone.bottleneck_dim,
            text_dim=text_dim,
            decoder_dim=backbone.supervised_dims[0],
            hidden=config.network.kernel_hidden,
            axes=backbone.axes,
        )
        sentences = torch.zeros(len(config.resolved.classes), text_dim)
        return UniversalNet(
            backbone=backbone, head=head, sentences=sentences, has_background=config.resolved.has_background
        )

    @property
    def bare_network(self) -> UniversalNet:
        """The network itself."""
        return unwrapped(self.network)

    def initialize(self) -> None:
        super().initialize()
        self.settle_sentences()

    def settle_sentences(self) -> None:
        """The data set's own, in place of those that -pretrained_weights brings."""
        buffer = self.bare_network.sentences
        buffer.copy_(self.sentences.vectors.to(buffer))

    def on_train_start(self) -> None:
        if self.was_initialized:
            self.settle_sentences()
        super().on_train_start()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is none."""

    def parameter_groups(self) -> list[dict]:
        """The head, whose inputs are as wide as MAST-Pro's, learns at the same share of the rate."""
        network = self.bare_network
        return [
            {"params": [*network.backbone.parameters()]},
            {"params": [*network.head.parameters()], "share": self.mastpro.training.prompt_share},
        ]

    def _build_loss(self) -> SigmoidLoss:
        masked = PartialLabelLoss(
            nested=self.nested,
            has_regions=True,
            ignore_label=self.label_manager.ignore_label,
            batch_dice=self.configuration_manager.batch_dice,
            ddp=self.is_ddp,
        )
        return SigmoidLoss(masked, num_classes=len(self.classes), has_regions=self.label_manager.has_regions)


globals().update(epoch_variants(nnUNetTrainerUniversal, __name__))

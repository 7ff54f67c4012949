"""From a planned backbone and values of the plans to the whole network."""

import torch
from torch import nn

from nnunetv2_mastpro.network.anatomy import AnatomyEncoder
from nnunetv2_mastpro.network.experts import DMoE
from nnunetv2_mastpro.network.fusion import PromptFusion
from nnunetv2_mastpro.network.head import MaskProposal
from nnunetv2_mastpro.network.inject import inject_experts
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.network.planned import SWIN_UNETR
from nnunetv2_mastpro.network.unet import UNetBackbone


def make_backbone(planned: nn.Module) -> nn.Module:
    """The planned network, split where features are adapted; what is no SwinUNETR must be a U-Net."""
    if type(planned).__name__ == SWIN_UNETR.rpartition(".")[2]:
        from nnunetv2_mastpro.network.swin import SwinBackbone  # MONAI takes seconds to import

        return SwinBackbone(planned)
    return UNetBackbone(planned)


def build_mastpro(
    planned: nn.Module,
    network,
    resolved,
    deep_supervision: bool,
    organ_channels: int = 0,
    anatomy_dropout: float = 0.0,
    host_task_share: float = 0.5,
    annotated_task_share: float = 0.25,
) -> MASTProNet:
    """The planned network adapted by `network` (NetworkConfig) for `resolved` (Resolved); embeddings are zero.

    `organ_channels`: how many channels of a host-organ map follow the image's; 0 for none. The receipt of the injection
    is the network's `receipt`. Raises ValueError where a stage cannot be adapted.
    """
    backbone = make_backbone(planned)
    is_tumor = [entry.is_tumor for entry in resolved.classes]

    def make_experts(channels: int) -> DMoE:
        return DMoE(
            dim=channels,
            rank=network.rank,
            num_generic=network.generic_experts,
            num_specific=network.specific_experts,
            num_tasks=sum(is_tumor),
            top_k_generic=network.top_k_generic,
            top_k_specific=network.top_k_specific,
            routing=network.routing,
            joint_router=network.router == "joint",
        )

    experts, receipt = inject_experts(backbone.sites(network.encoder_stages, network.decoder_stages), make_experts)
    anatomy = None
    if organ_channels:
        table = torch.zeros(len(is_tumor), organ_channels)
        for host in resolved.hosts:
            table[list(host.classes), host.channel] = 1
        anatomy = AnatomyEncoder(
            table=table,
            axes=backbone.axes,
            dim=network.attention_dim,
            heads=network.attention_heads,
            features=network.anatomy_features,
            dropout=anatomy_dropout,
        )
    return MASTProNet(
        backbone=backbone,
        experts=experts,
        receipt=receipt,
        fusion=PromptFusion(
            image_dim=backbone.bottleneck_dim,
            text_dim=resolved.embedding_dim,
            dim=network.attention_dim,
            heads=network.attention_heads,
        ),
        head=MaskProposal(
            image_dim=backbone.bottleneck_dim,
            text_dim=resolved.embedding_dim,
            decoder_dims=backbone.supervised_dims,
            hidden=network.kernel_hidden,
        ),
        embeddings=torch.zeros(len(is_tumor), resolved.embedding_dim),
        is_tumor=is_tumor,
        has_background=resolved.has_background,
        deep_supervision=deep_supervision,
        anatomy=anatomy,
        host_task_share=host_task_share,
        annotated_task_share=annotated_task_share,
        added=[index for index, entry in enumerate(resolved.classes) if entry.added],
    )

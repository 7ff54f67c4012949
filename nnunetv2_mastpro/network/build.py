"""From a planned backbone and values of the plans to the whole network, ablated where the plans say so."""

import torch
from torch import nn

from nnunetv2_mastpro.network.anatomy import AnatomyEncoder, FrozenSwin, SmallEncoder, UnreadAnatomy
from nnunetv2_mastpro.network.experts import DMoE
from nnunetv2_mastpro.network.fusion import NoFusion, PromptFusion
from nnunetv2_mastpro.network.head import FixedHead, MaskProposal
from nnunetv2_mastpro.network.inject import inject_experts
from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.network.planned import SWIN_UNETR
from nnunetv2_mastpro.network.text import LearnedPrompts, SentencePrompts, ShuffledPrompts
from nnunetv2_mastpro.network.unet import UNetBackbone
from nnunetv2_mastpro.network.updates import WeightUpdates

ADDED_RANK = 4  # of the updates that an added type owns


def is_planned_swin(planned: nn.Module) -> bool:
    """By its name: MONAI takes seconds to import."""
    return type(planned).__name__ == SWIN_UNETR.rpartition(".")[2]


def make_backbone(planned: nn.Module) -> nn.Module:
    """The planned network, split where features are adapted; what is no SwinUNETR must be a U-Net."""
    if is_planned_swin(planned):
        from nnunetv2_mastpro.network.swin import SwinBackbone

        return SwinBackbone(planned)
    return UNetBackbone(planned)


def output_layers(planned: nn.Module) -> list[nn.Module]:
    """The planned network's 1 x 1 convolutions to logits, full resolution first; a backbone drops them."""
    return [planned.out.conv.conv] if is_planned_swin(planned) else [*planned.decoder.seg_layers][::-1]


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
    layers = output_layers(planned) if network.fixed_head else []
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

    sites = backbone.sites(network.encoder_stages, network.decoder_stages)
    experts, receipt = inject_experts({} if "experts" in network.ablate else sites, make_experts)
    added = [index for index, entry in enumerate(resolved.classes) if entry.added]
    anatomy = make_anatomy(backbone, network, resolved, organ_channels, anatomy_dropout) if organ_channels else None
    fusion, head = make_prompted(backbone, network, resolved.embedding_dim, layers)
    frozen = {f"backbone.{name}": weight for name, weight in backbone.updatable().items()}
    prompted = {f"fusion.{name}": weight for name, weight in fusion.named_parameters()}
    prompted |= {f"head.{name}": weight for name, weight in head.named_parameters() if head.generated}
    return MASTProNet(
        backbone=backbone,
        experts=experts,
        receipt=receipt,
        text=make_text(network, len(is_tumor), resolved.embedding_dim),
        fusion=fusion,
        head=head,
        embeddings=torch.zeros(len(is_tumor), resolved.embedding_dim),
        is_tumor=is_tumor,
        has_background=resolved.has_background,
        deep_supervision=deep_supervision,
        anatomy=anatomy,
        host_task_share=host_task_share,
        annotated_task_share=annotated_task_share,
        added=added,
        updates=WeightUpdates(frozen, network.backbone_rank) if network.backbone_rank else None,
        added_updates=[WeightUpdates(frozen | prompted, ADDED_RANK) for _ in added],
    )


def make_text(network, num_classes: int, dim: int) -> SentencePrompts | LearnedPrompts:
    """Sentences, another class's sentences, or learned vectors; with a fixed head nothing reads them."""
    if "text_shuffled" in network.ablate:
        return ShuffledPrompts(num_classes)
    if "text" in network.ablate and not network.fixed_head:
        return LearnedPrompts(num_classes=num_classes, dim=dim)
    return SentencePrompts()


def make_anatomy(backbone, network, resolved, organ_channels: int, dropout: float) -> AnatomyEncoder | UnreadAnatomy:
    """The encoder of organ masks, or what leaves them unread."""
    table = torch.zeros(len(resolved.classes), organ_channels)
    for host in resolved.hosts:
        table[list(host.classes), host.channel] = 1
    added = [index for index, entry in enumerate(resolved.classes) if entry.added]
    if "anatomy" in network.ablate:
        return UnreadAnatomy(table, added)
    return AnatomyEncoder(
        table=table,
        encode=make_mask_encoder(backbone, network),
        dim=network.attention_dim,
        heads=network.attention_heads,
        dropout=dropout,
        added=added,
    )


def make_mask_encoder(backbone, network) -> nn.Module:
    """Eq. 2. Raises ValueError for a Swin encoder beside another backbone, of which it has the sizes."""
    if network.anatomy_encoder == "small":
        return SmallEncoder(axes=backbone.axes, features=network.anatomy_features)
    if not hasattr(backbone, "swinViT"):
        raise ValueError("anatomy_encoder 'swin' has the sizes of a SwinUNETR backbone, and this one is a U-Net")
    return FrozenSwin(swin=backbone.swinViT, normalize=backbone.normalize, width=backbone.bottleneck_dim)


def make_prompted(
    backbone, network, text_dim: int, layers: list[nn.Module]
) -> tuple[PromptFusion | NoFusion, MaskProposal | FixedHead]:
    """What reads the prompts: fusion and generated head; where none are left, nothing and the planned output layers."""
    if network.fixed_head:
        return NoFusion(), FixedHead(layers[: len(backbone.supervised_dims)])
    fusion = PromptFusion(
        image_dim=backbone.bottleneck_dim, text_dim=text_dim, dim=network.attention_dim, heads=network.attention_heads
    )
    head = MaskProposal(
        image_dim=backbone.bottleneck_dim,
        text_dim=text_dim,
        decoder_dims=backbone.supervised_dims,
        hidden=network.kernel_hidden,
    )
    return fusion, head

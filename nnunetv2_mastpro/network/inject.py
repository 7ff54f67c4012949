"""Which stages get experts, and the receipt of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from nnunetv2_mastpro.network.experts import DMoE


@dataclass(frozen=True)
class AdaptedSite:
    """One adapted stage."""

    name: str
    channels: int


def choose_sites(
    encoder_dims: Sequence[int],
    decoder_dims: Sequence[int],
    encoder_stages: Sequence[int] | None,
    decoder_stages: Sequence[int] | None,
) -> dict[str, int]:
    """Site -> channels, from the channels of all stages and the chosen stages.

    None: every encoder stage from the second on, every decoder stage below full resolution.

    Raises ValueError for a stage that the network does not have, or where no stage is left.
    """
    dims = {"encoder": encoder_dims, "decoder": decoder_dims}
    chosen = {
        "encoder": range(1, len(dims["encoder"])) if encoder_stages is None else encoder_stages,
        "decoder": range(len(dims["decoder"]) - 1) if decoder_stages is None else decoder_stages,
    }
    for part, stages in chosen.items():
        for stage in stages:
            if stage not in range(len(dims[part])):
                raise ValueError(
                    f"{part}_stages holds {stage}, but the {part} has stages 0 to {len(dims[part]) - 1}; "
                    f"correct mastpro.network.{part}_stages in the plans"
                )
    sites = {f"{part}_{stage}": dims[part][stage] for part, stages in chosen.items() for stage in stages}
    if not sites:
        raise ValueError("no stage is adapted; name at least one in mastpro.network.encoder_stages or decoder_stages")
    return sites


def choose_swin_sites(
    feature_size: int,
    depths: Sequence[int],
    encoder_stages: Sequence[int] | None,
    decoder_stages: Sequence[int] | None,
) -> dict[str, int]:
    """As choose_sites, for SwinUNETR: every block of the chosen Swin stages, and the chosen decoder blocks.

    None: every Swin block, as the paper has it, and no decoder block.
    """
    encoder_dims = [feature_size * 2**stage for stage in range(len(depths))]
    decoder_dims = [feature_size * factor for factor in (8, 4, 2, 1, 1)]
    every = range(len(depths)) if encoder_stages is None else encoder_stages
    chosen = choose_sites(encoder_dims, decoder_dims, every, () if decoder_stages is None else decoder_stages)
    blocks = {f"swin_{stage}_{block}": encoder_dims[stage] for stage in every for block in range(depths[stage])}
    return blocks | {name: channels for name, channels in chosen.items() if name.startswith("decoder_")}


def inject_experts(sites: dict[str, int], make: Callable[[int], DMoE]) -> tuple[nn.ModuleDict, list[AdaptedSite]]:
    """One D-MoE per site, made by `make(channels)`, and the receipt that lists them."""
    experts = nn.ModuleDict({name: make(channels) for name, channels in sites.items()})
    return experts, [AdaptedSite(name, channels) for name, channels in sites.items()]

"""A new type beside old ones: the network is kept at what it said of the old types before it had the new one.

After "Modeling the Background for Incremental Learning in Semantic Segmentation" (Cermelli et al., CVPR 2020): where
the new type is not annotated, the old background may be the new type.

B batch, K outputs, O of them old, N voxels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_mastpro.network.mastpro import MASTProNet
from nnunetv2_mastpro.training.ranks import mean_over


@torch.no_grad()
def say_without(network: MASTProNet, image: Tensor, classes: Sequence[int]) -> Tensor:
    """Logits (B, K, spatial) of the image (B, channels, spatial) with the classes left out, as in evaluation."""
    training, deep_supervision = network.training, network.deep_supervision
    network.left_out, network.deep_supervision = [*classes], False
    network.eval()
    try:
        return network(image)
    finally:
        network.left_out, network.deep_supervision = [], deep_supervision
        network.train(training)


def stay_with(
    logits: Tensor, before: Tensor, target: Tensor, new: Sequence[int], has_regions: bool, ddp: bool
) -> Tensor:
    """Kullback-Leibler divergence of what is said now from what was said before, summed over old outputs -> scalar.

    logits, before (B, K, spatial); target as nnU-Net gives it, (B, 1, spatial), or (B, regions, spatial), `new`: the
    new classes, from 0. Softmax: of background or new type, and each old type, over the voxels that are not annotated
    as new. Regions: of each old channel, over all voxels. `ddp`: over the samples of all processes.
    """
    logits, before = logits.float().flatten(2), before.float().flatten(2)  # (B, K, N)
    added = [index + (not has_regions) for index in new]
    old = [index for index in range(logits.shape[1]) if index not in added]
    if has_regions:
        logits, before = (torch.stack([F.logsigmoid(-x), F.logsigmoid(x)], 1) for x in (logits[:, old], before[:, old]))
        moved = divergence(logits, before).sum(1)  # (B, N)
        return mean_over(moved, torch.ones_like(moved), ddp)
    log_p = logits.log_softmax(1)
    background = log_p[:, [0, *added]].logsumexp(1, keepdim=True)
    log_p = torch.cat([background, log_p[:, old[1:]]], 1)
    counts = ~torch.isin(target.flatten(1), torch.tensor(added, device=target.device))  # (B, N)
    return mean_over(divergence(log_p, before[:, old].log_softmax(1)), counts, ddp)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Of log probabilities (B, O, ...) of now from those of before, summed over O."""
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)

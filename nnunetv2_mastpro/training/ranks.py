"""What the processes of one training (nnU-Net's -num_gpus) tell each other; alone, a process talks to itself."""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mastpro.errors import MASTProError


def gathered(value: Any) -> list:
    """Every process's value, in the order of ranks; all must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def mean_over(values: Tensor, counts: Tensor, ddp: bool) -> Tensor:
    """Mean of the values that count (counts of {0, 1}, of the same shape), 0 where none does -> scalar.

    With `ddp` the values that count in all processes are averaged: the mean over processes of what each of them gets,
    and so of the gradients, is that of one process with all the samples. All must call it.
    """
    total, processes = counts.sum(), 1
    if ddp:
        dist.all_reduce(total)
        processes = dist.get_world_size()
    return (values * counts).sum() * processes / total.clamp(min=1)


def check_batch(batch_size: int, processes: int) -> None:
    """Raise MASTProError where processes get shares of unequal size, at which nnU-Net's batch Dice hangs or stops."""
    if batch_size % processes:
        raise MASTProError(
            f"the plans' batch_size {batch_size} does not divide by {processes} GPUs, and nnU-Net's batch Dice wants "
            "equal shares; change batch_size in the plans, or -num_gpus"
        )


def send_no_buffers(network: DistributedDataParallel) -> DistributedDataParallel:
    """Keep DDP from sending the first process's buffers before each training step, and give the network back.

    They are alike everywhere. DDP also sends them before the first prediction of a process, and --val gives a process
    none where there are fewer cases than GPUs.
    """
    network.broadcast_buffers = False
    return network


def wrap_anew(network: DistributedDataParallel) -> DistributedDataParallel:
    """DDP as before around the same network: it fixes when it is built which parameters have gradients."""
    return send_no_buffers(DistributedDataParallel(network.module, device_ids=network.device_ids))


def unwrapped(network: nn.Module) -> nn.Module:
    """The network without the wrappers of DDP and torch.compile, in whichever order."""
    while isinstance(network, (DistributedDataParallel, OptimizedModule)):
        network = network.module if isinstance(network, DistributedDataParallel) else network._orig_mod
    return network

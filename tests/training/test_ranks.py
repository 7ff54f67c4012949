"""What processes tell each other, with one process; two are in tests/integration/ddp."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.ranks import gathered, mean_over, wrap_anew


@pytest.fixture
def group(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=(tmp_path / "rendezvous").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


VALUES = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])


@pytest.mark.parametrize(
    ("counts", "expected"), [([[1, 0, 1], [0, 0, 1]], 37 / 3), ([[1] * 3] * 2, 63 / 6), ([[0] * 3] * 2, 0.0)]
)
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_mean_over_what_counts(counts, expected, kind):
    assert_close(mean_over(VALUES, torch.tensor(counts).to(kind), ddp=False), torch.tensor(expected))


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_mean_over_a_group(group, kind):
    counts = torch.tensor([[1, 0, 1], [0, 0, 1]]).to(kind)
    assert_close(mean_over(VALUES, counts, ddp=True), torch.tensor(37 / 3))


def test_a_process_alone_gathers_its_own():
    assert gathered({"a": 1}) == [{"a": 1}]


def test_a_group_gathers(group):
    assert gathered({"a": 1}) == [{"a": 1}]


def test_ddp_is_wrapped_anew(group):
    """After freezing: the old one would wait for gradients that do not come. Buffers are not sent."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    old = DistributedDataParallel(network)
    assert old.will_sync_module_buffers()
    network[0].requires_grad_(False)
    anew = wrap_anew(old)
    assert anew.module is network
    assert not anew.will_sync_module_buffers()
    for _ in range(2):  # DDP complains of a missing gradient at the next pass
        anew(VALUES[:, :2]).sum().backward()
    assert network[1].weight.grad is not None
    assert network[0].weight.grad is None


@pytest.mark.parametrize("order", ["DDP outside", "compiled outside"])
def test_the_bare_network_is_found(make_trainer, request, order):
    """nnU-Net compiles first."""
    trainer = make_trainer()
    request.getfixturevalue("group")  # only now: nnU-Net's trainer takes a group to mean CUDA
    network = trainer.network
    if order == "DDP outside":
        trainer.network = DistributedDataParallel(torch.compile(network, backend="eager"))
    else:
        trainer.network = torch.compile(DistributedDataParallel(network), backend="eager")
    assert trainer.bare_network is network


def test_a_batch_that_ranks_cannot_share_alike(make_trainer, monkeypatch):
    """nnU-Net's own batch Dice gathers arrays of a row per sample."""
    trainer = make_trainer()
    trainer.is_ddp = True
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    trainer._build_loss()
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(
        MASTProError, match="batch_size 2 does not divide by 3 GPUs, .*; change batch_size in the plans"
    ):
        trainer._build_loss()


@pytest.mark.parametrize(("seed", "rank", "expected"), [(3, 0, 3), (3, 1, 4), (2**32 - 1, 1, 0)])
def test_each_rank_has_a_seed_of_its_own(make_trainer, seed, rank, expected):
    trainer = make_trainer(initialize=False)
    trainer.seed, trainer.local_rank = seed, rank
    trainer.initialize()
    assert torch.initial_seed() == expected

"""What experts promise: they start as the identity, types keep apart, usage is balanced and counted."""

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.experts import load_balance

CHANNELS, TASKS, SAMPLES = 4, 3, 3
GENERIC, SPECIFIC = 4, 2  # experts, shared and per type; as make_moe has them
MASKS = {"all": [1, 1, 1], "some": [1, 0, 1], "one": [0, 1, 0]}
DIFFERING = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 0, 0]])


def features(spatial=(2, 3)):
    return torch.randn(SAMPLES, CHANNELS, *spatial, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("spatial", [(4, 5), (4, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("routing", ["token", "sample"])
def test_it_starts_as_the_identity(make_moe, routing, joint, dtype, spatial):
    moe = make_moe(start=True, routing=routing, joint_router=joint)
    x = features(spatial).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert_close(moe(x, DIFFERING)[0], x, rtol=0, atol=0)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("routing", ["token", "sample"])
def test_a_masked_type_takes_no_part(make_moe, routing, joint):
    """Other types' outputs stay bit for bit, its own parameters get zeros, which DDP wants, and no count."""
    task_mask = torch.tensor([MASKS["some"]] * SAMPLES)  # without type 1
    moe = make_moe(routing=routing, joint_router=joint)
    before, choices = moe(features(), task_mask)
    (before.square().sum() + load_balance(choices)).backward()
    mine = moe.own_parameters(1)
    parameters = dict(moe.named_parameters())
    named = [parameters[name] for name in ("router.specific.1", "down.2", "up.2")]
    assert [*map(id, mine)] == [*map(id, named)]
    for parameter in mine:
        assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0, atol=0)
    assert all(parameter.grad is not None for parameter in moe.parameters())
    own = slice(GENERIC + SPECIFIC, GENERIC + 2 * SPECIFIC)
    assert not moe.kept[:, own].any()
    assert_close(moe.kept.sum(1), torch.full([SAMPLES], 3.0))
    with torch.no_grad():
        for parameter in mine:
            parameter.mul_(-7).add_(3)
    after = moe(features(), task_mask)
    assert_close(after, (before, choices), rtol=0, atol=0)
    assert not after[0].equal(moe(features(), torch.ones(SAMPLES, TASKS))[0])


@pytest.mark.parametrize("routing", ["token", "sample"])
def test_an_allowed_type_takes_part(make_moe, routing):
    task_mask = torch.tensor([MASKS["one"]] * SAMPLES)
    moe = make_moe(routing=routing)
    before, _ = moe(features(), task_mask)
    with torch.no_grad():
        moe.up[2].add_(1)
    assert (moe(features(), task_mask)[0] - before).abs().amax((1, 2, 3)).gt(1e-3).all()


@pytest.mark.parametrize("joint", [False, True])
def test_samples_do_not_see_each_other(make_moe, joint):
    moe = make_moe(joint_router=joint)
    x, task_mask = features(), DIFFERING
    together, _ = moe(x, task_mask)
    for sample in range(SAMPLES):
        one = slice(sample, sample + 1)
        assert_close(moe(x[one], task_mask[one])[0], together[one], rtol=1e-5, atol=1e-6)


def test_sample_routing_has_one_gate_per_patch_and_token_routing_one_per_voxel(make_moe):
    x = features((4, 5))
    kept = {}
    for routing in ("sample", "token"):
        moe = make_moe(routing=routing)
        moe(x, torch.ones(SAMPLES, TASKS))
        kept[routing] = moe.kept
        assert_close(moe.kept.sum(1), torch.full([SAMPLES], 3.0))
    assert {*kept["sample"].flatten().tolist()} == {0.0, 1.0}
    voxels = kept["token"] * 20
    assert_close(voxels, voxels.round())
    assert ((voxels > 0.5) & (voxels < 19.5)).any()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("routing", ["token", "sample"])
def test_balance_is_one_where_routing_is_uniform(make_moe, routing, mask):
    moe = make_moe(routing=routing)
    with torch.no_grad():
        for parameter in moe.router.parameters():
            parameter.zero_()
    _, choices = moe(features(), torch.tensor([MASKS[mask]] * SAMPLES))
    assert_close(load_balance(choices), torch.tensor(1.0))


def test_balance_grows_where_one_expert_takes_all(make_moe):
    moe = make_moe(num_tasks=0, top_k_generic=1)
    x = torch.ones(SAMPLES, CHANNELS, 2, 2)
    with torch.no_grad():
        moe.router.generic.zero_()
        moe.router.generic[2] = 5
    _, choices = moe(x, torch.ones(SAMPLES, 0))
    assert_close(load_balance(choices), torch.tensor(float(GENERIC)), rtol=1e-4, atol=0)


def test_balance_of_halves_is_that_of_the_whole(make_moe):
    """Once they share what has no gradient: as two processes do with two of four samples each, value and gradient."""
    moe, x = make_moe(), torch.cat([features(), features() * -3])
    masks = torch.tensor([MASKS["some"], MASKS["all"]]).repeat_interleave(SAMPLES, 0)
    parameters = list(moe.router.parameters())
    whole = load_balance(moe(x, masks)[1])
    halves = [moe(half, mask)[1] for half, mask in zip(x.chunk(2), masks.chunk(2), strict=True)]
    shared = (halves[0] + halves[1])[:2].detach() / 2
    joined = sum(load_balance(torch.cat([shared, half[2:]])) for half in halves) / 2
    assert_close(joined, whole)
    assert_close(torch.autograd.grad(joined, parameters), torch.autograd.grad(whole, parameters))
    assert not torch.isclose(sum(map(load_balance, halves)) / 2, whole, rtol=1e-3)


def test_balance_teaches_the_losers(make_moe):
    """An expert that is never kept gets its router's gradient from the balance term alone."""
    moe = make_moe(num_tasks=0, top_k_generic=1)
    x = torch.ones(SAMPLES, CHANNELS, 2, 2)
    out, choices = moe(x, torch.ones(SAMPLES, 0))
    (from_output,) = torch.autograd.grad(out.square().sum(), [moe.router.generic], retain_graph=True)
    (from_balance,) = torch.autograd.grad(load_balance(choices), [moe.router.generic])
    losers = moe.kept.sum(0) == 0
    assert losers.sum() == GENERIC - 1
    assert (from_output[losers] == 0).all()
    assert (from_balance[losers] != 0).all()


def test_what_is_kept_is_told_in_training_only_and_is_not_saved(make_moe):
    moe, task_mask = make_moe(), torch.ones(SAMPLES, TASKS)
    _, choices = moe.eval()(features(), task_mask)
    assert choices is None
    assert moe.kept.shape == (0, GENERIC + TASKS * SPECIFIC)
    moe.train()(features(), task_mask)
    assert moe.kept.sum(1).tolist() == [3] * SAMPLES
    assert not [name for name in moe.state_dict() if "kept" in name]


def test_evaluation_gives_what_training_gives(make_moe):
    moe, task_mask = make_moe(), DIFFERING
    trained, _ = moe.train()(features(), task_mask)
    assert_close(moe.eval()(features(), task_mask)[0], trained, rtol=0, atol=0)


def test_types_own_their_parameters(make_moe):
    """Those of one type can be saved, frozen or stepped without the others'."""
    moe = make_moe()
    shapes = {name: tuple(parameter.shape) for name, parameter in moe.named_parameters()}
    own = {f"router.specific.{task}": (SPECIFIC, CHANNELS) for task in range(TASKS)}
    own |= {f"down.{task + 1}": (SPECIFIC, 3, CHANNELS) for task in range(TASKS)}
    own |= {f"up.{task + 1}": (SPECIFIC, CHANNELS, 3) for task in range(TASKS)}
    shared = {"router.generic": (GENERIC, CHANNELS), "down.0": (GENERIC, 3, CHANNELS), "up.0": (GENERIC, CHANNELS, 3)}
    assert shapes == own | shared


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("none", [{"num_tasks": 0}, {"num_specific": 0}])
def test_without_specific_experts_all_is_shared(make_moe, none, joint):
    moe = make_moe(joint_router=joint, **none)
    assert {name for name, _ in moe.named_parameters()} == {"router.generic", "down.0", "up.0"}
    assert moe.kept.shape[1] == GENERIC


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("routing", ["sample", "token"])
def test_choices_are_made_in_full_precision(make_moe, routing, joint):
    """Autocast would round the router's logits, and with them what is kept."""
    moe = make_moe(routing=routing, joint_router=joint)
    logits = []
    moe.router.register_forward_hook(lambda module, inputs, output: logits.append(output))
    x = torch.randn(2, 4, 3, 3)
    moe(x, torch.ones(2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        moe(x, torch.ones(2, 3))
    assert torch.equal(*logits)
    assert moe.double()(x.double(), torch.ones(2, 3))[0].dtype == torch.float64

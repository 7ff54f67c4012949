"""Routers and experts against loops over samples, voxels and experts, written from Eq. 3-5."""

import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.network.experts import Router, keep_top_k, load_balance

CHANNELS, TASKS, SAMPLES = 4, 3, 3
GENERIC, SPECIFIC = 4, 2  # experts, shared and per type; as make_moe has them
MASKS = {
    "all": [[1, 1, 1]] * SAMPLES,
    "none": [[0, 0, 0]] * SAMPLES,
    "some": [[1, 0, 1]] * SAMPLES,
    "one": [[0, 1, 0]] * SAMPLES,
    "differing": [[1, 1, 1], [0, 0, 1], [0, 0, 0]],
}
LOWEST = torch.finfo(torch.float32).min


def features(spatial=(2, 3)):
    return torch.randn(SAMPLES, CHANNELS, *spatial, generator=torch.Generator().manual_seed(5))


def loop_logits(router, voxel, tasks):
    """Eq. 4 for the features of one voxel, a list over experts, generic first, then type by type."""
    generic = [row @ voxel for row in router.generic.double()]
    own, on = [], [task for task, chosen in enumerate(tasks) if chosen]
    for task, rows in enumerate(router.specific):
        rows = list(rows.double())
        if router.joint:
            for expert in range(router.num_generic):
                if task in on:
                    generic[expert] = generic[expert] + (rows[expert] @ voxel) / len(on)
            rows = rows[router.num_generic :]
        own += [row @ voxel for row in rows]
    return generic + own


def loop_groups(moe, tasks):
    """(experts that may be kept, how many are) of the generic group and of the types' own."""
    own = range(moe.num_generic, moe.num_generic + moe.num_tasks * moe.num_specific)
    on = [expert for expert in own if tasks[(expert - moe.num_generic) // moe.num_specific]]
    return (list(range(moe.num_generic)), moe.top_k_generic), (on, moe.top_k_specific)


def loop_gates(moe, logits, tasks):
    """Eq. 5 in each group, then one softmax over what is kept: expert -> gate."""
    kept = []
    for allowed, k in loop_groups(moe, tasks):
        kept += sorted(allowed, key=lambda expert: -logits[expert].item())[:k]
    total = sum(logits[expert].exp() for expert in kept)
    return {expert: logits[expert].exp() / total for expert in kept}


def loop_expert(moe, expert, x, place):
    """E_i of Eq. 3 at a place of x (C, spatial): down, GELU, up."""
    stacks = [[down[i], up[i]] for down, up in zip(moe.down, moe.up, strict=True) for i in range(len(down))]
    down, up = (factor.double() for factor in stacks[expert])
    hidden = down @ x[(slice(None), *place)]
    return up @ (0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))


def loop_moe(moe, x, task_mask):
    """y = x + sum_i g_i E_i(x) of Eq. 3, the balance term, and the share of a sample's choices that keep an expert."""
    x, out, usage = x.double(), torch.empty_like(x, dtype=torch.float64), torch.zeros(len(x), moe.kept.shape[1])
    routed, of_sample = [], []  # (logits, gates, tasks) of every choice, and its sample
    for sample, tasks in enumerate(task_mask.tolist()):
        voxels = [(sample, slice(None), *place) for place in product(*map(range, x.shape[2:]))]
        if moe.routing == "sample":
            logits = loop_logits(moe.router, sum(x[voxel] for voxel in voxels) / len(voxels), tasks)
            routed.append((logits, loop_gates(moe, logits, tasks), tasks))
            of_sample.append(sample)
        for voxel in voxels:
            if moe.routing == "token":
                logits = loop_logits(moe.router, x[voxel], tasks)
                routed.append((logits, loop_gates(moe, logits, tasks), tasks))
                of_sample.append(sample)
            mixed = [gate * loop_expert(moe, expert, x[sample], voxel[2:]) for expert, gate in routed[-1][1].items()]
            out[voxel] = x[voxel] + sum(mixed)
    for sample, (_, gates, _) in zip(of_sample, routed, strict=True):
        for expert in gates:
            usage[sample, expert] += 1 / of_sample.count(sample)
    return out, loop_balance(moe, routed), usage


def loop_balance(moe, routed):
    """E sum_e f_e P_e, mean over the groups in which there is a choice."""
    terms = []
    for group, k in loop_groups(moe, [1] * moe.num_tasks):
        if k == 0 or len(group) < 2:
            continue
        share, probability, seen = dict.fromkeys(group, 0), dict.fromkeys(group, 0), set()
        for logits, gates, tasks in routed:
            allowed = [expert for expert in sum((who for who, _ in loop_groups(moe, tasks)), []) if expert in group]
            total = sum(logits[expert].exp() for expert in allowed)
            for expert in allowed:
                seen.add(expert)
                share[expert] += (expert in gates) / k / len(routed)
                probability[expert] += logits[expert].exp() / total / len(routed)
        terms.append(len(seen) * sum(share[expert] * probability[expert] for expert in group))
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def gradients(outputs, inputs, seed=7):
    """Of a random weighting of the outputs; an input that is not used gets zeros."""
    generator = torch.Generator().manual_seed(seed)
    weighted = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outputs)
    return torch.autograd.grad(weighted, inputs, allow_unused=True, materialize_grads=True)


def assert_same_as_the_loop(moe, spatial, task_mask):
    x = features(spatial).requires_grad_()
    found, choices = moe.train()(x, task_mask)
    balance = load_balance(choices)
    expected, expected_balance, usage = loop_moe(moe, x, task_mask)
    assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    assert_close(balance, expected_balance.float(), rtol=1e-5, atol=1e-5)
    assert_close(moe.kept, usage)
    inputs = [x, *moe.parameters()]
    found, expected = gradients([found, balance], inputs), gradients([expected, expected_balance], inputs)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spatial", [(2, 3), (2, 1, 3)])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("routing", ["token", "sample"])
def test_moe_is_the_loop(make_moe, routing, joint, mask, spatial):
    moe = make_moe(routing=routing, joint_router=joint)
    assert_same_as_the_loop(moe, spatial, torch.tensor(MASKS[mask], dtype=torch.float32))


@pytest.mark.parametrize("mask", ["all", "differing"])
@pytest.mark.parametrize("routing", ["token", "sample"])
@pytest.mark.parametrize(
    "values",
    [
        {"top_k_generic": 1, "top_k_specific": 2},
        {"top_k_generic": GENERIC, "top_k_specific": 2},
        {"top_k_specific": 0},
        {"num_generic": 1, "top_k_generic": 1, "num_specific": 1},
        {"num_generic": 1, "top_k_generic": 1, "num_specific": 0},
        {"num_specific": 3, "top_k_specific": 3, "joint_router": True},
        {"num_specific": 0},
        {"num_specific": 0, "joint_router": True},
    ],
    ids=lambda values: " ".join(f"{name}={value}" for name, value in values.items()),
)
def test_moe_of_other_sizes_is_the_loop(make_moe, values, routing, mask):
    moe = make_moe(routing=routing, **values)
    assert_same_as_the_loop(moe, (2, 2), torch.tensor(MASKS[mask], dtype=torch.float32))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("routing", ["token", "sample"])
def test_without_tumour_types_generic_experts_are_left(make_moe, routing, joint):
    moe = make_moe(num_tasks=0, routing=routing, joint_router=joint)
    assert moe.kept.shape[1] == GENERIC
    assert_same_as_the_loop(moe, (2, 2), torch.ones(SAMPLES, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
@pytest.mark.parametrize("joint", [False, True])
def test_router_is_the_loop(joint, dtype):
    torch.manual_seed(0)
    router = Router(dim=CHANNELS, num_generic=GENERIC, num_specific=SPECIFIC, num_tasks=TASKS, joint=joint)
    x = features().requires_grad_()
    task_mask = torch.tensor(MASKS["differing"]).to(dtype)
    found = router(x, task_mask)
    expected = torch.empty_like(found, dtype=torch.float64)
    for sample, row, column in product(range(SAMPLES), range(2), range(3)):
        voxel = x[sample, :, row, column].double()
        expected[sample, :, row, column] = torch.stack(loop_logits(router, voxel, task_mask[sample].tolist()))
    assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    inputs = [x, *router.parameters()]
    for one, other in zip(gradients([found], inputs), gradients([expected], inputs), strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_only_the_joint_router_has_rows_for_the_generic_experts():
    sizes = {"dim": CHANNELS, "num_generic": GENERIC, "num_specific": SPECIFIC, "num_tasks": TASKS}
    rows = {joint: [len(part) for part in Router(**sizes, joint=joint).specific] for joint in (False, True)}
    assert rows == {False: [SPECIFIC] * TASKS, True: [GENERIC + SPECIFIC] * TASKS}


@pytest.mark.parametrize(
    ("logits", "allowed", "k", "kept"),
    [
        ([3, 1, 2, 4], [1, 1, 1, 1], 2, [1, 0, 0, 1]),
        ([3, 1, 2, 4], [1, 1, 1, 0], 2, [1, 0, 1, 0]),
        ([3, 1, 2, 4], [0, 1, 0, 0], 2, [0, 1, 0, 0]),  # fewer allowed than k
        ([3, 1, 2, 4], [0, 0, 0, 0], 2, [0, 0, 0, 0]),
        ([3, 1, 2, 4], [1, 1, 1, 1], 0, [0, 0, 0, 0]),
        ([3, 1, 2, 4], [1, 1, 1, 1], 4, [1, 1, 1, 1]),
        ([-3, -1, -2, -4], [1, 0, 1, 1], 1, [0, 0, 1, 0]),
        ([], [], 0, []),
    ],
)
def test_keep_top_k(logits, allowed, k, kept):
    logits, allowed = torch.tensor([logits], dtype=torch.float32), torch.tensor([allowed], dtype=torch.bool)
    expected = logits.where(torch.tensor([kept]).bool(), torch.tensor(LOWEST))
    assert_close(keep_top_k(logits, allowed, k), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dim", [1, 2])
def test_keep_top_k_along_a_dimension(dim):
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    allowed = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = torch.full_like(logits, LOWEST)
    for line in product(range(2), range(logits.shape[3 - dim])):
        place = (line[0], slice(None), line[1]) if dim == 1 else (*line, slice(None))
        candidates = [index for index, on in enumerate(allowed[place].tolist()) if on]
        for index in sorted(candidates, key=lambda index: -logits[place][index].item())[:2]:
            expected[place][index] = logits[place][index]
    assert_close(keep_top_k(logits, allowed, 2, dim), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keep_top_k_in_half_precision_leaves_no_weight(dtype):
    kept = keep_top_k(torch.tensor([[5.0, 4.0, 9.0]], dtype=dtype), torch.tensor([[True, True, False]]), 1)
    assert_close(kept.softmax(1), torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype), rtol=0, atol=0)

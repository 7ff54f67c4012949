"""Classes that take no part in evaluation, and types that were added to a trained network."""

import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.network.experts import load_balance

CLASSES = {"liver": False, "liver_tumor": True, "kidney_tumor": True}
GROWN = {**CLASSES, "lung_tumor": True}
NEW, OUTPUTS = 3, 4  # class of the new type; outputs before it
LIVER = HostValue(value=1, channel=0, structures=("liver",), classes=(0, 1))
KIDNEYS = HostValue(value=2, channel=1, structures=("kidney_left", "kidney_right"), classes=(2,))
SPLIT = (  # the new type lives in one kidney, so that maps number the hosts of the old types otherwise
    HostValue(value=3, channel=2, structures=("liver",), classes=(0, 1)),
    HostValue(value=1, channel=0, structures=("kidney_left",), classes=(2, 3)),
    HostValue(value=2, channel=1, structures=("kidney_right",), classes=(2,)),
)
ROUTING = list(itertools.product(("sample", "token"), ("split", "joint")))


@pytest.fixture
def make_pair(make_network, randomize):
    """`make_pair(...)`: a network, and one with a type more whose other weights are the same."""

    def make(hosts=((), ()), classes=CLASSES, **options):
        values = {"deep_supervision": False, "top_k_specific": 3, **options}
        channels = (3, 4) if hosts[0] else (0, 0)
        old = randomize(make_network(classes=classes, hosts=hosts[0], organ_channels=channels[0], **values))
        new = {**classes, "lung_tumor": True}
        values["added"] = (*values.get("added", ()), "lung_tumor")
        grown = randomize(make_network(classes=new, hosts=hosts[1], organ_channels=channels[1], **values), seed=7)
        state = grown.state_dict()
        for name, tensor in old.state_dict().items():
            state[name] = torch.cat([tensor, state[name][-1:]]) if name == "embeddings" else tensor
        grown.load_state_dict(state)
        return old.eval(), grown.eval()

    return make


def one_hot(values, count):
    """A label map (B, spatial) -> channels (B, count, spatial) of its values 1 to count."""
    return torch.stack([(values == value).float() for value in range(1, count + 1)], 1)


def same_bits(found, expected):
    assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(torch.signbit(found), torch.signbit(expected))


@pytest.mark.parametrize(("routing", "router"), ROUTING)
@pytest.mark.parametrize("has_background", [True, False])
def test_a_type_that_is_not_selected_changes_no_bit(make_pair, make_image, routing, router, has_background):
    old, grown = make_pair(routing=routing, router=router, has_background=has_background)
    image = make_image()
    outputs = OUTPUTS if has_background else OUTPUTS - 1
    assert grown(image)[:, :outputs].equal(old(image))  # its own logit comes from a pass of its own
    grown.left_out = [NEW]
    found = grown(image)
    same_bits(found[:, :outputs], old(image))
    if has_background:
        assert (found[:, -1] < old(image).amin(1) - 19).all()
        same_bits(found.softmax(1)[:, :outputs], old(image).softmax(1))  # what nnU-Net saves
    else:
        assert (found[:, -1] == -10).all()


@pytest.mark.parametrize(("routing", "router"), ROUTING)
def test_nor_one_added_earlier(make_pair, make_image, routing, router):
    """The offset of its own prompt stays in the sum of an older added type."""
    old, grown = make_pair(routing=routing, router=router, added=("kidney_tumor",))
    assert old.offsets[0].abs().min() > 0
    old.left_out, grown.left_out = [1], [1, NEW]
    same_bits(grown(make_image())[:, :OUTPUTS], old(make_image()))


@pytest.mark.parametrize("hosts", [((LIVER, KIDNEYS), (LIVER, KIDNEYS)), ((LIVER, KIDNEYS), SPLIT)])
@pytest.mark.parametrize("routing", ["sample", "token"])
@pytest.mark.parametrize("skip", [False, True])
def test_nor_with_organ_masks(make_pair, make_image, hosts, routing, skip):
    """One channel more, or the same organs under other values, or the new type's own organ beside them."""
    old, grown = make_pair(hosts, routing=routing)
    grown.left_out = [NEW]
    old.skip_empty = grown.skip_empty = skip
    image = make_image(samples=4)
    generator = torch.Generator().manual_seed(0)
    organs = torch.randint(0, 4, image[:, 0].shape, generator=generator)  # 1 liver, 2 left, 3 right kidney
    organs[:, :, :7] = 0
    organs[1], organs[2] = 0, organs[2].clamp(max=1)
    before = torch.tensor([0, 1, 2, 2])[organs]
    after = torch.tensor([0, 3, 1, 2])[organs] if hosts[1] is SPLIT else before
    for batch in (slice(None), slice(1, 2)):
        new_organ = torch.where(after == 0, 4, after) if hosts[1] is not SPLIT else after
        for values in (after, new_organ):
            found = grown(torch.cat([image, one_hot(values, 4)], 1)[batch])
            expected = old(torch.cat([image, one_hot(before, 3)], 1)[batch])
            same_bits(found[:, :OUTPUTS], expected)
            same_bits(found.softmax(1)[:, :OUTPUTS], expected.softmax(1))


def test_skipping_looks_at_the_hosts_of_each_pass(make_pair, make_image):
    """Where only the new type's host is, the old types' pass stays skipped, and the other way round."""
    lungs = HostValue(value=3, channel=2, structures=("lung_upper_lobe_left",), classes=(NEW,))
    old, grown = make_pair(((LIVER, KIDNEYS), (LIVER, KIDNEYS, lungs)))
    old.skip_empty = True
    image, ran = make_image(), []
    grown.backbone.encoder.stages[0].register_forward_hook(lambda *_: ran.append(1))
    for value, passes in ((0, 0), (1, 1), (3, 1)):
        organs = torch.zeros_like(image[:, 0], dtype=torch.long)
        organs[:, :4] = value
        batch = torch.cat([image, one_hot(organs, 4)], 1)
        grown.skip_empty = False
        whole = grown(batch)
        ran.clear()
        grown.skip_empty = True
        found = grown(batch)
        assert len(ran) == passes
        same_bits(found[:, :OUTPUTS], old(torch.cat([image, one_hot(organs, 3)], 1)))
        odds = whole[:, -1:] - whole[:, :1] if value == 3 else torch.full_like(whole[:, :1], -10)
        assert_close(found[:, -1:] - found[:, :1], odds)


@pytest.mark.parametrize(("routing", "router"), ROUTING)
@pytest.mark.parametrize("mask", [None, torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])])
def test_gathering_means_what_masking_means(make_network, randomize, make_image, routing, router, mask):
    """Up to rounding; the mask of the others is kept."""
    network = randomize(make_network(classes=GROWN, routing=routing, router=router, deep_supervision=False)).eval()
    full = torch.tensor([[1.0, 1.0, 0.0]] * 2) if mask is None else mask
    expected = network(make_image(), full)
    network.left_out = [NEW]
    found = network(make_image(), mask)
    assert_close(found[:, :OUTPUTS], expected[:, :OUTPUTS], rtol=1e-4, atol=1e-4)


def test_what_is_left_out_is_not_read(make_network, randomize, make_image):
    """Nothing that the type owns can reach any output, not even as a NaN."""
    network = randomize(make_network(classes=GROWN, added=("lung_tumor",), deep_supervision=False)).eval()
    network.left_out = [NEW]
    expected = network(make_image())
    with torch.no_grad():
        network.embeddings[NEW] = torch.nan
        for parameter in network.own_parameters([NEW]):
            parameter.fill_(torch.nan)
    assert_close(network(make_image()), expected, rtol=0, atol=0)


def test_training_leaves_nothing_out(make_network, make_image):
    network = make_network(classes=GROWN)
    expected = network(make_image()).logits[0]
    network.left_out = [NEW]
    assert_close(network(make_image()).logits[0], expected, rtol=0, atol=0)


def test_the_offset_of_a_prompt_starts_at_zero_and_is_its_own(make_network, make_image):
    plain, added = make_network(classes=GROWN), make_network(classes=GROWN, added=("lung_tumor",))
    added.embeddings.copy_(plain.embeddings)
    more = added.state_dict().keys() - plain.state_dict().keys()
    assert {name for name in more if not name.startswith("added_updates.")} == {"offsets.0"}
    assert_close(added.prompts(), plain.prompts(), rtol=0, atol=0)
    with torch.no_grad():
        added.offsets[0].fill_(2.0)
    assert_close(added.prompts() - plain.prompts(), torch.tensor([[0.0], [0.0], [0.0], [2.0]]).expand(-1, 5))


@pytest.mark.parametrize(("routing", "router"), ROUTING)
def test_only_what_the_new_type_owns_is_trained(make_planned, make_network, randomize, make_image, routing, router):
    """With BatchNorm too, whose running statistics are no parameters. Each of the parameters gets a gradient."""
    planned = make_planned(norm="BatchNorm")
    network = make_network(planned, classes=GROWN, added=("lung_tumor",), routing=routing, router=router)
    randomize(network, 0.2).freeze_all_but([NEW])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    sites = [f"experts.{site}" for site in network.experts]
    own = [(f"{site}.router.specific.2", f"{site}.down.3", f"{site}.up.3") for site in sites]
    own.append(tuple(f"added_updates.0.{name}" for name, _ in network.added_updates[0].named_parameters()))
    assert trained == {"offsets.0", *itertools.chain(*own)}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):
        network.train()
        out = network(make_image())
        optimizer.zero_grad()
        (sum(stage.square().mean() for stage in out.logits) + out.presence.sum() + load_balance(out.choices)).backward()
        assert all(network.get_parameter(name).grad is not None for name in trained)
        optimizer.step()
        network.eval()(make_image())
    after = network.state_dict()
    assert {name for name in before if not before[name].equal(after[name])} == trained


def test_several_new_types_are_balanced_each(make_network, randomize, make_image):
    network = randomize(make_network(classes=GROWN, added=("kidney_tumor", "lung_tumor")), 0.2)
    network.freeze_all_but([2, NEW])
    load_balance(network.train()(make_image()).choices).backward()
    for moe in network.experts.values():
        assert all(moe.router.specific[task].grad.abs().sum() > 0 for task in (1, 2))


def test_usage_counts_every_pass(make_network, randomize, make_image):
    """A type's experts take part in its own pass; the generic ones in all."""
    network = randomize(make_network(classes=GROWN, added=("kidney_tumor", "lung_tumor"), top_k_specific=3).train())
    network.host_task_share = network.annotated_task_share = 0.0
    expected = []
    for classes in network.passes(None):
        network.look_for(make_image(), None, None, classes)
        expected.append([moe.kept for moe in network.experts.values()])
    network(make_image())
    for moe, shares in zip(network.experts.values(), zip(*expected, strict=True), strict=True):
        assert moe.kept.equal(torch.stack(shares).amax(0))
        assert (moe.kept[:, moe.num_generic :].unflatten(1, (3, -1)).sum(2) > 0).all()


@pytest.mark.parametrize("added", [("lung_tumor",), ("kidney_tumor", "lung_tumor")])
def test_a_grown_network_compiles_as_one_graph(make_network, randomize, make_image, added):
    """On a rank of its own; one graph for training and one for prediction, whatever step it is."""
    network = randomize(make_network(classes=GROWN, added=added, backbone_rank=2), 0.2)
    network.host_task_share = network.annotated_task_share = 0.0
    network.freeze_all_but([NEW])
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(network, fullgraph=True, backend=counter)
    for _ in range(3):
        network.train()
        expected, found = network(make_image()), compiled(make_image())
        assert_close(found, expected, rtol=0, atol=0)
        (found.logits[0].square().mean() + load_balance(found.choices)).backward()
        network.eval()
        with torch.no_grad():
            assert_close(compiled(make_image()), network(make_image()), rtol=0, atol=0)
    assert counter.frame_count == 2

"""Stock nnU-Net and MAST-Pro as sources: what nnU-Net then loads, what is frozen, and what is told."""

import re

import pytest
import torch
from torch.testing import assert_close


def with_updates(rank):
    return lambda plans: plans["mastpro"]["network"].update(backbone_rank=rank)


def test_stock_nnunet(write_plans, load_as_nnunet, stock_checkpoint, convert, counts):
    """The planned network's features, bit for bit, and none of its segmentation layers."""
    plans = write_plans()
    source = stock_checkpoint(plans)
    start, text = convert(source, plans)
    network, vectors = load_as_nnunet(plans, "2d", start)
    given = torch.load(source)["network_weights"]
    found = network.backbone.state_dict()
    assert {name for name in given if ".seg_layers." not in name} == found.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, given[name]), name
    assert torch.equal(network.embeddings, vectors)
    assert network.trained
    assert "a checkpoint of nnU-Net" in text
    assert "matched 100.0% of the parameters of backbone\n" in text
    unique = {id(tensor) for tensor in network.backbone.state_dict(keep_vars=True).values()}
    assert counts(text)["loaded"] == len(unique) < len(found)
    numbers = sum(parameter.numel() for parameter in network.backbone.parameters())
    assert f"{numbers:,} numbers" in text
    assert counts(text)["ignored"] == sum(".seg_layers." in name for name in given)


def test_the_backbone_of_the_universal_trainer(write_plans, load_as_nnunet, stock_checkpoint, convert, tmp_path):
    """It lies beside a head, under our own name."""
    plans = write_plans()
    checkpoint = torch.load(stock_checkpoint(plans))
    given = {name: tensor for name, tensor in checkpoint["network_weights"].items() if ".seg_layers." not in name}
    renamed = {f"backbone.{name}": tensor for name, tensor in given.items()}
    torch.save({**checkpoint, "network_weights": {**renamed, "head.layer.weight": torch.ones(1)}}, tmp_path / "u.pth")
    start, text = convert(tmp_path / "u.pth", plans)
    network, _ = load_as_nnunet(plans, "2d", start)
    assert "matched 100.0% of the parameters of backbone\n" in text
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, given[name]), name


@pytest.mark.parametrize("rank", [0, 3])
def test_mastpro_of_other_classes(write_plans, load_as_nnunet, mastpro_checkpoint, convert, rank, counts):
    """Shared parts and types that are in both, by name; the rest is new."""
    labels = {"background": 0, "kidney_tumor": 1, "spleen": 2, "lung_tumor": 3, "liver_tumor": 4}
    source = mastpro_checkpoint(write_plans("other", labels, change=with_updates(rank)))
    plans = write_plans(change=with_updates(rank))
    start, text = convert(source, plans)
    given, found = torch.load(source)["network_weights"], torch.load(start)["network_weights"]
    network, vectors = load_as_nnunet(plans, "2d", start)
    types = {0: 2, 1: 0}  # liver_tumor, kidney_tumor: their places among the types, here and there
    for name, tensor in found.items():
        experts = re.fullmatch(r"(experts\.\w+\.(?:router\.specific|down|up)\.)(\d+)", name)
        if name in ("embeddings", "trained"):
            continue
        if experts is None:
            expected = given[name]
        elif "specific" in name:
            expected = given[f"{experts[1]}{types[int(experts[2])]}"]
        elif experts[2] == "0":
            expected = given[name]
        else:
            expected = given[f"{experts[1]}{1 + types[int(experts[2]) - 1]}"]
        assert torch.equal(tensor, expected), name
    assert torch.equal(found["background"], given["background"])
    assert torch.equal(network.embeddings, vectors)
    assert network.trained
    assert counts(text)["re-initialised"] == 0


def test_a_backbone_is_given_updates(write_plans, build, mastpro_checkpoint, convert, load_as_nnunet, counts):
    """What was trained without them stays the same network until they are trained: PEFT may have more than stage 1."""
    without, plans = write_plans("without"), write_plans(change=with_updates(3))
    source = mastpro_checkpoint(without)
    start, text = convert(source, plans)
    network, _ = load_as_nnunet(plans, "2d", start)
    assert counts(text)["re-initialised"] == len([*network.updates.parameters()]) > 0
    assert network.trained
    before, *_ = build(without)
    before.load_state_dict(torch.load(source)["network_weights"] | {"embeddings": network.embeddings})
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert_close(network.eval()(image), before.eval()(image))


@pytest.mark.parametrize("rank", [0, 2])
def test_trained_updates_are_not_left_behind(write_plans, mastpro_checkpoint, refused, tmp_path, rank):
    """Experts and head were trained on the updated backbone."""
    source = mastpro_checkpoint(write_plans("with", change=with_updates(3)))
    plans = write_plans(change=with_updates(rank))
    shown = refused("--from", source, "--plans", plans, "-c", "2d", "-o", tmp_path / "start.pth")
    assert "was trained with backbone_rank=3, the plans have another; set mastpro.network.backbone_rank" in shown


def test_updates_that_change_nothing_may_go(write_plans, mastpro_checkpoint, convert):
    """As after a stage 1 that trained everything, in which they stay as they start."""
    source = mastpro_checkpoint(write_plans("with", change=with_updates(3)))
    content = torch.load(source)
    for name, tensor in content["network_weights"].items():
        if name.startswith(("updates.up.", "updates.shift.")):
            tensor.zero_()
    torch.save(content, source)
    start, _ = convert(source, write_plans())
    assert int(torch.load(start)["network_weights"]["trained"]) == 1


def test_mastpro_without_a_type_in_common(write_plans, mastpro_checkpoint, convert, counts):
    """A type that the source lacks starts as the identity; liver was an organ there too, and is no type here."""
    labels = {"background": 0, "liver": 1, "lung_tumor": 2}
    source = mastpro_checkpoint(write_plans("other", labels))
    start, text = convert(source, write_plans())
    given, found = torch.load(source)["network_weights"], torch.load(start)["network_weights"]
    owned = [name for name in found if re.fullmatch(r"experts\.\w+\.(router\.specific\.\d+|(down|up)\.[12])", name)]
    assert counts(text)["re-initialised"] == len(owned)
    for name in owned:
        if ".up." in name:
            assert not found[name].any(), name
    assert torch.equal(found["head.mlp.0.weight"], given["head.mlp.0.weight"])


def test_an_untrained_source_stays_untrained(write_plans, mastpro_checkpoint, convert):
    plans = write_plans()
    start, text = convert(mastpro_checkpoint(plans, trained=False), plans)
    assert not torch.load(start)["network_weights"]["trained"]
    assert "trains everything" in text


def test_what_it_wrote_is_a_source_too(write_plans, stock_checkpoint, convert):
    plans = write_plans()
    first, _ = convert(stock_checkpoint(plans), plans)
    second, text = convert(first, plans, output="second.pth")
    assert "a MAST-Pro checkpoint" in text
    before, after = (torch.load(file)["network_weights"] for file in (first, second))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert_close(after[name], tensor, rtol=0, atol=0)


def test_the_seed(write_plans, stock_checkpoint, convert, monkeypatch):
    """What is re-initialised follows MASTPRO_SEED, as the trainer's own weights do."""
    plans = write_plans()
    source = stock_checkpoint(plans)
    routers = []
    for seed, output in (("1", "a.pth"), ("1", "b.pth"), ("2", "c.pth")):
        monkeypatch.setenv("MASTPRO_SEED", seed)
        start, _ = convert(source, plans, output=output)
        routers.append(torch.load(start)["network_weights"]["experts.encoder_1.router.generic"])
    assert torch.equal(routers[0], routers[1])
    assert not torch.equal(routers[0], routers[2])


@pytest.mark.parametrize("ablate", [["experts"], ["text", "anatomy"], ["text"], ["text", "anatomy", "experts"]])
def test_an_ablated_network_takes_what_it_has(write_plans, mastpro_checkpoint, convert, build, ablate):
    source = mastpro_checkpoint(write_plans("whole"))
    plans = write_plans("ablated", change=lambda plans: plans["mastpro"]["network"].update(ablate=ablate))
    start, shown = convert(source, plans)
    network, _, block, _ = build(plans)
    weights = torch.load(start)["network_weights"]
    network.load_state_dict(weights)
    assert block["mastpro"]["network"]["ablate"] == ablate
    given = torch.load(source)["network_weights"]
    shared = {name for name in weights if name in given} - {"embeddings", "trained"}
    assert {name.split(".")[0] for name in shared} >= {"backbone"}
    assert all(weights[name].equal(given[name]) for name in shared)
    assert bool(weights["trained"])
    assert "matched 100.0%" in shown


@pytest.mark.parametrize("ablate", [["text"], ["text", "anatomy"]])
def test_rows_of_classes_are_not_taken_for_other_classes(write_plans, mastpro_checkpoint, convert, ablate):
    """Without text a class is known by its place, which says nothing of another data set's."""

    def plans(name, *labels):
        values = {label: value for value, label in enumerate(("background", *labels))}
        return write_plans(name, values, lambda plans: plans["mastpro"]["network"].update(ablate=ablate))

    source = mastpro_checkpoint(plans("first", "liver_tumor", "kidney_tumor"))
    given = torch.load(source)["network_weights"]
    by_class = [name for name in given if name in ("text.vectors", "head.presence") or name.startswith("head.layers.")]
    assert by_class
    for name, labels in (("same", ("liver_tumor", "kidney_tumor")), ("other", ("lung_tumor", "colon_tumor"))):
        start, _ = convert(source, plans(name, *labels), output=f"{name}.pth")
        weights = torch.load(start)["network_weights"]
        assert [weights[row].equal(given[row]) for row in by_class if row in weights] == [name == "same"] * len(
            by_class
        )

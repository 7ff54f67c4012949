"""Every source in its own layout: what nnU-Net then loads, what is frozen, and what is told."""

import re
import warnings

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from safetensors.torch import save_file
from torch.testing import assert_close

from nnunetv2_mastpro.network.planned import SWIN_UNETR

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from monai.networks.nets import SwinUNETR

SWIN = {"network_class_name": SWIN_UNETR, "_kw_requires_import": []}
CONFIGURATION = "3d_fullres"  # SwinUNETR in these tests' plans


@pytest.fixture
def swin():
    """MONAI's own network, as others have trained it."""
    torch.manual_seed(7)
    return SwinUNETR(in_channels=1, out_channels=14, feature_size=12)


def monai_weights(network, prefix="", keep=lambda name: True):
    return {prefix + name: tensor for name, tensor in network.state_dict().items() if keep(name)}


def has_no_out(name):
    return not name.startswith("out.")


def write_swinvit(network, file, root="module."):
    """model_swinvit.pt of MONAI's release: bare names of a DDP-wrapped encoder, timm's names of the MLP."""
    encoder = {
        root + name.removeprefix("swinViT.").replace("mlp.linear", "mlp.fc"): tensor
        for name, tensor in network.state_dict().items()
        if name.startswith("swinViT.")
    }
    heads = {"module.rotation_head.weight": torch.zeros(4, 192), "module.contrastive_head.bias": torch.zeros(512)}
    torch.save({"epoch": 10, "state_dict": {**encoder, **heads}, "optimizer": {"state": {}}}, file)
    return file


def write_pretraining(network, file):
    """What research-contributions' SwinUNETR/Pretrain saves: SSLHead, its encoder under swin_vit."""
    encoder = {
        "module.swin_vit." + name.removeprefix("swinViT."): tensor
        for name, tensor in network.state_dict().items()
        if name.startswith("swinViT.")
    }
    heads = {"module.conv.0.weight": torch.zeros(3, 3), "module.rotation_head.weight": torch.zeros(4, 192)}
    torch.save({"global_step": 5, "state_dict": {**encoder, **heads}, "optimizer": {"state": {}}}, file)
    return file


def write_full(network, file):
    """BTCV's training script."""
    torch.save({"epoch": 5, "best_acc": np.float64(0.8), "state_dict": monai_weights(network)}, file)
    return file


def write_full_ddp(network, file):
    torch.save(monai_weights(network, "module."), file)
    return file


def write_full_safetensors(network, file):
    save_file(monai_weights(network), file)
    return file


def write_universal(network, file):
    """train.py of CLIP-Driven-Universal-Model: `net` of a DDP-wrapped network, whose backbone has no out layer."""
    others = {
        "module.organ_embedding": torch.zeros(32, 512),
        "module.precls_conv.2.weight": torch.zeros(8, 48, 1, 1, 1),
        "module.GAP.3.weight": torch.zeros(256, 768, 1, 1, 1),
        "module.controller.weight": torch.zeros(153, 512, 1, 1, 1),
        "module.controller.bias": torch.zeros(153),
        "module.text_to_vision.weight": torch.zeros(256, 512),
    }
    net = {**monai_weights(network, "module.backbone.", has_no_out), **others}
    torch.save({"net": net, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}, "epoch": 3}, file)
    return file


def with_filters(kernel):
    return lambda plans: plans["mastpro"]["network"].update(expert_kernel=kernel)


def load_as_nnunet(build, plans, configuration, checkpoint):
    """The network after stock -pretrained_weights, and the embeddings of the data set."""
    network, vectors, *_ = build(plans, configuration)
    load_pretrained_weights(network, str(checkpoint))
    return network, vectors


def counts(text):
    """What the command printed: tensors loaded, re-initialised, ignored."""
    return {
        kind: int(re.search(rf"^{kind} +([\d,]+) tensors", text, re.MULTILINE)[1].replace(",", ""))
        for kind in ("loaded", "re-initialised", "ignored")
    }


@pytest.mark.parametrize(
    ("write", "name", "ignored"),
    [
        (write_full, "weights of MONAI's SwinUNETR", 2),
        (write_full_ddp, "weights of MONAI's SwinUNETR", 2),
        (write_full_safetensors, "weights of MONAI's SwinUNETR", 2),
        (write_universal, "a checkpoint of the CLIP-Driven Universal Model", 6),
    ],
)
def test_whole_swin_backbones(write_plans, build, convert, swin, tmp_path, write, name, ignored):
    plans = write_plans()
    start, text = convert(write(swin, tmp_path / "source.pt"), plans, CONFIGURATION)
    network, vectors = load_as_nnunet(build, plans, CONFIGURATION, start)
    found = network.backbone.state_dict()
    expected = monai_weights(swin, keep=has_no_out)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    assert torch.equal(network.embeddings, vectors)
    assert network.trained
    assert name in text
    assert "matched 100.0% of the parameters of backbone\n" in text
    assert "freezes the backbone (PEFT)" in text
    told = counts(text)
    assert told["loaded"] == len(expected)
    assert told["ignored"] == ignored
    assert told["loaded"] + told["re-initialised"] == len(network.state_dict()) - len(["embeddings", "trained"])


@pytest.mark.parametrize("write", [write_swinvit, write_pretraining])
def test_self_supervised_encoders(write_plans, build, convert, swin, tmp_path, write):
    """As MONAI's own load_from fills its network; the decoder is new, so nothing is frozen."""
    plans = write_plans()
    source = write(swin, tmp_path / "model_swinvit.pt")
    start, text = convert(source, plans, CONFIGURATION)
    network, vectors = load_as_nnunet(build, plans, CONFIGURATION, start)
    if write is write_swinvit:
        reference = SwinUNETR(in_channels=1, out_channels=14, feature_size=12)
        reference.load_from(torch.load(source))
    else:
        reference = swin
    for key, tensor in reference.swinViT.state_dict().items():
        assert torch.equal(network.backbone.swinViT.state_dict()[key], tensor), key
    assert torch.equal(network.embeddings, vectors)
    assert not network.trained
    assert "MONAI's self-supervised Swin encoder" in text
    assert re.search(r"matched 100.0% of the parameters of backbone.swinViT, .* and 17.0% of the backbone", text)
    assert "trains everything" in text
    assert counts(text)["ignored"] == 2


def test_an_encoder_of_another_size(write_plans, refused, swin, tmp_path):
    """The share is over the encoder alone; the tables of relative positions fit."""

    def wider(plans):
        plans["configurations"][CONFIGURATION]["architecture"] = {**SWIN, "arch_kwargs": {"feature_size": 24}}

    plans = write_plans(change=wider)
    source = write_swinvit(swin, tmp_path / "model_swinvit.pt")
    shown = refused("--from", source, "--plans", plans, "-c", CONFIGURATION, "-o", tmp_path / "start.pth")
    assert re.search(r"matches [1-9]\.\d% of the parameters of backbone.swinViT .*, less than --min-share 0.9;", shown)


def test_another_number_of_channels_is_not_frozen(write_plans, build, convert, swin, tmp_path):
    """The first layers are new: nearly all is matched, but a frozen random layer would never learn."""

    def two_channels(plans):
        plans["configurations"][CONFIGURATION].update(normalization_schemes=["CTNormalization"] * 2)

    plans = write_plans(change=two_channels, channel_names={"0": "CT", "1": "PET"})
    start, text = convert(write_full(swin, tmp_path / "source.pt"), plans, CONFIGURATION)
    weights = torch.load(start)["network_weights"]
    assert not weights["trained"]
    assert weights["backbone.swinViT.patch_embed.proj.weight"].shape[1] == 2
    assert "matched 99.9% of the parameters of backbone\n" in text
    assert "trains everything" in text


def test_stock_nnunet(write_plans, build, stock_checkpoint, convert):
    """The planned network's features, bit for bit, and none of its segmentation layers."""
    plans = write_plans()
    source = stock_checkpoint(plans)
    start, text = convert(source, plans)
    network, vectors = load_as_nnunet(build, plans, "2d", start)
    given = torch.load(source)["network_weights"]
    found = network.backbone.state_dict()
    assert {name for name in given if ".seg_layers." not in name} == found.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, given[name]), name
    assert torch.equal(network.embeddings, vectors)
    assert network.trained
    assert "a checkpoint of stock nnU-Net" in text
    assert "matched 100.0% of the parameters of backbone\n" in text
    unique = {id(tensor) for tensor in network.backbone.state_dict(keep_vars=True).values()}
    assert counts(text)["loaded"] == len(unique) < len(found)
    numbers = sum(parameter.numel() for parameter in network.backbone.parameters())
    assert f"{numbers:,} numbers" in text
    assert counts(text)["ignored"] == sum(".seg_layers." in name for name in given)


def test_stock_nnunet_with_swinunetr_plans(write_plans, build, stock_checkpoint, convert):
    plans = write_plans()
    source = stock_checkpoint(plans, CONFIGURATION)
    network, _ = load_as_nnunet(build, plans, CONFIGURATION, convert(source, plans, CONFIGURATION)[0])
    given = torch.load(source)["network_weights"]
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, given[name]), name


@pytest.mark.parametrize("kernel", [1, 3])
def test_mastpro_of_other_classes(write_plans, build, mastpro_checkpoint, convert, kernel):
    """Shared parts and types that are in both, by name; the rest is new."""
    labels = {"background": 0, "kidney_tumor": 1, "spleen": 2, "lung_tumor": 3, "liver_tumor": 4}
    source = mastpro_checkpoint(write_plans("other", labels, change=with_filters(kernel)))
    plans = write_plans(change=with_filters(kernel))
    start, text = convert(source, plans)
    given, found = torch.load(source)["network_weights"], torch.load(start)["network_weights"]
    network, vectors = load_as_nnunet(build, plans, "2d", start)
    types = {0: 2, 1: 0}  # liver_tumor, kidney_tumor: their places among the types, here and there
    for name, tensor in found.items():
        experts = re.fullmatch(r"(experts\.\w+\.(?:router\.specific|down|up|filters)\.)(\d+)", name)
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


def test_experts_are_given_filters(write_plans, build, mastpro_checkpoint, convert):
    """What was trained without them stays the same network until they are trained: PEFT may have more than stage 1."""
    without, plans = write_plans("without"), write_plans(change=with_filters(3))
    source = mastpro_checkpoint(without)
    start, text = convert(source, plans)
    network, _ = load_as_nnunet(build, plans, "2d", start)
    filters = [parameter for name, parameter in network.named_parameters() if "filters" in name]
    assert counts(text)["re-initialised"] == len(filters) > 0
    before, *_ = build(without)
    before.load_state_dict(torch.load(source)["network_weights"] | {"embeddings": network.embeddings})
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert_close(network.eval()(image), before.eval()(image))


@pytest.mark.parametrize("kernel", [1, 5])
def test_trained_filters_are_not_left_behind(write_plans, mastpro_checkpoint, refused, tmp_path, kernel):
    """Experts without them would be others."""
    source = mastpro_checkpoint(write_plans("with", change=with_filters(3)))
    plans = write_plans(change=with_filters(kernel))
    shown = refused("--from", source, "--plans", plans, "-c", "2d", "-o", tmp_path / "start.pth")
    assert "was trained with expert_kernel=3, the plans have another; set mastpro.network.expert_kernel" in shown


def test_mastpro_without_a_type_in_common(write_plans, mastpro_checkpoint, convert):
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

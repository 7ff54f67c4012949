"""MONAI's and the Universal Model's files in their own layouts: what nnU-Net then loads, what is frozen and told."""

import re
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize(
    ("write", "name", "ignored"),
    [
        (write_full, "weights of MONAI's SwinUNETR", 2),
        (write_full_ddp, "weights of MONAI's SwinUNETR", 2),
        (write_full_safetensors, "weights of MONAI's SwinUNETR", 2),
        (write_universal, "a checkpoint of the CLIP-Driven Universal Model", 6),
    ],
)
def test_whole_swin_backbones(write_plans, load_as_nnunet, convert, swin, tmp_path, write, name, ignored, counts):
    plans = write_plans()
    start, text = convert(write(swin, tmp_path / "source.pt"), plans, CONFIGURATION)
    network, vectors = load_as_nnunet(plans, CONFIGURATION, start)
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
def test_self_supervised_encoders(write_plans, load_as_nnunet, convert, swin, tmp_path, write, counts):
    """As MONAI's own load_from fills its network; the decoder is new, so nothing is frozen."""
    plans = write_plans()
    source = write(swin, tmp_path / "model_swinvit.pt")
    start, text = convert(source, plans, CONFIGURATION)
    network, vectors = load_as_nnunet(plans, CONFIGURATION, start)
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


def test_stock_nnunet_with_swinunetr_plans(write_plans, load_as_nnunet, stock_checkpoint, convert):
    plans = write_plans()
    source = stock_checkpoint(plans, CONFIGURATION)
    network, _ = load_as_nnunet(plans, CONFIGURATION, convert(source, plans, CONFIGURATION)[0])
    given = torch.load(source)["network_weights"]
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, given[name]), name

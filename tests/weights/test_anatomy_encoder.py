"""The frozen encoder of organ masks (Eq. 2) of a SwinUNETR: where its weights come from."""

import copy
import warnings

import pytest
import torch

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.adapters import NAME, write_adapters
from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

from .test_swin_sources import CONFIGURATION, write_full, write_swinvit

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from monai.networks.nets import SwinUNETR

ENCODER = "anatomy.encode.swin."


@pytest.fixture
def swin():
    torch.manual_seed(7)
    return SwinUNETR(in_channels=1, out_channels=14, feature_size=12)


def anatomical(plans):
    plans["configurations"][CONFIGURATION]["previous_stage"] = "anatomy"
    plans["mastpro"] = {"network": {"anatomy_encoder": "swin"}}


def two_channels(plans):
    anatomical(plans)
    plans["configurations"][CONFIGURATION].update(normalization_schemes=["CTNormalization"] * 2)


def encoder_of(file):
    weights = torch.load(file)["network_weights"]
    found = {name.removeprefix(ENCODER): tensor for name, tensor in weights.items() if name.startswith(ENCODER)}
    return found, bool(weights["anatomy.encode.pretrained"])


@pytest.mark.parametrize("write", [write_swinvit, write_full])
def test_a_file_of_one_channel_fills_backbone_and_encoder(write_plans, convert, swin, tmp_path, write, counts):
    start, text = convert(write(swin, tmp_path / "source.pt"), write_plans(change=anatomical), CONFIGURATION)
    found, pretrained = encoder_of(start)
    assert pretrained
    expected = swin.swinViT.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    assert torch.equal(torch.load(start)["network_weights"]["backbone.swinViT.layers1.0.blocks.0.attn.qkv.weight"],
                       expected["layers1.0.blocks.0.attn.qkv.weight"])  # fmt: skip
    told, own = counts(text), torch.load(start)["network_weights"]
    assert told["loaded"] + told["re-initialised"] == len(own) - len(["embeddings", "trained", "pretrained"])


def test_a_file_of_two_channels_is_no_encoder_of_masks(write_plans, convert, tmp_path):
    swin = SwinUNETR(in_channels=2, out_channels=14, feature_size=12)
    plans = write_plans(change=two_channels, channel_names={"0": "CT", "1": "PET"})
    start, _ = convert(write_full(swin, tmp_path / "source.pt"), plans, CONFIGURATION)
    assert not encoder_of(start)[1]
    again, _ = convert(start, plans, CONFIGURATION, output="again.pth")  # all of it matches, and it is random still
    assert not encoder_of(again)[1]


def test_one_channel_of_masks_beside_two_of_images(write_plans, convert, swin, tmp_path):
    plans = write_plans(change=two_channels, channel_names={"0": "CT", "1": "PET"})
    start, _ = convert(write_swinvit(swin, tmp_path / "source.pt"), plans, CONFIGURATION)
    found, pretrained = encoder_of(start)
    assert pretrained
    assert torch.equal(found["patch_embed.proj.weight"], swin.swinViT.patch_embed.proj.weight)


def test_another_mastpro_checkpoint_brings_its_own(write_plans, build, convert, tmp_path):
    """Stage 1 trains the backbone, so the encoder is no longer equal to it."""
    file, source = write_plans(change=anatomical), tmp_path / "stage_one.pth"
    network, _, plans, dataset_json = build(file, CONFIGURATION, channels=1 + 3)
    network.anatomy.encode.pretrained.fill_(True)
    init_args = {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset_json}
    name = "layers4.0.blocks.1.mlp.linear1.weight"
    with torch.no_grad():
        network.get_parameter("backbone.swinViT." + name).add_(1)
    weights = dict(sorted(network.state_dict().items()))  # the encoder's before the backbone's
    torch.save({"network_weights": weights, "init_args": init_args, "trainer_name": "x"}, source)
    found, pretrained = encoder_of(convert(source, file, CONFIGURATION)[0])
    assert pretrained
    assert torch.equal(found[name], network.state_dict()[ENCODER + name])


def test_training_without_its_weights_is_refused(write_plans, build):
    network, _, plans, _ = build(write_plans(change=anatomical), CONFIGURATION, channels=1 + 3)
    trainer = object.__new__(nnUNetTrainerMASTPro)  # no data: it has what decides what is trained
    trainer.network, trainer.current_epoch, trainer.mastpro = network, 0, MASTProConfig.from_dict(plans["mastpro"])
    with pytest.raises(MASTProError, match="mastpro weights --from model_swinvit.pt"):
        trainer.decide_what_is_trained()


@pytest.mark.parametrize("write", [write_full, None], ids=["from SwinUNETR", "from the start"])
def test_adapters_do_not_hold_it_and_are_restored(write_plans, build, convert, swin, tmp_path, capsys, write):
    file = write_plans(change=anatomical)
    source = write_full(swin, tmp_path / "source.pt")
    start, _ = convert(source, file, CONFIGURATION)
    network, _, plans, dataset_json = build(file, CONFIGURATION, channels=1 + 3)
    network.load_state_dict(torch.load(start)["network_weights"])
    network.freeze_backbone()
    with torch.no_grad():
        network.anatomy.project.weight.add_(1)
    init_args = {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset_json}
    write_adapters(network, copy.deepcopy(init_args), "nnUNetTrainerMASTPro", None, tmp_path / "checkpoint_final.pth")
    assert (tmp_path / NAME).stat().st_size < 0.3 * source.stat().st_size
    capsys.readouterr()
    target = tmp_path / "restored.pth"
    given = ["--from", source if write else start, "--adapters", tmp_path / NAME, "-o", target]
    assert cli.main(["weights", *map(str, given)]) == 0, capsys.readouterr().err
    restored = torch.load(target)["network_weights"]
    expected = network.state_dict()
    assert restored.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(restored[key], tensor), key

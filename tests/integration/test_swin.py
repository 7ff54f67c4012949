"""SwinUNETR by stock commands: plan with the overlay, preprocess, train, predict, on plans of a small network."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from monai.networks.nets import SwinUNETR

pytestmark = pytest.mark.slow


def few_features(plans):
    configuration = plans["configurations"]["3d_fullres"]
    configuration["architecture"]["arch_kwargs"]["feature_size"] = 12
    configuration.update(batch_size=1)
    return plans


@pytest.fixture(scope="module")
def trained(lab, kinds):
    """Kind and results folder of a training of two steps."""
    kind = dataclasses.replace(kinds["small"], plans="SwinSmall")
    lab.preprocessed(kind.dataset)
    lab.command("mastpro", "plan", "-d", kind.dataset, "--overlay", "swinunetr_small", "-n", "Swin")
    lab.write_plans(kind.dataset, "Swin", kind.plans, few_features)
    lab.command("nnUNetv2_preprocess", "-d", "701", "-plans_name", kind.plans, "-c", "3d_fullres", "-np", "1")
    return kind, lab.train(kind)


def test_training_adapts_every_block_and_logs_it(trained):
    _, results = trained
    (log,) = (results / "fold_0").glob("training_log_*.txt")
    text = log.read_text()
    assert "Everything is trained (no trained backbone was loaded)." in text
    assert all(f"swin_{stage}_{block} (" in text for stage in range(4) for block in range(2))
    block = json.loads((results / "plans.json").read_text())["mastpro"]
    assert (block["training"]["learning_rate"], block["training"]["foreground_share"]) == (5e-5, 0.5)


def test_prediction_lies_on_the_image(lab, trained, tmp_path):
    kind, _ = trained
    lab.predict(kind, tmp_path, "-npp", "0", "-nps", "0")
    for path in sorted(lab.images(kind.dataset).glob("*.nii.gz")):
        image, prediction = sitk.ReadImage(path), sitk.ReadImage(tmp_path / path.name.replace("_0000", ""))
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-3)
        assert prediction.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-3)
        assert set(np.unique(sitk.GetArrayFromImage(prediction)).tolist()) <= {0, 1, 2}


def test_fine_tuning_keeps_the_backbone(lab, trained):
    """Stage 2 from stage 1's checkpoint."""
    kind, results = trained
    source = results / "fold_0" / "checkpoint_final.pth"
    tuned = lab.train(kind, "-pretrained_weights", str(source), trainer="nnUNetTrainerMASTPro_1epoch", fold="1")
    (log,) = (tuned / "fold_1").glob("training_log_*.txt")
    assert "The backbone is frozen" in log.read_text()


def with_frozen_encoder(plans):
    plans["mastpro"]["network"]["anatomy_encoder"] = "swin"
    return few_features(plans)


def test_the_frozen_encoder_of_organ_masks_comes_from_a_file(lab, trained, tmp_path):
    """model_swinvit.pt, as MONAI writes it, to training and prediction: the encoder is the file's throughout."""
    kind = dataclasses.replace(trained[0], plans="SwinMasks")
    lab.command("mastpro", "plan", "-d", "701", "-p", "SwinSmall", "--anatomy", "-n", "SwinAnatomy")
    lab.write_plans(kind.dataset, "SwinAnatomy", kind.plans, with_frozen_encoder)
    masks = tmp_path / "masks"
    masks.mkdir()
    raw = lab.workspace.raw / kind.dataset
    for image in sorted([*(raw / "imagesTr").iterdir(), *(raw / "imagesTs").iterdir()]):
        size = sitk.ReadImage(image)
        organs = sitk.GetImageFromArray(np.full(sitk.GetArrayFromImage(size).shape, 21, np.uint8))  # spinal_cord
        organs.CopyInformation(size)
        sitk.WriteImage(organs, masks / image.name.replace("_0000", ""))
    lab.command("mastpro", "anatomy", "-d", "701", "-p", kind.plans, "--masks", masks)
    swin = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    torch.save({"state_dict": swin.swinViT.state_dict()}, tmp_path / "model_swinvit.pt")
    names = ("-d", "701", "-p", kind.plans, "-c", "3d_fullres")
    refused = lab.command(*lab.train_arguments(kind), rc=None)
    assert refused.returncode != 0
    assert "mastpro weights --from model_swinvit.pt" in refused.stderr
    lab.command("mastpro", "weights", "--from", tmp_path / "model_swinvit.pt", *names, "-o", tmp_path / "start.pth")
    results = lab.train(kind, "-pretrained_weights", str(tmp_path / "start.pth"))
    logs = [log.read_text() for log in (results / "fold_0").glob("training_log_*.txt")]  # the refused one's, too
    assert any("The encoder of organ masks is frozen" in text for text in logs)
    weights = torch.load(results / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for name, tensor in swin.swinViT.state_dict().items():
        assert torch.equal(weights[f"anatomy.encode.swin.{name}"], tensor), name
    name = "layers1.0.blocks.0.mlp.linear1.weight"
    assert not torch.equal(weights[f"backbone.swinViT.{name}"], swin.swinViT.state_dict()[name])  # trained
    lab.command("mastpro", "anatomy", "-d", "701", "-i", lab.images(kind.dataset), "-o", tmp_path / "maps",
                "--masks", masks)  # fmt: skip
    lab.predict(kind, tmp_path / "out", "-prev_stage_predictions", tmp_path / "maps", "-npp", "0", "-nps", "0")
    assert len([*(tmp_path / "out").glob("*.nii.gz")]) == len([*lab.images(kind.dataset).iterdir()])

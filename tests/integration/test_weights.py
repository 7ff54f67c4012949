"""A stock checkpoint, made into a start, trained on by stock commands, kept as adapters and restored."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

TRAINER = "nnUNetTrainerMASTPro_1epoch"
FROZEN = "The backbone is frozen: parameter-efficient fine-tuning (PEFT)."
FOLD = "2"  # of no other test; nnU-Net draws a split for it

pytestmark = pytest.mark.slow


def load(file):
    return torch.load(file, map_location="cpu", weights_only=False)


@pytest.fixture(scope="module")
def stock(lab, kinds):
    """nnU-Net's own network after two steps."""
    folder = lab.train(kinds["2d"], trainer="nnUNetTrainerStock_1epoch", fold=FOLD)
    return folder / f"fold_{FOLD}" / "checkpoint_final.pth"


@pytest.fixture(scope="module")
def start(lab, kinds, stock):
    """What mastpro weights makes of it."""
    kind, file = kinds["2d"], stock.with_name("start.pth")
    names = ["-d", kind.dataset, "-p", kind.plans, "-c", kind.configuration]
    done = lab.command("mastpro", "weights", "--from", stock, *names, "-o", file)
    assert "matched 100.0% of the parameters of backbone\n" in done.stdout
    assert "freezes the backbone (PEFT)" in done.stdout
    return file


@pytest.fixture(scope="module")
def tuned(lab, kinds, start):
    """Folder of the fold that stock nnUNetv2_train then trained."""
    return lab.train(kinds["2d"], "-pretrained_weights", str(start), fold=FOLD, trainer=TRAINER) / f"fold_{FOLD}"


def test_nnunet_takes_it_and_the_backbone_stays(start, stock, tuned):
    (log,) = tuned.glob("training_log_*.txt")
    assert FROZEN in log.read_text()
    found, given = (load(file)["network_weights"] for file in (tuned / "checkpoint_final.pth", stock))
    backbone = {name: tensor for name, tensor in found.items() if name.startswith("backbone.")}
    assert backbone
    for name, tensor in backbone.items():
        assert torch.equal(tensor, given[name.removeprefix("backbone.")]), name
    before = load(start)["network_weights"]
    assert any(not torch.equal(found[name], before[name]) for name in found)


@pytest.mark.parametrize("base", ["stock", "start"])
def test_adapters_restore_what_was_saved(lab, tuned, tmp_path, base, request):
    """The file belongs to checkpoint_final, the last save; nothing of the network is lost."""
    adapters = tuned / "checkpoint_adapters.safetensors"
    with safe_open(adapters, framework="pt") as file:
        assert file.metadata()["checkpoint"] == "checkpoint_final.pth"
    arguments = ["--from", request.getfixturevalue(base), "--adapters", adapters, "-o", tmp_path / "restored.pth"]
    lab.command("mastpro", "weights", *arguments)
    found, expected = (
        load(file)["network_weights"] for file in (tmp_path / "restored.pth", tuned / "checkpoint_final.pth")
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_stock_prediction_with_the_restored_file(lab, kinds, start, tuned, tmp_path):
    """nnUNetv2_predict finds it in the model's folder, and gives the same probabilities."""
    adapters, restored = tuned / "checkpoint_adapters.safetensors", tuned / "checkpoint_restored.pth"
    lab.command("mastpro", "weights", "--from", start, "--adapters", adapters, "-o", restored)
    for name in ("final", "restored"):
        options = ["-chk", f"checkpoint_{name}.pth", "-npp", "0", "-nps", "0"]
        lab.predict(kinds["2d"], tmp_path / name, *options, fold=FOLD, trainer=TRAINER)
    files = sorted((tmp_path / "final").glob("*.npz"))
    assert files
    for file in files:
        expected, found = (
            np.load(folder / file.name)["probabilities"] for folder in (file.parent, tmp_path / "restored")
        )
        np.testing.assert_array_equal(found, expected)

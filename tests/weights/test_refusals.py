"""What is refused: one sentence, nothing written, no code run."""

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from nnunetv2_mastpro import cli


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kept", [0, 1, 9, 200, 0.5, 0.99])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_truncated_file(write_plans, stock_checkpoint, refused, tmp_path, kept, ending):
    plans = write_plans()
    source = stock_checkpoint(plans)
    if ending == ".safetensors":
        save_file({"a": torch.zeros(100), "b": torch.zeros(300)}, source)
    whole = source.read_bytes()
    source.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    shown = refused("--from", source, "--plans", plans, "-c", "2d", "-o", tmp_path / "start.pth")
    assert re.search(r"cannot be read as (a checkpoint|safetensors)", shown)
    assert "file an issue" not in shown  # torch's advice


@pytest.mark.parametrize("nested", [False, True])
def test_code_is_not_run(write_plans, refused, tmp_path, nested):
    plans, trap = write_plans(), tmp_path / "trap"
    harmful = {"network_weights": {"a": torch.zeros(1)}, "optimizer_state": Payload(trap)} if nested else Payload(trap)
    torch.save(harmful, tmp_path / "source.pth")
    shown = refused("--from", tmp_path / "source.pth", "--plans", plans, "-c", "2d", "-o", tmp_path / "start.pth")
    assert "Unsupported global: GLOBAL io.open" in shown
    assert "two options" not in shown  # torch's advice to run it
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2, 3], "holds a list, no network's weights"),
        ({"epoch": 3, "loss": 0.5}, "holds no network's weights but epoch, loss"),
        ({}, "holds no network's weights but nothing"),
        ({"layer1.0.conv1.weight": torch.zeros(3)}, "names such as 'layer1.0.conv1.weight', which no known network"),
    ],
)
def test_what_is_no_known_network(write_plans, refused, tmp_path, content, match):
    torch.save(content, tmp_path / "source.pth")
    plans = write_plans()
    shown = refused("--from", tmp_path / "source.pth", "--plans", plans, "-c", "2d", "-o", tmp_path / "start.pth")
    assert match in shown


def test_a_plain_pickle(write_plans, refused, tmp_path):
    (tmp_path / "source.pkl").write_bytes(pickle.dumps({"weights": [1.0, 2.0]}))
    arguments = ["--from", tmp_path / "source.pkl", "--plans", write_plans(), "-c", "2d", "-o", tmp_path / "start.pth"]
    assert "cannot be read as a checkpoint" in refused(*arguments)


def test_another_backbone(write_plans, stock_checkpoint, refused, tmp_path):
    """Of other features, and of another architecture."""

    def wider(plans):
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 12, 16]

    plans, others = write_plans(), write_plans("other", change=wider)
    for source, configuration in (
        (stock_checkpoint(others), "2d"),
        (stock_checkpoint(plans, "3d_fullres", name="swin.pth"), "2d"),
        (stock_checkpoint(plans, name="unet.pth"), "3d_fullres"),
    ):
        shown = refused("--from", source, "--plans", plans, "-c", configuration, "-o", tmp_path / "start.pth")
        assert re.search(r"matches 0\.\d% of the parameters of backbone in nnUNetPlans \w+, less than", shown)


def test_the_share_asked_for(write_plans, stock_checkpoint, refused, convert, tmp_path):
    """A part of the network: refused by default, taken where less is asked for, and then not frozen."""
    plans = write_plans()
    source = stock_checkpoint(plans)
    checkpoint = torch.load(source)
    weights = checkpoint["network_weights"]
    checkpoint["network_weights"] = {name: weights[name] for name in weights if name.startswith("encoder.")}
    torch.save(checkpoint, source)
    arguments = ["--from", source, "--plans", plans, "-c", "2d", "-o", tmp_path / "start.pth"]
    share = float(re.search(r"matches ([\d.]+)% .* --min-share 0.9", refused(*arguments))[1]) / 100
    assert "--min-share" in refused(*arguments, "--min-share", share + 0.01)
    start, text = convert(source, plans, "2d", "--min-share", str(share - 0.01))
    assert "trains everything" in text
    assert not torch.load(start)["network_weights"]["trained"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ([], "give either --plans FILE or -d DATASET"),
        (["--plans", "PLANS", "-d", "4"], "give either --plans FILE or -d DATASET"),
        (["--plans", "PLANS", "-p", "nnUNetPlans"], "-p does not go with --plans"),
        (["--plans", "PLANS", "--min-share", "1.5"], "--min-share 1.5 is not within 0 and 1"),
        (["--plans", "PLANS", "--min-share", "nan"], "--min-share nan is not within 0 and 1"),
        (["--plans", "PLANS", "--adapters", "x.safetensors"], "--plans does not go with --adapters"),
        (["--adapters", "missing.safetensors"], "missing.safetensors cannot be read as adapters"),
        (["--plans", "PLANS", "-c", "3d_lowres"], "-c 3d_lowres is not in nnUNetPlans; give one of 2d, 3d_fullres"),
        (["--plans", "PLANS/dataset.json"], "holds no plans of nnU-Net"),
        (["--plans", "PLANS/none.json"], "none.json cannot be read as JSON"),
    ],
)
def test_options(write_plans, stock_checkpoint, refused, tmp_path, options, match):
    plans = write_plans()
    named = {"PLANS": plans, "PLANS/dataset.json": plans.with_name("dataset.json"), "PLANS/none.json": "none.json"}
    source = stock_checkpoint(plans)
    given = [named.get(option, option) for option in options]
    assert match in refused("--from", source, "-o", tmp_path / "start.pth", *given)


def test_plans_that_are_not_there(write_plans, stock_checkpoint, refused, tmp_path, monkeypatch):
    source = stock_checkpoint(write_plans("Dataset004_Liver"))
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(tmp_path))
    given = ["--from", source, "-o", tmp_path / "start.pth", "-d", "4", "-p", "nnUNetPlan"]
    assert "nnUNetPlan.json is not there; did you mean 'nnUNetPlans'?" in refused(*given)


def test_files_that_are_there_or_not(write_plans, stock_checkpoint, refused, tmp_path):
    plans = write_plans()
    source = stock_checkpoint(plans)
    arguments = ["--plans", plans, "-c", "2d"]
    assert "is there already" in refused("--from", source, *arguments, "-o", source)
    assert "is no folder" in refused("--from", source, *arguments, "-o", tmp_path / "no" / "start.pth")
    missing = tmp_path / "missing.pth"
    assert "missing.pth is no file" in refused("--from", missing, *arguments, "-o", tmp_path / "start.pth")


def test_plans_of_a_data_set(write_plans, stock_checkpoint, tmp_path, monkeypatch, capsys):
    """-d and -p find what --plans names."""
    plans = write_plans()
    folder = tmp_path / "preprocessed" / "Dataset004_Liver"
    folder.parent.mkdir()
    plans.parent.rename(folder)
    raw = tmp_path / "raw" / folder.name
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text((folder / "dataset.json").read_text())
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    renamed = json.loads((folder / "nnUNetPlans.json").read_text()) | {"plans_name": "Mine"}
    (folder / "Mine.json").write_text(json.dumps(renamed))
    source = stock_checkpoint(folder / "nnUNetPlans.json")
    target = tmp_path / "start.pth"
    arguments = ["weights", "--from", str(source), "-d", "4", "-p", "Mine", "-c", "2d", "-o", str(target)]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert torch.load(target)["init_args"]["plans"]["plans_name"] == "Mine"

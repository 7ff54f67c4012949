"""Plans of a small U-Net and of a small SwinUNETR beside their dataset.json, and networks that others have trained."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.network.planned import SWIN_UNETR
from nnunetv2_mastpro.training.build import build_planned
from nnunetv2_mastpro.training.setup import resolve

SWIN = {"network_class_name": SWIN_UNETR, "arch_kwargs": {"feature_size": 12}, "_kw_requires_import": []}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MASTPRO_TASKS", "MASTPRO_SKIP_EMPTY", "MASTPRO_EPOCH_ITERATIONS", "MASTPRO_SEED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write_plans(tmp_path, small_plans, small_dataset) -> Callable[..., Path]:
    """`write_plans(labels={...}, change=...)`: a plans file with dataset.json beside it, in a folder of its own."""

    def write(name="plans", labels=None, change=lambda plans: None, **dataset) -> Path:
        plans = copy.deepcopy(small_plans)
        in_3d = {"patch_size": [64] * 3, "spacing": [1.5] * 3, "architecture": copy.deepcopy(SWIN)}
        plans["configurations"]["3d_fullres"] = {**plans["configurations"]["2d"], **in_3d}
        change(plans)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(
            json.dumps({**small_dataset, "labels": labels or small_dataset["labels"], **dataset})
        )
        return folder / "nnUNetPlans.json"

    return write


@pytest.fixture
def build() -> Callable:
    """`build(plans_file, "2d")`: the network as the trainer builds it, and the data set's embeddings."""

    def make(file, configuration="2d", channels=1):
        plans, dataset_json = (json.loads(path.read_text()) for path in (file, file.with_name("dataset.json")))
        config, embeddings = resolve(plans, dataset_json)
        manager = PlansManager({**plans, "mastpro": config.to_dict()})
        outputs = len(config.resolved.classes) + config.resolved.has_background
        network = build_planned(manager, manager.get_configuration(configuration), channels, outputs)
        return network, embeddings.vectors, {**plans, "mastpro": config.to_dict()}, dataset_json

    return make


@pytest.fixture
def load_as_nnunet(build) -> Callable:
    """`load_as_nnunet(plans_file, "2d", checkpoint)`: the network after stock -pretrained_weights, and embeddings."""

    def load(file, configuration, checkpoint):
        network, vectors, *_ = build(file, configuration)
        load_pretrained_weights(network, str(checkpoint))
        return network, vectors

    return load


@pytest.fixture
def counts() -> Callable[[str], dict[str, int]]:
    """What the command printed: tensors loaded, re-initialised, ignored."""

    def read(text):
        return {
            kind: int(re.search(rf"^{kind} +([\d,]+) tensors", text, re.MULTILINE)[1].replace(",", ""))
            for kind in ("loaded", "re-initialised", "ignored")
        }

    return read


@pytest.fixture
def stock_checkpoint(tmp_path, small_dataset) -> Callable[..., Path]:
    """A checkpoint as nnU-Net's own trainer writes it, of the planned network with random weights."""

    def make(file, configuration="2d", outputs=7, name="stock.pth") -> Path:
        manager = PlansManager(json.loads(file.read_text()))
        settings = manager.get_configuration(configuration)
        deep = configuration == "2d"
        network = nnUNetTrainer.build_network_architecture(manager, settings, 1, outputs, deep)
        randomise(network, 3)
        init_args = {"plans": manager.plans, "configuration": configuration, "fold": 0, "dataset_json": small_dataset}
        checkpoint = {"network_weights": network.state_dict(), "init_args": init_args, "trainer_name": "nnUNetTrainer"}
        torch.save(checkpoint, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def mastpro_checkpoint(tmp_path, build) -> Callable[..., Path]:
    """A checkpoint of a trained MAST-Pro network of other plans."""

    def make(file, configuration="2d", name="mastpro.pth", trained=True) -> Path:
        network, _, plans, dataset_json = build(file, configuration)
        randomise(network, 4)
        network.trained.fill_(trained)
        init_args = {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": dataset_json}
        checkpoint = {"network_weights": network.state_dict(), "init_args": init_args, "trainer_name": "x"}
        torch.save(checkpoint, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def convert(tmp_path, capsys) -> Callable:
    """`convert(source, plans_file, "2d")`: the command; gives the checkpoint's path and what was printed."""

    def run(source, file, configuration="2d", *options, output="start.pth"):
        target = tmp_path / output
        arguments = ["--from", str(source), "--plans", str(file), "-c", configuration, "-o", str(target), *options]
        assert cli.main(["weights", *arguments]) == 0, capsys.readouterr().err
        return target, capsys.readouterr().out

    return run


@pytest.fixture
def refused(tmp_path, capsys) -> Callable[..., str]:
    """`refused(*arguments)`: runs the command, which must fail with one sentence and write nothing; gives that."""

    def run(*arguments) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert cli.main(["weights", *map(str, arguments)]) == 2
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        shown = capsys.readouterr()
        assert shown.err.startswith("mastpro: error: ")
        assert shown.err.count("\n") == 1
        assert not shown.out
        return shown.err

    return run


def randomise(network: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))

"""A small data set and plans for it, as nnU-Net would write them: enough to make a trainer, not to train."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro


@pytest.fixture
def plans(small_plans) -> dict:
    """For a test to change."""
    return small_plans


@pytest.fixture
def dataset_json(small_dataset) -> dict:
    """For a test to change."""
    return small_dataset


@pytest.fixture
def make_network(plans, dataset_json) -> Callable:
    """`make_network()` gives the network, its completed configuration and the origins of the embeddings."""

    def make():
        config, embeddings = resolve(plans, dataset_json)
        manager = PlansManager({**plans, "mastpro": config.to_dict()})
        heads = len(config.resolved.classes) + config.resolved.has_background
        torch.manual_seed(0)
        network = nnUNetTrainerMASTPro.build_network_architecture(manager, manager.get_configuration("2d"), 1, heads)
        return network, config, embeddings.origins

    return make


@pytest.fixture
def make_trainer(plans, dataset_json, tmp_path, monkeypatch) -> Callable:
    """`make_trainer(cls, initialize=True, continues=False, device="cpu")`: a trainer in folders of this test's own."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("MASTPRO_EPOCH_ITERATIONS", "MASTPRO_SEED"):
        monkeypatch.delenv(name, raising=False)
    data = tmp_path / "nnUNet_preprocessed" / plans["dataset_name"] / "nnUNetPlans_2d"
    data.mkdir(parents=True)
    (data / "liver_000.b2nd").touch()  # nnU-Net tells by the ending how cases are stored

    def make(trainer=nnUNetTrainerMASTPro, initialize=True, continues=False, device="cpu"):
        fresh = json.loads(json.dumps({**plans, "continue_training": continues}))
        made = trainer(fresh, "2d", 0, copy.deepcopy(dataset_json), torch.device(device))
        if initialize:
            made.initialize()
        return made

    return make

"""The start-up table and the usage of experts."""

import re

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.training.report import describe_network, expert_usage, reset_usage

PARTS = ("backbone", "experts", "fusion", "mask proposal")


def read_table(lines):
    """part -> (total, trainable)"""
    rows = (re.fullmatch(r"(\D+?) +([\d,]+) +([\d,]+)", line) for line in lines)
    return {row[1]: tuple(int(cell.replace(",", "")) for cell in row.group(2, 3)) for row in rows if row}


def test_parameters_add_up(make_network):
    network, config, origins = make_network()
    table = read_table(describe_network(network, config, origins))
    total = sum(p.numel() for p in network.parameters())
    assert list(table) == [*PARTS, "all"]
    assert table["all"] == (total, total)
    for name in PARTS[:3]:
        assert table[name][0] == sum(p.numel() for p in getattr(network, name).parameters())
    assert sum(table[name][0] for name in PARTS) == total


def test_frozen_backbone(make_network):
    network, config, origins = make_network()
    assert "Everything is trained (no trained MAST-Pro weights were loaded)." in describe_network(
        network, config, origins
    )
    network.freeze_backbone()
    lines = [*describe_network(network, config, origins)]
    table = read_table(lines)
    assert table["backbone"][1] == 0
    assert table["all"][1] == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert "The backbone is frozen: parameter-efficient fine-tuning (PEFT)." in lines


def test_classes_sites_and_tasks(make_network):
    network, config, origins = make_network()
    lines = [*describe_network(network, config, origins)]
    text = "\n".join(lines)
    for entry in config.resolved.classes:
        kind = "tumour type" if entry.is_tumor else "organ"
        assert f"{entry.label} [{kind}, embedding shipped]: {entry.sentence}" in lines
    assert "Stages with experts: encoder_1 (6 channels), encoder_2 (8 channels), decoder_0 (6 channels)" in lines
    assert "Tumour types with experts of their own: liver_tumor, kidney_tumor\n" in lines
    assert "(encoder sentence-transformers/all-MiniLM-L6-v2)" in text


def test_no_tumour_types(make_network, dataset_json):
    dataset_json["labels"] = {"background": 0, "liver": 1}
    assert "Tumour types with experts of their own: none (generic experts only)\n" in describe_network(*make_network())


@pytest.fixture
def used_network(make_network):
    """The network after two training steps' forward passes of three samples each."""
    network, config, _ = make_network()
    network.train()
    for seed in range(2):
        network(torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(seed)))
    return network, config


def test_usage_is_per_site_and_owner(used_network):
    network, config = used_network
    usage = expert_usage(network, config)
    assert list(usage) == ["encoder_1", "encoder_2", "decoder_0"]
    for site, owners in usage.items():
        assert [*owners] == ["generic", "liver_tumor", "kidney_tumor"]
        assert [len(counts) for counts in owners.values()] == [4, 2, 2]
        assert sum(owners["generic"]) == 6 * config.network.top_k_generic
        assert sum(owners["liver_tumor"]) + sum(owners["kidney_tumor"]) == 6 * config.network.top_k_specific
        assert_close(
            torch.tensor([count for counts in owners.values() for count in counts]).float(), network.experts[site].usage
        )


def test_usage_of_a_task_that_is_off_is_zero(make_network):
    network, config, _ = make_network()
    network.train()
    network(torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([[0.0, 1.0]] * 3))
    for owners in expert_usage(network, config).values():
        assert sum(owners["liver_tumor"]) == 0
        assert sum(owners["kidney_tumor"]) == 3


def test_reset(used_network):
    network, config = used_network
    reset_usage(network)
    assert {count for owners in expert_usage(network, config).values() for c in owners.values() for count in c} == {0}


def test_usage_without_tumour_types(make_network, dataset_json):
    dataset_json["labels"] = {"background": 0, "liver": 1}
    network, config, _ = make_network()
    assert [*expert_usage(network, config)["encoder_1"]] == ["generic"]


def test_usage_without_experts_of_their_own(make_network, plans):
    plans["mastpro"]["network"] |= {"specific_experts": 0, "top_k_specific": 0}
    network, config, _ = make_network()
    assert [*expert_usage(network, config)["encoder_1"]] == ["generic"]

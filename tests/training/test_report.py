"""The start-up table."""

import re

from nnunetv2_mastpro.training.report import describe_network

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
    assert "Everything is trained (no trained backbone was loaded)." in describe_network(network, config, origins)
    assert "Everything is trained (as before)." in describe_network(network, config, origins, continued=True)
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
        kind = "tumour type" if entry.is_tumor else "other class"
        assert f"{entry.label} [{kind}, embedding shipped]: {entry.sentence}" in lines
    assert "Stages with experts: encoder_1 (6 channels), encoder_2 (8 channels), decoder_0 (6 channels)" in lines
    assert "Tumour types with experts of their own: liver_tumor, kidney_tumor\n" in lines
    assert "(encoder sentence-transformers/all-MiniLM-L6-v2)" in text


def test_no_tumour_types(make_network, dataset_json):
    dataset_json["labels"] = {"background": 0, "liver": 1}
    assert "Tumour types with experts of their own: none (generic experts only)\n" in describe_network(*make_network())

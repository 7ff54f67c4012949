"""The usage of experts by tumour type, against a loop over patches."""

import csv
import json

import pytest
import torch

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.training.usage import ALL, ExpertUsage

TYPES = ("liver_tumor", "kidney_tumor")
PRESENT = [[1, 0], [1, 1], [0, 0]]  # of each patch


def images(seed):
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("routing", ["sample", "token"])
def test_shares_are_those_of_a_loop(make_network, plans, routing):
    plans["mastpro"]["network"]["routing"] = routing
    network, config, _ = make_network()
    network.train()
    usage = ExpertUsage(network, TYPES)
    expected, patches = {}, dict.fromkeys((ALL, *TYPES), 0)
    for seed in range(2):
        network(images(seed))
        usage.add(torch.tensor(PRESENT).bool())
        for patch, present in enumerate(PRESENT):
            for name, there in zip((ALL, *TYPES), (1, *present), strict=True):
                patches[name] += there
                for site, moe in network.experts.items():
                    for expert, kept in enumerate(moe.kept[patch].tolist()):
                        key = (site, name, expert)
                        expected[key] = expected.get(key, 0) + there * kept
    report = usage.report()
    assert report["patches"] == patches == {ALL: 6, "liver_tumor": 4, "kidney_tumor": 2}
    assert list(report["kept"]) == ["encoder_1", "encoder_2", "decoder_0"]
    for site, types in report["kept"].items():
        for name, owners in types.items():
            assert [*owners] == ["generic", *TYPES]
            assert [len(shares) for shares in owners.values()] == [4, 2, 2]
            flat = [share for shares in owners.values() for share in shares]
            assert flat == pytest.approx([expected[site, name, e] / patches[name] for e in range(8)], abs=1e-6)
            assert sum(owners["generic"]) == pytest.approx(config.network.top_k_generic, abs=1e-5)


def test_what_was_counted_is_shown(make_network, tmp_path, capsys):
    network, _, _ = make_network()
    usage = ExpertUsage(network.train(), TYPES)
    for seed in range(2):
        network(images(seed))
        usage.add(torch.tensor(PRESENT).bool())
    fold = tmp_path / "fold_0"
    fold.mkdir()
    (fold / "expert_usage.json").write_text(json.dumps({"epoch": 0, **usage.report()}))
    assert cli.main(["experts", "-m", str(tmp_path)]) == 0
    with open(fold / "experts.csv", newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] == "decoder_0"]
    assert [row[1:3] for row in rows] == [[ALL, "6"], ["liver_tumor", "4"], ["kidney_tumor", "2"]]
    for row, owners in zip(rows, usage.report()["kept"]["decoder_0"].values(), strict=True):
        assert [float(cell) for cell in row[3:]] == pytest.approx(sum(owners.values(), []), abs=1e-4)
    assert (fold / "experts.png").stat().st_size > 1000
    assert "decoder_0  kidney_tumor" in capsys.readouterr().out


def test_a_task_that_is_off_keeps_no_expert(make_network):
    network, _, _ = make_network()
    usage = ExpertUsage(network.train(), TYPES)
    network(images(0), torch.tensor([[0.0, 1.0]] * 3))
    usage.add(torch.zeros(3, 2).bool())
    for types in usage.report()["kept"].values():
        assert [*types] == [ALL]  # no patch is known to hold a tumour
        assert sum(types[ALL]["liver_tumor"]) == 0
        assert sum(types[ALL]["kidney_tumor"]) == 1


def test_without_tumour_types(make_network, dataset_json):
    dataset_json["labels"] = {"background": 0, "liver": 1}
    network, _, _ = make_network()
    usage = ExpertUsage(network.train(), ())
    network(images(0))
    usage.add(torch.zeros(3, 0).bool())
    assert [*usage.report()["kept"]["encoder_1"][ALL]] == ["generic"]


def test_without_experts_of_their_own(make_network, plans):
    plans["mastpro"]["network"] |= {"specific_experts": 0, "top_k_specific": 0}
    network, _, _ = make_network()
    usage = ExpertUsage(network.train(), TYPES)
    network(images(0))
    usage.add(torch.tensor(PRESENT).bool())
    assert {tuple(owners) for owners in usage.report()["kept"]["encoder_1"].values()} == {("generic",)}


def test_before_any_step_there_is_nothing(make_network):
    network, _, _ = make_network()
    assert ExpertUsage(network, TYPES).report()["patches"] == {ALL: 0, "liver_tumor": 0, "kidney_tumor": 0}

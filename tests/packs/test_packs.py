"""Packs: what is in them, whom they fit, and what a model of them predicts."""

import copy
import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.config import NetworkConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.model import read_checkpoint, read_model
from nnunetv2_mastpro.packs.pack import read_pack, write_pack
from nnunetv2_mastpro.packs.state import shared_hash, shared_names
from nnunetv2_mastpro.packs.unpack import unpack

OLD = "liver_tumor,kidney_tumor"
REGIONS = {"labels": {"background": 0, "liver": [1, 2], "liver_tumor": 2}, "regions_class_order": [1, 2]}


def model_of(folder):
    return read_model(folder, "0", "checkpoint_final.pth")


def weights_of(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]


@pytest.fixture
def make_pack(make_grown, tmp_path):
    """`make_pack(base, "lung_tumor")`: the grown model's folder and a pack of its type."""

    def make(base, label, **options):
        grown, file = make_grown(base, label, **options), tmp_path / f"{label}.safetensors"
        write_pack(model_of(grown), label, file, "CC-BY-4.0")
        return grown, file

    return make


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("routing", "router"), [("sample", "split"), ("token", "split"), ("sample", "joint"), ("token", "joint")]
)
def test_round_trip(make_model, make_pack, predict, image, tmp_path, routing, router, kernel):
    """Base and pack give the grown model to the bit, through nnU-Net's loading; without the type, the base."""
    base = make_model(routing=routing, router=router, expert_kernel=kernel)
    grown, pack = make_pack(base, "lung_tumor")
    unpack(model_of(base), [pack], tmp_path / "new", "0")
    found, expected = weights_of(tmp_path / "new"), weights_of(grown)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.equal(found[name]), name
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)
    assert not predict(grown, image)[:, :4].equal(predict(base, image))
    for folder in (grown, tmp_path / "new"):
        assert_close(predict(folder, image, OLD)[:, :4], predict(base, image), rtol=0, atol=0)


def test_two_packs_in_one_model(make_model, make_pack, predict, image, tmp_path):
    """In the order given; each alone beside the old types predicts as the model that it was trained in."""
    base = make_model()
    lung, lung_pack = make_pack(base, "lung_tumor")
    colon, colon_pack = make_pack(base, "colon_cancer_primaries", seed=9)
    classes = unpack(model_of(base), [colon_pack, lung_pack], tmp_path / "new", "0")
    assert [entry.label for entry in classes[3:]] == ["colon_cancer_primaries", "lung_tumor"]
    labels = json.loads((tmp_path / "new" / "dataset.json").read_text())["labels"]
    assert (labels["colon_cancer_primaries"], labels["lung_tumor"]) == (4, 5)
    for folder, label, output in ((colon, "colon_cancer_primaries", 4), (lung, "lung_tumor", 5)):
        found = predict(tmp_path / "new", image, f"{OLD},{label}")[:, [0, 1, 2, 3, output]]
        assert_close(found, predict(folder, image), rtol=0, atol=0)
    assert_close(predict(tmp_path / "new", image, OLD)[:, :4], predict(base, image), rtol=0, atol=0)


@pytest.mark.parametrize("first", ["lung_tumor", None])
def test_a_grown_model_is_a_base_too(make_model, make_pack, make_grown, predict, image, tmp_path, first):
    """A second type on top of a first, or beside it: the shared parts are the same."""
    base = make_model()
    under = make_grown(base, "lung_tumor") if first else base
    grown, pack = make_pack(under, "colon_cancer_primaries", seed=9)
    unpack(model_of(under), [pack], tmp_path / "new", "0")
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)
    unpack(model_of(base), [pack], tmp_path / "other", "0")
    tasks = f"{OLD},colon_cancer_primaries"
    output = grown and -1
    assert_close(predict(tmp_path / "other", image)[:, output], predict(grown, image, tasks)[:, output], rtol=0, atol=0)


@pytest.mark.parametrize("base_labels", [{"background": 0, "liver": 1}, {"background": 0, "colon_cancer_primaries": 1}])
def test_a_base_without_types_of_its_own_or_without_organs(
    make_model, make_pack, predict, image, dataset_json, tmp_path, base_labels
):
    base = make_model(dataset_json={**dataset_json, "labels": base_labels})
    grown, pack = make_pack(base, "lung_tumor")
    unpack(model_of(base), [pack], tmp_path / "new", "0")
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)


def test_regions(make_model, make_pack, predict, image, dataset_json, tmp_path):
    base = make_model(dataset_json={**dataset_json, **copy.deepcopy(REGIONS)})
    grown, pack = make_pack(base, "lung_tumor")
    unpack(model_of(base), [pack], tmp_path / "new", "0")
    assert json.loads((tmp_path / "new" / "dataset.json").read_text())["regions_class_order"] == [1, 2, 3]
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)
    assert_close(predict(grown, image, "liver_tumor")[:, :2], predict(base, image), rtol=0, atol=0)


def test_the_ignore_label_stays_the_highest(make_model, make_pack, dataset_json, tmp_path):
    grown, pack = make_pack(make_model(), "lung_tumor")
    dataset_json["labels"]["ignore"] = 4
    base = make_model("with_ignore", dataset_json)
    unpack(model_of(base), [pack], tmp_path / "new", "0")
    labels = json.loads((tmp_path / "new" / "dataset.json").read_text())["labels"]
    assert (labels["lung_tumor"], labels["ignore"]) == (4, 5)


def test_organ_masks(make_model, make_pack, predict, tmp_path):
    """The table of the new model has the new type's host; the old types see what they saw."""
    base = make_model(anatomy=True)
    grown, pack = make_pack(base, "lung_tumor", anatomy=True)
    unpack(model_of(base), [pack], tmp_path / "new", "0")
    hosts = model_of(tmp_path / "new").config.resolved.hosts
    assert hosts == model_of(grown).config.resolved.hosts != model_of(base).config.resolved.hosts
    organs = torch.zeros(2, 4, 16, 16)
    organs[0, 0, :9], organs[0, 2, 9:, :5] = 1, 1  # by the values of the labels; kidney_tumor's host is value 3
    batch = torch.cat([torch.randn(2, 1, 16, 16), organs], 1)
    assert_close(predict(tmp_path / "new", batch), predict(grown, batch), rtol=0, atol=0)
    expected = predict(base, batch[:, :-1])
    assert_close(predict(tmp_path / "new", batch, OLD)[:, :4], expected, rtol=0, atol=0)
    batch[1, -1, :4] = 1  # the new type's organ alone
    assert_close(predict(tmp_path / "new", batch, OLD)[:, :4], expected, rtol=0, atol=0)


def test_a_type_trained_jointly_has_no_offset(make_model, tmp_path):
    write_pack(model_of(make_model()), "liver_tumor", tmp_path / "pack.safetensors")
    assert "offset" not in load_file(tmp_path / "pack.safetensors")
    assert read_pack(tmp_path / "pack.safetensors").spec.added is False


def test_the_header(make_model, make_pack):
    base = make_model()
    grown, pack = make_pack(base, "lung_tumor")
    with safe_open(pack, framework="pt") as file:
        header = file.metadata()
    assert header["licence"] == "CC-BY-4.0"
    assert header["base_sha256"] == shared_hash(weights_of(base)) == shared_hash(weights_of(grown))
    assert json.loads(header["versions"]).keys() == {"nnunetv2_mastpro", "nnunetv2", "torch"}
    assert json.loads(header["class"])["sentence"] == model_of(grown).classes[-1].sentence
    assert json.loads(header["network"])["rank"] == 2


def test_the_hash_covers_every_shared_part(make_model):
    """Each tensor, by its name, type and bytes; and nothing that a type owns."""
    weights = weights_of(make_model(anatomy=True))
    names = shared_names(weights)
    kinds = {name.split(".")[0] for name in names}
    assert kinds == {"backbone", "experts", "fusion", "head", "anatomy", "background"}
    own = {"embeddings", "trained"}
    experts = {name for name in weights if name.startswith("experts.")}
    generic = {name for name in experts if name.endswith((".router.generic", ".down.0", ".up.0"))}
    assert {*weights} - {*names} == own | (experts - generic)
    before = shared_hash(weights)
    for name in weights:
        changed = {**weights, name: ~weights[name] if weights[name].dtype == torch.bool else weights[name] + 1}
        assert (shared_hash(changed) != before) == (name in names), name
    other = {**weights, "background": weights["background"].double()}
    assert shared_hash(other) != before


def damage(pack, **changes):
    """The pack with other tensors or header entries."""
    with safe_open(pack, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(pack)
    header.update({key: value for key, value in changes.items() if isinstance(value, str)})
    tensors.update({key: value for key, value in changes.items() if isinstance(value, torch.Tensor)})
    save_file(tensors, pack, header)


def with_class(**values):
    return json.dumps(
        {"label": "x_tumor", "sentence": "X.", "is_tumor": True, "host_structures": [], "added": True, **values}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_sha256": "ab12"}, "trained on the base ab12, .*checkpoint_final.pth is [0-9a-f]{64}; unpack it"),
        ({"configuration": "3d_fullres"}, "configuration 3d_fullres, the model with 2d"),
        ({"encoder": "other"}, "text encoder other, the model with sentence-transformers"),
        ({"class": with_class(label="liver_tumor")}, "holds liver_tumor, which the model or an earlier pack has"),
        ({"class": with_class(sentence="This is a normal liver on CT.")}, None),
        ({"format": "nnunetv2_mastpro pack 2"}, "is no pack"),
        ({"class": "{}"}, "cannot be read as a pack"),
        ({"offset": torch.zeros(7)}, r"has offset of shape \(7,\), not \(384,\)"),
        ({"more": torch.zeros(7)}, r"has more of shape \(7,\), not None"),
        ({"embedding": torch.full((384,), torch.nan)}, "not finite"),
    ],
)
def test_packs_that_do_not_fit(make_model, make_pack, tmp_path, changes, message):
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    damage(pack, **changes)
    if message is None:
        sentence = model_of(base).classes[0].sentence
        damage(pack, **{"class": with_class(sentence=sentence)})
        message = "have the same sentence"
    with pytest.raises(MASTProError, match=message):
        unpack(model_of(base), [pack], tmp_path / "new", "0")
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 3}, r"rank=3 \(2 in the model\)"),
        ({"specific_experts": 3}, r"specific_experts=3 \(2 in the model\)"),
        ({"routing": "token"}, r"routing=token \(sample in the model\)"),
        ({"router": "joint", "rank": 3}, r"rank=3 \(2 in the model\), router=joint \(split in the model\)"),
    ],
)
def test_packs_of_other_sizes(make_model, make_pack, tmp_path, options, message):
    _, pack = make_pack(make_model("other", **options), "lung_tumor")
    with pytest.raises(MASTProError, match=message):
        unpack(model_of(make_model()), [pack], tmp_path / "new", "0")


def test_a_pack_of_another_base_names_both(make_model, make_pack, tmp_path):
    other = make_model("other", seed=3)
    _, pack = make_pack(other, "lung_tumor")
    base = make_model()
    hashes = [shared_hash(weights_of(folder)) for folder in (other, base)]
    with pytest.raises(MASTProError, match=f"{hashes[0]}.*{hashes[1]}"):
        unpack(model_of(base), [pack], tmp_path / "new", "0")


def test_a_pack_twice(make_model, make_pack, tmp_path):
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    with pytest.raises(MASTProError, match="lung_tumor, which the model or an earlier pack has"):
        unpack(model_of(base), [pack, pack], tmp_path / "new", "0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "lung_tumour"], "no tumour type of .*did you mean 'liver_tumor'.*kidney_tumor"),
        (["--type", "liver"], "'liver' is no tumour type"),
        (["-f", "1"], "fold_1/checkpoint_final.pth is not there"),
        (["--checkpoint", "x.pth"], "fold_0/x.pth is not there"),
        (["--checkpoint", "text.pth"], "cannot be read as a checkpoint"),
        (["--checkpoint", "list.pth"], "no checkpoint of nnU-Net's trainer"),
        (["--checkpoint", "evil.pth"], "cannot be read as a checkpoint"),
        (["-o", "base/plans.json"], "is there already; give -o another"),
        (["-o", "nowhere/pack.safetensors"], "nowhere is no folder"),
    ],
)
def test_what_cannot_be_packed(make_model, tmp_path, monkeypatch, capsys, arguments, message):
    folder = make_model()
    (folder / "fold_0" / "text.pth").write_text("no checkpoint")
    torch.save([1], folder / "fold_0" / "list.pth")
    torch.save({"network_weights": os.system}, folder / "fold_0" / "evil.pth")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MASTProError, match=message):
        cli.main(["--debug", "pack", "-m", "base", "--type", "liver_tumor", "-o", "pack.safetensors", *arguments])
    assert sorted(tmp_path.rglob("*")) == before
    assert cli.main(["pack", "-m", "base", "--type", "liver_tumor", "-o", "pack.safetensors", *arguments]) == 2
    assert capsys.readouterr().err.startswith("mastpro: error: ")


def test_the_scores_in_a_checkpoint_are_read(make_model):
    """numpy's numbers, as nnU-Net logs them; weights_only=True refuses them otherwise."""
    file = make_model() / "fold_0" / "checkpoint_final.pth"
    scores = {"dice": [np.float32(0.5), np.float64(0.25)], "steps": np.int64(3), "rate": np.float16(0.5)}
    torch.save({**torch.load(file), "logging": scores, "_best_ema": np.float64(0.5)}, file)
    assert read_checkpoint(file)["logging"] == scores
    assert model_of(file.parents[1]).checkpoint["_best_ema"] == 0.5


def test_a_stock_model_is_refused(make_model):
    folder = make_model()
    plans = json.loads((folder / "plans.json").read_text())
    del plans["mastpro"]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(MASTProError, match="holds no MAST-Pro model"):
        model_of(folder)


def test_an_ablated_model_is_refused(make_model):
    with pytest.raises(MASTProError, match=r"ablate=\['experts'\]; types are added to, packed from and unpacked"):
        model_of(make_model(ablate=["experts"]))


def test_a_pack_of_an_earlier_version_fits(make_model, make_pack, tmp_path):
    """Its header names neither ablations nor filters of experts."""
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    network = json.loads(safe_open(pack, "pt").metadata()["network"])
    del network["ablate"], network["expert_kernel"]
    damage(pack, network=json.dumps(network))
    assert unpack(model_of(base), [pack], tmp_path / "new", "0")[-1].label == "lung_tumor"


def test_plans_of_another_model_are_refused(make_model, make_grown):
    base = make_model()
    grown = make_grown(base, "lung_tumor")
    (base / "plans.json").write_bytes((grown / "plans.json").read_bytes())
    with pytest.raises(MASTProError, match="holds 3 classes, the plans.json beside it names 4"):
        model_of(base)


def test_the_commands(make_model, make_pack, tmp_path, capsys):
    base = make_model()
    grown, _ = make_pack(base, "lung_tumor")
    file, new = tmp_path / "a.safetensors", tmp_path / "new"
    assert cli.main(["pack", "-m", str(grown), "--type", "lung_tumor", "-o", str(file), "--licence", "CC0"]) == 0
    assert "KiB" in capsys.readouterr().out
    assert read_pack(file).licence == "CC0"
    assert cli.main(["unpack", "-m", str(base), str(file), "-o", str(new)]) == 0
    assert "lung_tumor    tumour type  a.safetensors" in capsys.readouterr().out
    assert cli.main(["unpack", "-m", str(base), str(file), "-o", str(new)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.tmp"))
    assert NetworkConfig(**read_pack(file).network).rank == 2

"""Packs: what is in them, whom they fit, and what a model of them predicts."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from nnunetv2_mastpro.packs.pack import read_pack, write_pack
from nnunetv2_mastpro.packs.unpack import unpack
from nnunetv2_mastpro.weights.owned import shared_hash, shared_names

OLD = "liver_tumor,kidney_tumor"
REGIONS = {"labels": {"background": 0, "liver": [1, 2], "liver_tumor": 2}, "regions_class_order": [1, 2]}


def weights_of(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize(
    ("routing", "router"), [("sample", "split"), ("token", "split"), ("sample", "joint"), ("token", "joint")]
)
def test_round_trip(make_model, make_pack, predict, image, tmp_path, routing, router, rank, model_of):
    """Base and pack give the grown model to the bit, through nnU-Net's loading; without the type, the base."""
    base = make_model(routing=routing, router=router, backbone_rank=rank)
    grown, pack = make_pack(base, "lung_tumor")
    unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
    found, expected = weights_of(tmp_path / "new"), weights_of(grown)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.equal(found[name]), name
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)
    assert_close(predict(grown, image)[:, :4], predict(base, image), rtol=0, atol=0)
    for folder in (grown, tmp_path / "new"):
        assert_close(predict(folder, image, OLD)[:, :4], predict(base, image), rtol=0, atol=0)


def test_two_packs_in_one_model(make_model, make_pack, predict, image, tmp_path, model_of):
    """In the order given; each alone beside the old types predicts as the model that it was trained in."""
    base = make_model()
    lung, lung_pack = make_pack(base, "lung_tumor")
    colon, colon_pack = make_pack(base, "colon_cancer_primaries", seed=9)
    classes = unpack(model_of(base), [read_pack(colon_pack), read_pack(lung_pack)], tmp_path / "new", "0")
    assert [entry.label for entry in classes[3:]] == ["colon_cancer_primaries", "lung_tumor"]
    labels = json.loads((tmp_path / "new" / "dataset.json").read_text())["labels"]
    assert (labels["colon_cancer_primaries"], labels["lung_tumor"]) == (4, 5)
    for folder, label, output in ((colon, "colon_cancer_primaries", 4), (lung, "lung_tumor", 5)):
        found = predict(tmp_path / "new", image, f"{OLD},{label}")[:, [0, 1, 2, 3, output]]
        assert_close(found, predict(folder, image), rtol=0, atol=0)
        all_selected = predict(tmp_path / "new", image)[:, [0, 1, 2, 3, output]]
        assert_close(all_selected, predict(folder, image), rtol=0, atol=0)
    assert_close(predict(tmp_path / "new", image, OLD)[:, :4], predict(base, image), rtol=0, atol=0)


@pytest.mark.parametrize("first", ["lung_tumor", None])
def test_a_grown_model_is_a_base_too(make_model, make_pack, make_grown, predict, image, tmp_path, first, model_of):
    """A second type on top of a first, or beside it: the shared parts are the same."""
    base = make_model()
    under = make_grown(base, "lung_tumor") if first else base
    grown, pack = make_pack(under, "colon_cancer_primaries", seed=9)
    unpack(model_of(under), [read_pack(pack)], tmp_path / "new", "0")
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)
    unpack(model_of(base), [read_pack(pack)], tmp_path / "other", "0")
    tasks = f"{OLD},colon_cancer_primaries"
    output = grown and -1
    assert_close(predict(tmp_path / "other", image)[:, output], predict(grown, image, tasks)[:, output], rtol=0, atol=0)


@pytest.mark.parametrize("base_labels", [{"background": 0, "liver": 1}, {"background": 0, "colon_cancer_primaries": 1}])
def test_a_base_without_types_of_its_own_or_without_organs(
    make_model, make_pack, predict, image, dataset_json, tmp_path, base_labels, model_of
):
    base = make_model(dataset_json={**dataset_json, "labels": base_labels})
    grown, pack = make_pack(base, "lung_tumor")
    unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)


def test_regions(make_model, make_pack, predict, image, dataset_json, tmp_path, model_of):
    base = make_model(dataset_json={**dataset_json, **copy.deepcopy(REGIONS)})
    grown, pack = make_pack(base, "lung_tumor")
    unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
    assert json.loads((tmp_path / "new" / "dataset.json").read_text())["regions_class_order"] == [1, 2, 3]
    assert_close(predict(tmp_path / "new", image), predict(grown, image), rtol=0, atol=0)
    assert_close(predict(grown, image, "liver_tumor")[:, :2], predict(base, image), rtol=0, atol=0)


def test_the_ignore_label_stays_the_highest(make_model, make_pack, dataset_json, tmp_path, model_of):
    grown, pack = make_pack(make_model(), "lung_tumor")
    dataset_json["labels"]["ignore"] = 4
    base = make_model("with_ignore", dataset_json)
    unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
    labels = json.loads((tmp_path / "new" / "dataset.json").read_text())["labels"]
    assert (labels["lung_tumor"], labels["ignore"]) == (4, 5)


def test_organ_masks(make_model, make_pack, predict, tmp_path, model_of):
    """The table of the new model has the new type's host; the old types see what they saw."""
    base = make_model(anatomy=True)
    grown, pack = make_pack(base, "lung_tumor", anatomy=True)
    unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
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


def test_a_type_trained_jointly_has_no_offset(make_model, tmp_path, model_of):
    write_pack(model_of(make_model()), "liver_tumor", tmp_path / "pack.safetensors")
    assert "offset" not in load_file(tmp_path / "pack.safetensors")
    assert read_pack(tmp_path / "pack.safetensors").spec.added is False


def test_the_header(make_model, make_pack, model_of):
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

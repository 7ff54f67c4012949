"""Packs that do not fit, models that give none, and the commands."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.config import NetworkConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.model import read_checkpoint
from nnunetv2_mastpro.packs.pack import read_pack
from nnunetv2_mastpro.packs.unpack import unpack
from nnunetv2_mastpro.weights.owned import shared_hash


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
        ({"format": "nnunetv2_mastpro pack 1"}, "is no pack"),
        ({"class": "{}"}, "cannot be read as a pack"),
        ({"offset": torch.zeros(7)}, r"has offset of shape \(7,\), not \(384,\)"),
        ({"more": torch.zeros(7)}, r"has more of shape \(7,\), not None"),
        ({"embedding": torch.full((384,), torch.nan)}, "not finite"),
    ],
)
def test_packs_that_do_not_fit(make_model, make_pack, tmp_path, changes, message, model_of):
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    damage(pack, **changes)
    if message is None:
        sentence = model_of(base).classes[0].sentence
        damage(pack, **{"class": with_class(sentence=sentence)})
        message = "have the same sentence"
    with pytest.raises(MASTProError, match=message):
        unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
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
def test_packs_of_other_sizes(make_model, make_pack, tmp_path, options, message, model_of):
    _, pack = make_pack(make_model("other", **options), "lung_tumor")
    with pytest.raises(MASTProError, match=message):
        unpack(model_of(make_model()), [read_pack(pack)], tmp_path / "new", "0")


def test_a_pack_older_than_a_setting_fits(make_model, make_pack, tmp_path, model_of):
    """It was trained with what is the setting's default now."""
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    network = {name: value for name, value in read_pack(pack).network.items() if name != "anatomy_encoder"}
    damage(pack, network=json.dumps(network))
    unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")
    assert (tmp_path / "new" / "fold_0").is_dir()


def test_a_pack_of_another_base_names_both(make_model, make_pack, tmp_path, model_of):
    other = make_model("other", seed=3)
    _, pack = make_pack(other, "lung_tumor")
    base = make_model()
    hashes = [shared_hash(model_of(folder).weights) for folder in (other, base)]
    with pytest.raises(MASTProError, match=f"{hashes[0]}.*{hashes[1]}"):
        unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")


def test_a_type_that_was_not_added_cannot_follow_added_ones(make_model, make_pack, tmp_path, model_of):
    """Outputs of added types come last, so its logits would be taken for another's."""
    base = make_model()
    grown, lung = make_pack(base, "lung_tumor")
    _, file = make_pack(base, "colon_cancer_primaries", seed=9)
    pack = read_pack(file)
    joint = dataclasses.replace(pack, spec=dataclasses.replace(pack.spec, added=False))
    with pytest.raises(MASTProError, match="was trained with its model and not added to it; it cannot follow a type"):
        unpack(model_of(grown), [joint], tmp_path / "new", "0")
    with pytest.raises(MASTProError, match="give it before the packs of such types"):
        unpack(model_of(base), [read_pack(lung), joint], tmp_path / "new", "0")


def test_a_pack_twice(make_model, make_pack, tmp_path, model_of):
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    with pytest.raises(MASTProError, match="lung_tumor, which the model or an earlier pack has"):
        unpack(model_of(base), [read_pack(pack), read_pack(pack)], tmp_path / "new", "0")


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
        (["-o", "there.safetensors"], "is there already; give -o another"),
        (["-o", "pack.pt"], "-o pack.pt does not end in .safetensors"),
        (["-o", "nowhere/pack.safetensors"], "nowhere is no folder"),
    ],
)
def test_what_cannot_be_packed(make_model, tmp_path, monkeypatch, capsys, arguments, message):
    folder = make_model()
    (folder / "fold_0" / "text.pth").write_text("no checkpoint")
    (tmp_path / "there.safetensors").touch()
    torch.save([1], folder / "fold_0" / "list.pth")
    torch.save({"network_weights": os.system}, folder / "fold_0" / "evil.pth")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MASTProError, match=message):
        cli.main(["--debug", "pack", "-m", "base", "--type", "liver_tumor", "-o", "pack.safetensors", *arguments])
    assert sorted(tmp_path.rglob("*")) == before
    assert cli.main(["pack", "-m", "base", "--type", "liver_tumor", "-o", "pack.safetensors", *arguments]) == 2
    assert capsys.readouterr().err.startswith("mastpro: error: ")


def test_the_scores_in_a_checkpoint_are_read(make_model, model_of):
    """numpy's numbers, as nnU-Net logs them; weights_only=True refuses them otherwise."""
    file = make_model() / "fold_0" / "checkpoint_final.pth"
    scores = {"dice": [np.float32(0.5), np.float64(0.25)], "steps": np.int64(3), "rate": np.float16(0.5)}
    torch.save({**torch.load(file), "logging": scores, "_best_ema": np.float64(0.5)}, file)
    assert read_checkpoint(file)["logging"] == scores
    assert model_of(file.parents[1]).checkpoint["_best_ema"] == 0.5


def test_a_stock_model_is_refused(make_model, model_of):
    folder = make_model()
    plans = json.loads((folder / "plans.json").read_text())
    del plans["mastpro"]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(MASTProError, match="holds no MAST-Pro model"):
        model_of(folder)


def test_an_ablated_model_is_refused(make_model, model_of):
    with pytest.raises(MASTProError, match=r"ablate=\['experts'\]; types are added to, packed from and unpacked"):
        model_of(make_model(ablate=["experts"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_stages": (2,)}, r"holds experts.encoder_1.down.0 \[4, 2, \d+\], the network .* not at all; restore"),
        ({"backbone_rank": 3}, r"updates.\w+.\w+ not at all, the network of the plans.json beside it \["),
        ({"rank": 3}, r"experts.\w+.down.0 \[4, 2, \d+\], the network .* \[4, 3, \d+\]"),
    ],
)
def test_weights_of_another_network_are_refused(make_model, model_of, changes, message):
    """Else what is missing would be filled with untrained numbers."""
    base = make_model()
    plans = json.loads((base / "plans.json").read_text())
    plans["mastpro"]["network"] |= changes
    (base / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(MASTProError, match=message):
        model_of(base)


def test_a_pack_that_lacks_a_tensor(make_model, make_pack, tmp_path, model_of):
    base = make_model()
    _, pack = make_pack(base, "lung_tumor")
    with safe_open(pack, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(pack)
    lost = next(name for name in tensors if name.startswith("updates.up."))
    del tensors[lost]
    save_file(tensors, pack, header)
    with pytest.raises(MASTProError, match=rf"{lost} of shape None, not \(\d+, \d+\); pack it again"):
        unpack(model_of(base), [read_pack(pack)], tmp_path / "new", "0")


def test_plans_of_another_model_are_refused(make_model, make_grown, model_of):
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
    shown = capsys.readouterr().out
    assert "KiB" in shown
    assert "note:" not in shown
    assert read_pack(file).licence == "CC0"
    own = ["--type", "liver_tumor", "-o", str(tmp_path / "own.safetensors")]
    assert cli.main(["pack", "-m", str(grown), *own]) == 0
    assert "note: liver_tumor was trained with the model, not added to it" in capsys.readouterr().out
    assert cli.main(["unpack", "-m", str(base), str(file), "-o", str(new)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"lung_tumor +tumour type +a.safetensors +CC0", shown)
    assert f"nnUNetv2_predict_from_modelfolder -m {new} -f 0 -i IMAGES -o PREDICTIONS\n" in shown  # it has no hosts
    assert cli.main(["unpack", "-m", str(base), str(file), "-o", str(new)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.tmp"))
    assert NetworkConfig(**read_pack(file).network).rank == 2


def test_unpack_says_what_a_model_of_organ_masks_wants(make_model, make_pack, tmp_path, capsys):
    base, new = make_model(anatomy=True), tmp_path / "new"
    _, pack = make_pack(base, "lung_tumor", anatomy=True)
    assert cli.main(["unpack", "-m", str(base), str(pack), "-o", str(new)]) == 0
    shown = capsys.readouterr().out
    assert f"mastpro anatomy -m {new} -i IMAGES -o MAPS --masks MASKS\n" in shown
    assert "-o PREDICTIONS -prev_stage_predictions MAPS\n" in shown

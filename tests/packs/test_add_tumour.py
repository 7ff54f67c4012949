"""mastpro add-tumour up to the commands that it runs: what it checks, what it writes. The training: test_added_type."""

import json
import os
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.datasets import read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import find_new_labels
from nnunetv2_mastpro.packs.plans import find_reader
from nnunetv2_mastpro.prompts.knowledge_base import tumors
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.weights.owned import shared_hash
from nnunetv2_mastpro.weights.read import read_weights

from .conftest import DATASET, GROWN, OTHER_PROMPT, call

NEW = "nnUNetTrainerMASTPro_1epoch__Added__2d"


def test_channels_of_an_older_data_set_are_known():
    known, labels = (
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}},
        {"background": 0, "a": 1, "b": 2},
    )
    assert find_new_labels(known, {"modality": {"0": "CT"}, "labels": labels}, "the other") == ["b"]


def test_it_takes_what_was_merged_for_the_model(make_model, make_dataset, dataset_json, capsys):
    """The model's prompts come along, also one that its labels do not give; the last is a sentence that ships."""
    spot = {"sentence": tumors()["pancreas_tumor"].sentence("CT"), "is_tumor": True}
    base = make_model(dataset_json={**dataset_json, "mastpro": {"prompts": {"liver_tumor": spot}}})
    raw = make_dataset({"background": 0, "lung_tumor": 1})
    for path in (raw / "labelsTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(path) > 3, path)
    other = raw / "imagesTr" / "b_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(other) + 1, other)  # else both are one case
    rules = ["--model", str(base), "--folds", "2", "-np", "1"]
    assert cli.main(["--debug", "merge", "-d", "12", "-o", "13", "-n", "WithLung", *rules]) == 0
    given = ["-m", str(base), "-d", "13", "-n", "Added", "-tr", "nnUNetTrainerMASTPro_1epoch", "-device", "cpu"]
    assert cli.main(["--debug", "add-tumour", *given, "--dry-run"]) == 0
    assert "lung_tumor joins liver, liver_tumor, kidney_tumor" in capsys.readouterr().out


def test_the_rate_can_be_chosen(make_model, make_dataset, commands, tmp_path):
    base = make_model(mastpro={"training": {"mode": "full"}})
    plans = tmp_path / "nnUNet_preprocessed" / DATASET / "Added.json"
    make_dataset()
    with pytest.raises(MASTProError, match="--learning-rate 2.0 is not within 0 and 1"):
        call(base, "--learning-rate", "2")
    assert not plans.exists()
    assert call(base, "--learning-rate", "1e-2") == 0
    training = json.loads(plans.read_text())["mastpro"]["training"]
    assert (training["added_learning_rate"], training["mode"]) == (0.01, "auto")  # the model's own was "full"


def test_what_it_writes_and_runs(make_model, make_dataset, commands, tmp_path, capsys):
    base = make_model()
    make_dataset()
    assert call(base, "-np", "1") == 0
    preprocessed, fold = (
        tmp_path / "nnUNet_preprocessed" / DATASET,
        tmp_path / "nnUNet_results" / DATASET / NEW / "fold_0",
    )
    start = str(fold / "checkpoint_start.pth")
    assert commands == [
        ("nnUNetv2_extract_fingerprint", "-d", "12", "--verify_dataset_integrity", "-np", "1"),
        ("nnUNetv2_preprocess", "-d", "12", "-plans_name", "Added", "-c", "2d", "-np", "1"),
        (
            *("nnUNetv2_train", "12", "2d", "0", "-p", "Added", "-tr", "nnUNetTrainerMASTPro_1epoch"),
            *("-device", "cpu", "-pretrained_weights", start),
        ),
    ]
    assert "lung_tumor joins liver, liver_tumor, kidney_tumor" in capsys.readouterr().out
    plans, before = (json.loads(path.read_text()) for path in (preprocessed / "Added.json", base / "plans.json"))
    assert (plans["dataset_name"], plans["plans_name"]) == (DATASET, "Added")
    assert plans["configurations"]["2d"].pop("data_identifier") == "Added_nnUNetPlans_2d"
    before["configurations"]["2d"].pop("data_identifier")
    assert plans["configurations"] == before["configurations"]
    block = plans["mastpro"]
    assert "resolved" not in block
    assert block["prompts"]["added"] == block["training"]["new_types"] == ["lung_tumor"]
    assert block["network"] == before["mastpro"]["network"]
    assert [entry.label for entry in read_weights(Path(start)).classes] == [*GROWN][1:]
    weights = torch.load(start)["network_weights"]
    old = torch.load(base / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert shared_hash(weights) == shared_hash(old)
    assert (int(old.pop("trained")), int(weights.pop("trained"))) == (1, 5)
    assert all(weights[name].equal(tensor) for name, tensor in old.items() if name != "embeddings")
    assert weights["embeddings"][:3].equal(old["embeddings"])
    new = {name: weights[name] for name in weights.keys() - old.keys()}
    zeros = {name for name, tensor in new.items() if not tensor.any()}
    assert zeros == {name for name in new if name == "offsets.0" or ".up." in name or ".shift." in name}
    updates = [name for name in new if name.startswith("added_updates.0.")]
    assert len(new) == 1 + 3 * 3 + len(updates)  # the offset, three sites with routers
    assert any("encoder_stages_0" in name for name in updates)


def test_the_start_is_the_seeds(make_model, make_dataset, commands, tmp_path, monkeypatch):
    """What the new type owns at the start is drawn; MASTPRO_SEED draws the same."""
    base, starts = make_model(), []
    make_dataset()
    for name, seed in (("First", "1"), ("Second", "1"), ("Third", "2")):
        monkeypatch.setenv("MASTPRO_SEED", seed)
        call(base, "-n", name)
        start = tmp_path / "nnUNet_results" / DATASET / NEW.replace("Added", name) / "fold_0" / "checkpoint_start.pth"
        starts.append(torch.load(start)["network_weights"])
    drawn = [name for name in starts[0] if name.startswith("added_updates.0.down.")]
    assert drawn
    for name in drawn:
        assert starts[0][name].equal(starts[1][name])
        assert not starts[0][name].equal(starts[2][name])


def test_a_second_run_goes_on(make_model, make_dataset, commands, tmp_path):
    base = make_model()
    make_dataset()
    call(base)
    fold = tmp_path / "nnUNet_results" / DATASET / NEW / "fold_0"
    (tmp_path / "nnUNet_preprocessed" / DATASET / "dataset_fingerprint.json").touch()
    data = tmp_path / "nnUNet_preprocessed" / DATASET / "Added_nnUNetPlans_2d"
    data.mkdir()
    (data / "a.pkl").touch()
    commands.clear()
    call(base)
    assert [command[0] for command in commands] == ["nnUNetv2_preprocess", "nnUNetv2_train"]  # a case was missing
    (data / "b.pkl").touch()
    label = tmp_path / "nnUNet_raw" / DATASET / "labelsTr" / "a.nii.gz"
    written = label.stat().st_mtime
    os.utime(label, (written + 60, written + 60))
    commands.clear()
    call(base)
    assert [command[0] for command in commands] == ["nnUNetv2_preprocess", "nnUNetv2_train"]  # a label was written anew
    os.utime(label, (written, written))
    (fold / "checkpoint_best.pth").touch()
    start = (fold / "checkpoint_start.pth").stat().st_mtime_ns
    commands.clear()
    call(base)
    ((*_, last),) = commands
    assert last == "--c"
    assert (fold / "checkpoint_start.pth").stat().st_mtime_ns == start
    (fold / "checkpoint_final.pth").touch()
    (fold / "validation").mkdir()
    (fold / "validation" / "summary.json").touch()
    commands.clear()
    assert call(base) == 0
    assert commands == []
    os.utime(label, (written + 60, written + 60))
    with pytest.raises(MASTProError, match=r"was trained before labels of Dataset012_Lung were written \(a\); give -n"):
        call(base)


def test_dry_run_writes_nothing(make_model, make_dataset, commands, tmp_path, capsys):
    base = make_model()
    make_dataset()
    before = sorted(tmp_path.rglob("*"))
    assert call(base, "--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert commands == []
    assert "$ nnUNetv2_train 12 2d 0 -p Added" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(make_model, make_dataset, commands, tmp_path, capsys):
    base = make_model()
    make_dataset()
    before = sorted(tmp_path.rglob("*"))
    assert call(base, "--dry-run", "-device", "cuda") == 0
    assert "note: torch finds no cuda device here; give -device cpu" in capsys.readouterr().out
    with pytest.raises(MASTProError, match="torch finds no cuda device here; give -device cpu"):
        call(base, "-device", "cuda")
    assert commands == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("anatomy", [False, True])
def test_dry_run_tells_of_maps_where_the_model_takes_them(make_model, make_dataset, commands, capsys, anatomy):
    base = make_model(anatomy=anatomy)
    make_dataset()
    assert call(base, "--dry-run", "--write-prompts") == 0
    lines = capsys.readouterr().out.splitlines()
    maps = [line for line in lines if line.startswith(f"$ mastpro anatomy -d {DATASET} -p Added --masks MASKS")]
    assert len(maps) == anatomy
    assert lines[-1] == "would write the model's prompts into dataset.json"


def test_two_types_on_top_of_an_added_one(make_model, make_grown, make_dataset, commands, tmp_path):
    """Only what comes now is trained now; what was added before keeps the offset of its prompt."""
    grown = make_grown(make_model(), "lung_tumor")
    make_dataset({**GROWN, "colon_cancer_primaries": 5, "pancreas_tumor": 6})
    call(grown)
    block = json.loads((tmp_path / "nnUNet_preprocessed" / DATASET / "Added.json").read_text())["mastpro"]
    assert block["prompts"]["added"] == ["lung_tumor", "colon_cancer_primaries", "pancreas_tumor"]
    assert block["training"]["new_types"] == ["colon_cancer_primaries", "pancreas_tumor"]
    fold = tmp_path / "nnUNet_results" / DATASET / NEW / "fold_0"
    weights = torch.load(fold / "checkpoint_start.pth")["network_weights"]
    old = torch.load(grown / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert weights["offsets.0"].equal(old["offsets.0"])
    assert not weights["offsets.1"].any()
    assert not weights["offsets.2"].any()


def test_the_models_prompts_can_be_written(make_model, make_dataset, commands, tmp_path):
    """Into both copies; the new type's stays. Then there is nothing to be refused."""
    base = make_model()
    own = {"lung_tumor": {"sentence": "A lung tumour.", "is_tumor": True, "host_structures": []}}
    raw = make_dataset(mastpro={"prompts": {**OTHER_PROMPT["mastpro"]["prompts"], **own}, "cases": {}})
    assert call(base, "--write-prompts") == 0
    for path in (raw / "dataset.json", tmp_path / "nnUNet_preprocessed" / DATASET / "dataset.json"):
        content = json.loads(path.read_text())
        prompts = resolve_prompts(content)
        assert [prompt.sentence for prompt in prompts[:3]] == [
            entry["sentence"]
            for entry in json.loads((base / "plans.json").read_text())["mastpro"]["resolved"]["classes"]
        ]
        assert prompts[3].sentence == "A lung tumour."
        assert content["mastpro"]["cases"] == {}
    assert call(base) == 0


@pytest.mark.parametrize(
    ("before", "wanted", "kept"),
    [
        ("SimpleITKIO", None, "SimpleITKIO"),
        ("SimpleITKIOWithReorient", None, "SimpleITKIOWithReorient"),
        ("SimpleITKIOWithReorient", "NibabelIO", "SimpleITKIOWithReorient"),
        ("NibabelIO", "SimpleITKIOWithReorient", "NibabelIO"),
        ("NibabelIO", None, "SimpleITKIO"),
    ],
)
def test_images_are_turned_as_the_models_were(make_dataset, before, wanted, kept):
    assert find_reader(before, make_dataset(**({"overwrite_image_reader_writer": wanted} if wanted else {}))) == kept


def test_images_that_the_models_reader_does_not_read(make_dataset):
    dataset = make_dataset()
    for path in [*dataset.rglob("*.nii.gz")]:
        path.rename(path.with_name(path.name.replace(".nii.gz", ".png")))
        sitk.WriteImage(sitk.Image(16, 16, sitk.sitkUInt8), path.with_name(path.name.replace(".nii.gz", ".png")))
    content = {**read_json_object(dataset / "dataset.json"), "file_ending": ".png"}
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(
        MASTProError, match="read by SimpleITKIOWithReorient, which does not read .png, the file_ending of"
    ):
        find_reader("SimpleITKIOWithReorient", dataset)

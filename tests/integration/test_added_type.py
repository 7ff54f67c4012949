"""A new type by mastpro add-tumour, its pack, and what the stock prediction command makes of them."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

BASE, NEW = "Dataset701_Hippocampus", "Dataset704_HippocampusTail"
TRAINER = "nnUNetTrainerMASTPro_1epoch"
LABEL = "tail_tumor"
STEPS = 4  # per epoch

pytestmark = pytest.mark.slow


def weights_of(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]


@pytest.fixture(scope="module")
def base(lab):
    return lab.trained("2d")


@pytest.fixture(scope="module")
def dataset(lab, base):
    """The same images; the lower half of posterior is the new type."""
    old, raw = lab.workspace.raw / BASE, lab.workspace.raw / NEW
    shutil.copytree(old / "imagesTr", raw / "imagesTr")
    (raw / "labelsTr").mkdir()
    for path in sorted((old / "labelsTr").iterdir()):
        label = sitk.ReadImage(path)
        values = sitk.GetArrayFromImage(label)
        values[(values == 2) & (np.arange(len(values)) < len(values) // 2)[:, None, None]] = 3
        changed = sitk.GetImageFromArray(values)
        changed.CopyInformation(label)
        sitk.WriteImage(changed, raw / "labelsTr" / path.name)
    content = json.loads((old / "dataset.json").read_text())
    content["labels"][LABEL] = 3
    known = json.loads((base / "plans.json").read_text())["mastpro"]["resolved"]["classes"]
    tail = {"label": LABEL, "sentence": "The tail of it.", "is_tumor": True, "host_structures": ["brain"]}
    keys = ("sentence", "is_tumor", "host_structures")
    content["mastpro"]["prompts"] = {entry["label"]: {key: entry[key] for key in keys} for entry in [*known, tail]}
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw


@pytest.fixture(scope="module")
def added(lab, base, dataset):
    """The grown model's folder, and what the command printed."""
    given = ["-m", base, "-d", "704", "-n", "Added", "--trainer", TRAINER, "-device", "cpu", "-np", "1"]
    done = lab.command("mastpro", "add-tumour", *given, env={"MASTPRO_EPOCH_ITERATIONS": str(STEPS)})
    return lab.workspace.results / NEW / f"{TRAINER}__Added__2d", done.stdout


@pytest.fixture(scope="module")
def predict(lab, added, tmp_path_factory):
    """`predict(folder, tasks)`: probabilities by case, by nnUNetv2_predict_from_modelfolder on the unseen images."""
    made = {}

    def run(folder, tasks=None):
        if (folder, tasks) not in made:
            out = tmp_path_factory.mktemp("out")
            given = ["-i", lab.images(BASE), "-o", out, "-m", folder, "-f", "0", "-device", "cpu", "--disable_tta"]
            env = {"MASTPRO_TASKS": tasks} if tasks else {}
            workers = ["-npp", "1", "-nps", "1"]  # this command takes no 0
            lab.command("nnUNetv2_predict_from_modelfolder", *given, "--save_probabilities", *workers, env=env)
            made[folder, tasks] = {path.name: np.load(path)["probabilities"] for path in sorted(out.glob("*.npz"))}
            assert len(made[folder, tasks]) == 2
        return made[folder, tasks]

    return run


def test_only_what_the_new_type_owns_has_moved(base, added):
    before, after = weights_of(base), weights_of(added[0])
    start = torch.load(added[0] / "fold_0" / "checkpoint_start.pth")["network_weights"]
    assert start.keys() == after.keys()
    own = {name for name in after if name not in before}
    routed = {name for name in after if name.endswith((".specific.1", ".down.2", ".up.2"))}
    assert own == {"offsets.0", *routed, *(name for name in after if name.startswith("added_updates.0."))}
    moved = {name for name, tensor in after.items() if not tensor.equal(start[name])}
    assert "offsets.0" in moved
    assert len(moved) > len(own) // 2
    assert moved <= own
    assert (before.pop("trained"), after["trained"]) == (1, 5)  # and with an added type
    for name, tensor in before.items():
        assert tensor.equal(after[name][:2] if name == "embeddings" else after[name]), name


def test_the_log_says_what_is_trained(added):
    (log,) = (added[0] / "fold_0").glob("training_log_*.txt")
    text = log.read_text()
    assert f"All is frozen but what the new types own: {LABEL}." in text
    for command in ("nnUNetv2_extract_fingerprint -d 704", "nnUNetv2_preprocess -d 704", "nnUNetv2_train 704 2d 0"):
        assert f"\n$ {command}" in added[1]
    assert "mastpro pack -m" in added[1]


def test_the_old_types_are_the_same_to_the_bit(lab, base, added, predict, tmp_path):
    """By nnUNetv2_predict with MASTPRO_TASKS; with the new type selected they are not."""
    known, everything = predict(base), predict(added[0])
    given = ["-i", lab.images(BASE), "-o", tmp_path, "-d", "704", "-c", "2d", "-p", "Added", "-tr", TRAINER, "-f", "0"]
    options = ["-device", "cpu", "--disable_tta", "--save_probabilities", "-npp", "0", "-nps", "0"]
    lab.command("nnUNetv2_predict", *given, *options, env={"MASTPRO_TASKS": "posterior"})
    for name, expected in known.items():
        found = np.load(tmp_path / name)["probabilities"]
        assert found.shape == (4, *expected.shape[1:])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found[:3].view(np.uint8), expected.view(np.uint8))
        assert found[3].max() < 1e-8
        assert not np.array_equal(everything[name][:3], expected)
        segmentation = name.replace(".npz", ".nii.gz")
        assert not (sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / segmentation)) == 3).any()


def test_pack_and_unpack(lab, base, added, predict, tmp_path):
    pack, folder = tmp_path / "tail.safetensors", tmp_path / "with_tail"
    lab.command("mastpro", "pack", "-m", added[0], "--type", LABEL, "-o", pack, "--licence", "CC-BY-4.0")
    assert pack.stat().st_size < 0.2 * (base / "fold_0" / "checkpoint_final.pth").stat().st_size  # of a tiny network
    lab.command("mastpro", "unpack", "-m", base, pack, "-o", folder)
    for tasks, other in ((None, added[0]), ("posterior", base)):
        for name, expected in predict(other).items():
            np.testing.assert_array_equal(predict(folder, tasks)[name][: len(expected)], expected)
    named = lab.workspace.results / BASE / f"{TRAINER}__WithTail__2d"  # as nnU-Net names it, so that it is exported
    shutil.copytree(folder, named)
    what = ["-d", "701", "-c", "2d", "-p", "WithTail", "-tr", TRAINER, "-f", "0", "-o", tmp_path / "model.zip"]
    lab.command("nnUNetv2_export_model_to_zip", *what, "--not_strict")
    assert (tmp_path / "model.zip").stat().st_size > pack.stat().st_size


def test_a_second_run_has_nothing_to_do(lab, base, added):
    given = ["-m", base, "-d", "704", "-n", "Added", "--trainer", TRAINER, "-device", "cpu"]
    assert "finished earlier" in lab.command("mastpro", "add-tumour", *given).stdout


def test_an_interrupted_run_goes_on_in_the_same_way(lab, base, added):
    """Only the new type's parameters again: the backbone and the other types are the model's to the end."""
    trainer = "nnUNetTrainerMASTPro_5epochs"
    fold = lab.workspace.results / NEW / f"{trainer}__Added__2d" / "fold_0"
    argv = ["mastpro", "add-tumour", "-m", base, "-d", "704", "-n", "Added", "--trainer", trainer, "-device", "cpu"]

    def in_the_second_epoch():
        return any("Epoch 1" in log.read_text() for log in fold.glob("training_log_*.txt"))

    lab.interrupt([str(part) for part in argv], in_the_second_epoch, env={"MASTPRO_EPOCH_ITERATIONS": str(STEPS)})
    assert not (fold / "checkpoint_final.pth").exists()
    done = lab.command(*argv, env={"MASTPRO_EPOCH_ITERATIONS": str(STEPS)})
    assert "--c" in done.stdout
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert [group["initial_lr"] for group in final["optimizer_state"]["param_groups"]] == [1e-2, 1e-2]
    assert final["current_epoch"] == 5
    for name, tensor in weights_of(base).items():
        after = final["network_weights"][name]
        assert name == "trained" or tensor.equal(after[:2] if name == "embeddings" else after), name

"""Small models in folders as nnU-Net's training leaves them, and the stock predictor's way to load them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.packs import add
from nnunetv2_mastpro.packs.model import Model, read_model
from nnunetv2_mastpro.packs.pack import write_pack
from nnunetv2_mastpro.resources import trainers_dir
from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

TRAINER = "nnUNetTrainerMASTPro_1epoch"
DATASET = "Dataset012_Lung"
GROWN = {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3, "lung_tumor": 4}
OTHER_PROMPT = {"mastpro": {"prompts": {"liver_tumor": {"sentence": "A tumour.", "is_tumor": True}}}}


def call(model, *arguments):
    given = ["-m", str(model), "-d", "12", "-n", "Added", "-tr", "nnUNetTrainerMASTPro_1epoch", "-device", "cpu"]
    return cli.main(["--debug", "add-tumour", *given, *arguments])


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """The plugin is found, nothing of the caller's is, and sentences are embedded anew."""
    for name in ("MASTPRO_TASKS", "MASTPRO_SKIP_EMPTY", "MASTPRO_EPOCH_ITERATIONS", "MASTPRO_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def dataset_json(small_dataset) -> dict:
    """For a test to change."""
    return small_dataset


@pytest.fixture
def make_model(tmp_path, small_plans, small_dataset) -> Callable[..., Path]:
    """`make_model("base", rank=2)`: a results folder with random weights, as if trained.

    `like`: another folder, whose tensors it takes where it has them too. `mastpro`: sections of the plans' block.
    """

    def make(name="base", dataset_json=None, like=None, mastpro=None, anatomy=False, seed=1, **network) -> Path:
        plans = {**copy.deepcopy(small_plans), "plans_name": "BasePlans"}
        dataset_json = dataset_json or small_dataset
        plans["mastpro"] = {"network": {**plans["mastpro"]["network"], **network}, **(mastpro or {})}
        if anatomy:
            plans["configurations"]["2d"]["previous_stage"] = "anatomy"
        config, embeddings = resolve(plans, dataset_json)
        plans["mastpro"] = config.to_dict()
        manager = PlansManager(copy.deepcopy(plans))
        heads = len(config.resolved.classes) + config.resolved.has_background
        values = {
            v for value in dataset_json["labels"].values() for v in (value if isinstance(value, list) else [value])
        }
        channels = 1 + (len(values - {0}) if anatomy else 0)
        configuration = manager.get_configuration("2d")
        torch.manual_seed(0)
        made = nnUNetTrainerMASTPro.build_network_architecture(manager, configuration, channels, heads)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        made.embeddings.copy_(embeddings.vectors)
        made.mark_trained()
        weights = made.state_dict()
        if like is not None:
            known = torch.load(like / "fold_0" / "checkpoint_final.pth")["network_weights"]
            weights.update({key: tensor for key, tensor in known.items() if key not in ("embeddings", "trained")})
        folder = tmp_path / name
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        init_args = {"plans": plans, "configuration": "2d", "fold": 0, "dataset_json": dataset_json}
        checkpoint = {"network_weights": weights, "init_args": init_args, "trainer_name": TRAINER}
        torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
        return folder

    return make


@pytest.fixture
def make_grown(make_model) -> Callable[..., Path]:
    """`make_grown(base, "lung_tumor")`: as if the type had been added to the base and trained."""

    def make(base, label, seed=5, **options) -> Path:
        dataset_json = json.loads((base / "dataset.json").read_text())
        block = json.loads((base / "plans.json").read_text())["mastpro"]
        highest = max(max(v) if isinstance(v, list) else v for v in dataset_json["labels"].values())
        dataset_json["labels"][label] = highest + 1
        if "regions_class_order" in dataset_json:
            dataset_json["regions_class_order"].append(highest + 1)
        added = {"prompts": {**block["prompts"], "added": [*block["prompts"]["added"], label]}}
        added["training"] = {**block["training"], "new_types": [label]}
        return make_model(f"{base.name}_{label}", dataset_json, base, added, seed=seed, **block["network"], **options)

    return make


@pytest.fixture
def model_of() -> Callable[[Path], Model]:
    """The model in a folder."""
    return lambda folder: read_model(folder, "0", "checkpoint_final.pth")


@pytest.fixture
def make_pack(make_grown, model_of, tmp_path) -> Callable[..., tuple[Path, Path]]:
    """`make_pack(base, "lung_tumor")`: the grown model's folder and a pack of its type."""

    def make(base, label, **options):
        grown, file = make_grown(base, label, **options), tmp_path / f"{label}.safetensors"
        write_pack(model_of(grown), label, file, "CC-BY-4.0")
        return grown, file

    return make


@pytest.fixture
def predict(monkeypatch) -> Callable[..., torch.Tensor]:
    """`predict(folder, image, "liver_tumor,kidney_tumor")`: logits by nnU-Net's own way of loading a model folder."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    def run(folder, image, tasks=None):
        monkeypatch.delenv("MASTPRO_TASKS", raising=False)
        if tasks:
            monkeypatch.setenv("MASTPRO_TASKS", tasks)
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
        predictor.initialize_from_trained_model_folder(str(folder), (0,))
        with torch.inference_mode():
            return predictor.network.eval()(image)

    return run


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make_dataset(tmp_path):
    """`make_dataset(labels=...)`: two small images in nnUNet_raw."""

    def make(labels=GROWN, folder="nnUNet_raw", **content):
        raw = tmp_path / folder / DATASET
        for name in ("imagesTr", "labelsTr"):
            (raw / name).mkdir(parents=True)
        values = np.arange(4 * 16 * 16, dtype=np.float32).reshape(4, 16, 16)
        for case in ("a", "b"):
            sitk.WriteImage(sitk.GetImageFromArray(values), raw / "imagesTr" / f"{case}_0000.nii.gz")
            sitk.WriteImage(sitk.GetImageFromArray((values % 5).astype(np.uint8)), raw / "labelsTr" / f"{case}.nii.gz")
        shared = {"channel_names": {"0": "CT"}, "numTraining": 2, "file_ending": ".nii.gz"}
        (raw / "dataset.json").write_text(json.dumps({**shared, "labels": labels, **content}))
        return raw

    return make


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run."""
    seen = []
    monkeypatch.setattr(add, "run", lambda command, say: seen.append(command))
    return seen

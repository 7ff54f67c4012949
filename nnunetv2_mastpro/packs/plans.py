"""The plans of a training that adds types to a model: the model's, for another data set."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

from nnunetv2_mastpro.datasets import read_json_object, training_files
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.model import Model

TURNS = "WithReorient"  # the end of the names of nnU-Net's readers that give images in one orientation


def make_plans(model: Model, dataset: Path, name: str, new: list[str], rate: float | None = None) -> dict:
    """The model's plans for another data set, as nnUNetv2_move_plans_between_datasets would, and the new types.
    `rate`: added_learning_rate where it is not to be that of the model's plans.

    That command wants the preprocessed data of the model's own data set, which a model folder comes without.
    """
    plans = copy.deepcopy(model.plans)
    plans.pop("continue_training", None)  # nnU-Net's note of how it was started
    before = plans["plans_name"]
    for configuration in plans["configurations"].values():
        if "data_identifier" in configuration:
            rest = configuration["data_identifier"].removeprefix(before).lstrip("_")
            configuration["data_identifier"] = f"{name}_{rest}"
    reader = find_reader(plans["image_reader_writer"], dataset)
    plans.update(dataset_name=dataset.name, plans_name=name, image_reader_writer=reader)
    training = model.config.training
    rate = training.added_learning_rate if rate is None else rate
    config = dataclasses.replace(
        model.config,
        prompts=dataclasses.replace(model.config.prompts, added=(*model.config.prompts.added, *new)),
        training=dataclasses.replace(training, mode="auto", new_types=tuple(new), added_learning_rate=rate),
        prediction=dataclasses.replace(model.config.prediction, tasks=None),
        resolved=None,
    )
    plans["mastpro"] = {key: value for key, value in config.to_dict().items() if key != "resolved"}
    return plans


def find_reader(before: str, dataset: Path) -> str:
    """nnU-Net's reader of the images; `before`, the model's, where one of them turns images and the other does not.

    Raises MASTProError where the model's cannot read them.
    """
    from nnunetv2.imageio import reader_writer_registry as registry

    content, images = read_json_object(dataset / "dataset.json"), training_images(dataset)
    example = str(next(iter(images.values()))["images"][0])
    found = registry.determine_reader_writer_from_dataset_json(content, example, True, False).__name__
    if found.endswith(TURNS) == before.endswith(TURNS):
        return found
    if content["file_ending"] not in registry.recursive_find_reader_writer_by_name(before).supported_file_endings:
        raise MASTProError(
            f"the model's images are read by {before}, which does not read {content['file_ending']}, the file_ending "
            f"of {dataset.name}; convert the images, to .nii.gz for one"
        )
    return before


def training_images(dataset: Path) -> dict[str, dict]:
    """Case -> its files. Raises MASTProError for a data set without images."""
    images = training_files(dataset, read_json_object(dataset / "dataset.json"))
    if not images:
        raise MASTProError(f"{dataset} has no training images; put them in imagesTr, as nnU-Net's dataset format says")
    return images

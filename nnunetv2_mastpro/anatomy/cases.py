"""Which images get a map, and which table of hosts holds for them: a data set's, or a trained model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.config import HostValue, MASTProConfig
from nnunetv2_mastpro.datasets import dataset_json_paths, image_files, read_json_object, read_trained, training_files
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.anatomy import ANATOMY_STAGE


@dataclass(frozen=True)
class Case:
    """An image, by channels, and where its map goes."""

    name: str
    images: tuple[Path, ...]
    target: Path


def read_dataset(dataset: str) -> tuple[dict, str, tuple[HostValue, ...]]:
    """dataset.json (the preprocessed copy, from which training reads, where there is one), name, table of hosts."""
    from nnunetv2_mastpro.planning.anatomy import host_table
    from nnunetv2_mastpro.prompts.resolve import resolve_prompts

    path = dataset_json_paths(dataset)[-1]
    content, name = read_json_object(path), path.parent.name
    return content, name, host_table(content, resolve_prompts(content, name))


def read_model(folder: Path) -> tuple[dict, str, tuple[HostValue, ...]]:
    """The same from the folder of a trained model. Raises MASTProError where it knows no host organs."""
    plans, content = read_trained(folder)
    configuration = folder.resolve().name.split("__")[-1]
    stage = plans.get("configurations", {}).get(configuration, {}).get("previous_stage")
    if stage not in (None, ANATOMY_STAGE):
        raise MASTProError(f"the model in {folder} takes predictions of {stage} as its previous stage, not organ masks")
    resolved = MASTProConfig.from_dict(plans.get("mastpro", {})).resolved
    if resolved is None or not resolved.hosts:
        raise MASTProError(f"the model in {folder} was trained without organ masks; it takes no maps")
    return content, plans["dataset_name"], resolved.hosts


def predicted_cases(images: Path, output: Path, ending: str) -> list[Case]:
    if not images.is_dir():
        raise MASTProError(f"-i {images} is no folder; give the one that nnUNetv2_predict gets")
    if output.resolve() == images.resolve():
        raise MASTProError(f"-o {output} is the folder of the images; give another")
    found = _cases_in(images, output, ending)
    if not found:
        raise MASTProError(f"-i {images} has no image such as case_0000{ending}; name them as nnU-Net asks")
    return found


def dataset_cases(raw: Path, dataset_json: dict, ending: str) -> list[Case]:
    """Of training and test images of the data set in `raw`; maps go to anatomyTr and anatomyTs."""
    cases = [
        Case(case, tuple(entry["images"]), raw / "anatomyTr" / f"{case}{ending}")
        for case, entry in sorted(training_files(raw, dataset_json).items())
    ]
    cases += _cases_in(raw / "imagesTs", raw / "anatomyTs", ending)
    if not cases:
        raise MASTProError(f"{raw} has no images; give a data set in nnU-Net's format")
    return cases


def _cases_in(images: Path, target: Path, ending: str) -> list[Case]:
    found = image_files(images, ending)
    return [Case(name, tuple(paths), target / f"{name}{ending}") for name, paths in found.items()]

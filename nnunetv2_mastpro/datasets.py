"""nnU-Net's data sets: their names, copies of dataset.json, labels and files; checkpoints of trained folds."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import read_object
from nnunetv2_mastpro.listing import nearest, some
from nnunetv2_mastpro.resources import nnunet_folder

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # nnU-Net's order for --c


def read_json_object(path: Path) -> dict:
    """A dataset.json, or plans, as a dict. Raises MASTProError where it cannot be read."""
    return read_object(path, str(path), "repair it", "holds no JSON object; restore it as nnU-Net writes such a file")


def read_trained(folder: Path) -> tuple[dict, dict]:
    """plans.json and dataset.json of a trained model. Raises MASTProError for another folder, and damaged files."""
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise MASTProError(
                f"{folder} is not the folder of a trained model (it has no {name}); give "
                "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
            )
    return read_json_object(folder / "plans.json"), read_json_object(folder / "dataset.json")


def is_trained(fold: Path) -> bool:
    """Whether nnU-Net could go on with the training of this fold."""
    return any((fold / name).is_file() for name in CHECKPOINTS)


def find_folds(model: Path, wanted: list[str] | None, holding: Sequence[str] = ("expert_usage.json",)) -> list[Path]:
    """Folders of the folds, by default those with one of the files `holding`. Raises MASTProError."""
    if not model.is_dir():
        raise MASTProError(f"{model} is no folder; give nnUNet_results/.../TRAINER__PLANS__CONFIGURATION")
    if wanted is None and (model.resolve().name.startswith("fold_") or (model / "expert_usage.json").is_file()):
        return [model.resolve()]  # `.` has no name
    if wanted is not None:
        missing = [fold for fold in wanted if not (model / f"fold_{fold}").is_dir()]
        if missing:
            raise MASTProError(f"{model} has no fold {missing[0]}; give -f of a fold that was trained")
        return [model / f"fold_{fold}" for fold in wanted]
    folds = sorted(fold for fold in model.glob("fold_*") if any((fold / name).is_file() for name in holding))
    if not folds:
        raise MASTProError(f"{model} has no fold with {' or '.join(holding)}; train with nnUNetTrainerMASTPro first")
    return folds


def with_name(dataset_json: dict, name: str) -> dict:
    """With the name by which nnU-Net knows the data set, which tells whose "cancer" it is; its own name stays."""
    named = "name" not in dataset_json and re.fullmatch(r"Dataset\d{3}_.+", name)
    return {**dataset_json, "name": name} if named else dataset_json


def values_of(label) -> tuple[int, ...]:
    """Values of an entry of dataset.json's labels, of which a region has several; plain numbers, not numpy's."""
    return tuple(map(int, label)) if isinstance(label, (list, tuple)) else (int(label),)


def label_values(dataset_json: Mapping) -> dict[str, tuple[int, ...]]:
    """Values by label, those of "ignore" and the background too."""
    return {name: values_of(label) for name, label in dataset_json["labels"].items()}


def dataset_name(dataset: str, folders: Sequence[Path]) -> str:
    """Name of the data set that an id or a name means to nnU-Net. Raises MASTProError, with what `folders` hold."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError) as error:
        names = sorted({path.name for folder in folders for path in folder.glob("Dataset*_*")})
        known = f", such as {some(names)}" if names else ""
        raise MASTProError(
            f"no single dataset {dataset} in {_either(folders)}; give the id or the name of one{known}"
        ) from error


def dataset_json_paths(dataset: str) -> list[Path]:
    """The copies of a dataset's dataset.json: the one in nnUNet_raw first, then the preprocessed one.

    Raises MASTProError where there is none.
    """
    from nnunetv2.paths import nnUNet_preprocessed

    preprocessed = nnUNet_preprocessed.get()
    folders = [nnunet_folder("nnUNet_raw"), *([Path(preprocessed)] if preprocessed else [])]
    name = dataset_name(dataset, folders)
    paths = [path for path in (folder / name / "dataset.json" for folder in folders) if path.is_file()]
    if not paths:
        there = [path.name for folder in folders for path in folder.glob("Dataset*_*")]
        raise MASTProError(
            f"{name} has no dataset.json in {_either(folders)}; {nearest(name, there)}check the dataset's name"
        )
    return paths


def _either(folders: Sequence[Path]) -> str:
    return " or ".join(map(str, folders))


def training_files(dataset: Path, content: dict) -> dict[str, dict]:
    """Case -> "images", its channels, and "label"; as the data set's dataset.json, `content`, says.

    nnU-Net's own function for it starts twelve processes where dataset.json lists no cases.
    """
    if "dataset" in content:
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        found = get_filenames_of_train_images_and_targets(str(dataset), copy.deepcopy(content))  # it writes into it
        return {
            str(case): {"images": [*map(Path, entry["images"])], "label": Path(entry["label"])}
            for case, entry in found.items()
        }
    ending = content["file_ending"]
    return {
        case: {"images": images, "label": dataset / "labelsTr" / f"{case}{ending}"}
        for case, images in image_files(dataset / "imagesTr", ending).items()
    }


def image_files(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Case -> its channels, by name; empty where there is no such folder."""
    from nnunetv2.utilities.utils import create_paths_fn

    if not folder.is_dir():
        return {}
    by_case: dict[str, list[str]] = {}
    for file in sorted(path.name for path in folder.iterdir() if path.name.endswith(ending)):
        by_case.setdefault(file[: -len("_0000") - len(ending)], []).append(file)  # as nnU-Net splits names
    found = {name: [*map(Path, create_paths_fn(str(folder), files, ending, name))] for name, files in by_case.items()}
    return {name: paths for name, paths in found.items() if paths}

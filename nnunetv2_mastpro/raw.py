"""Files of nnU-Net's raw data sets, as nnU-Net matches them: its function for it starts twelve processes."""

import copy
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_mastpro.listing import some


def known_datasets(folders: Sequence[Path]) -> str:
    """`, such as ` and what nnU-Net's folders hold, for a message; nothing where they are empty."""
    names = sorted({path.name for folder in folders for path in folder.glob("Dataset*_*")})
    return f", such as {some(names)}" if names else ""


def training_files(dataset: Path, content: dict) -> dict[str, dict]:
    """Case -> "images", its channels, and "label"; as the data set's dataset.json, `content`, says."""
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
    from nnunetv2.utilities.utils import create_paths_fn, get_identifiers_from_splitted_dataset_folder

    if not folder.is_dir():
        return {}
    files = sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))
    names = get_identifiers_from_splitted_dataset_folder(str(folder), ending).tolist()
    found = {name: [*map(Path, create_paths_fn(str(folder), files, ending, name))] for name in names}
    return {name: paths for name, paths in found.items() if paths}

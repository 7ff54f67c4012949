"""The maps that nnUNetv2_predict was given, checked before it begins: nnU-Net itself looks at none.

It hands on no values but those that the model expects, so organ masks in the place of maps would go unnoticed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.anatomy.preprocessed import INDEX, UNFINISHED, read_table, table_of
from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.datasets import image_files
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import check_whole, read_geometry
from nnunetv2_mastpro.listing import some

COMMAND = "nnUNetv2_predict"  # or its variant of a model's folder
OPTION = "-prev_stage_predictions"
READ_WHOLE = 3  # maps; of the others the headers
REMEDY = f"give {OPTION} what mastpro anatomy -m MODEL -i IMAGES -o MAPS wrote for these images"


def check_given_maps(argv: Sequence[str], hosts: Sequence[HostValue]) -> None:
    """Raise MASTProError unless every image has a map on its grid, made for the model's hosts, and the first maps hold
    no other values.

    argv: of this process; another command than nnU-Net's, and what nnU-Net itself refuses, is passed over.
    """
    if not argv or not Path(argv[0]).name.startswith(COMMAND):
        return
    images, folder = _folders(Path(argv[0]).name, argv[1:])
    if images is None or folder is None or not images.is_dir():
        return
    if not folder.is_dir():
        raise MASTProError(f"{OPTION} {folder} is no folder; {REMEDY}")
    check_hosts(folder, hosts)
    pairs = maps_of(images, folder, _ending(images))
    missing = [target.name for target in pairs if not target.is_file()]
    if missing:
        raise MASTProError(f"{folder} lacks the maps {some(missing)}; {REMEDY}")
    for target in pairs:
        check_whole(target, REMEDY, quickly=True)
    for target in moved(pairs):
        image = pairs[target]
        raise MASTProError(
            f"the map {target} has {read_geometry(target)}, its image {image.name} has {read_geometry(image)}; {REMEDY}"
        )
    check_values(pairs, hosts)


def check_hosts(folder: Path, hosts: Sequence[HostValue], remedy: str = REMEDY) -> None:
    """Raise MASTProError where the maps' folder says that they were made for other hosts, as of a model with fewer."""
    made, wanted = hosts_of(folder), table_of(hosts)
    if made is not None and any(made.get(value) != structures for value, structures in wanted.items()):
        raise MASTProError(f"{folder} has maps for {_names(made)}, wanted are {_names(wanted)}; {remedy}")


def hosts_of(folder: Path) -> dict[int, frozenset[str]] | None:
    """What the maps of a folder were made for; None where it does not say.

    Raises MASTProError for a torn file, and for maps that were not finished.
    """
    file = folder / INDEX
    if is_unfinished(folder):
        raise MASTProError(
            f"mastpro anatomy was interrupted in {folder}; run it again, so that all maps are of one run"
        )
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["hosts"]
        return read_table(rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MASTProError(f"{file} cannot be read ({error}); make the maps anew with mastpro anatomy") from error


def is_unfinished(folder: Path) -> bool:
    """Whether mastpro anatomy began to write maps there and did not end."""
    try:
        return UNFINISHED in json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def maps_of(images: Path, folder: Path, ending: str) -> dict[Path, Path]:
    """Map, there or not -> its image's first channel."""
    return {folder / f"{case}{ending}": paths[0] for case, paths in image_files(images, ending).items()}


def moved(pairs: Mapping[Path, Path]) -> Iterator[Path]:
    """Maps that do not lie on their image's grid; headers only."""
    return (target for target, image in pairs.items() if not read_geometry(target).agrees(read_geometry(image)))


def check_values(maps: Iterable[Path], hosts: Sequence[HostValue], remedy: str = REMEDY) -> None:
    """Raise MASTProError where one of the first maps holds values that no host has, as organ masks do."""
    import SimpleITK as sitk

    known = table_of(hosts)
    for target in islice(maps, READ_WHOLE):
        found = np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(target)))).tolist()
        strange = [f"{value:g}" for value in found if value and value not in known]
        if strange:
            raise MASTProError(f"{target} holds {some(strange)}, a map only 0 and {_names(known)}; {remedy}")


def _names(structures: Mapping[int, frozenset[str]]) -> str:
    return ", ".join(f"{value} ({' + '.join(sorted(names))})" for value, names in structures.items())


def _folders(command: str, argv: Sequence[str]) -> tuple[Path | None, Path | None]:
    """Images and maps, in all spellings that the command's parser takes; None where they are not given."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-i", type=Path)
    parser.add_argument(OPTION, dest="maps", type=Path)
    if command == COMMAND:  # with -p, no beginning of -prev_stage_predictions will do
        parser.add_argument("-p")
    given, _ = parser.parse_known_args(argv)
    return given.i, given.maps


def _ending(images: Path) -> str:
    """That of most first channels; files with an ending of their own are beside the point."""
    found = [re.fullmatch(r"[^.].*_0000(\.\D.*)", path.name) for path in sorted(images.iterdir())]
    endings = Counter(match[1] for match in found if match).most_common(1)
    return endings[0][0] if endings else ""

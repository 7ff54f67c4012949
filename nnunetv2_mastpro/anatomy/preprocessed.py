"""Host-organ maps in nnU-Net's preprocessed geometry, for training, and the check that all are there and sound.

They lie beside the preprocessed images, in <data_identifier>_anatomy, with anatomy.json: the table of values, and each
map's values and size as a file, so that thousands can be checked in seconds, and maps of another origin are noticed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import some

INDEX = "anatomy.json"


def host_rows(hosts: Sequence[HostValue]) -> list[dict]:
    """The table as JSON holds it."""
    return json.loads(json.dumps([dataclasses.asdict(host) for host in hosts]))


def preprocess_map(
    values: np.ndarray, properties: dict, shape: Sequence[int], plans_manager, configuration
) -> np.ndarray:
    """A map (Z, Y, X) of a case as nnU-Net's preprocessing would make it of a segmentation: int8, `shape`.

    `properties`: of the preprocessed case; `shape`: its image's, without channels.
    """
    from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice

    order = plans_manager.transpose_forward
    transposed = values.transpose(order)
    before = tuple(properties["shape_before_cropping"])
    if transposed.shape != before:
        raise MASTProError(
            f"a map has the shape {transposed.shape}, its image had {before} when it was preprocessed; preprocess the "
            "data set again"
        )
    spacing_mm = [properties["spacing"][axis] for axis in order]
    cropped = transposed[bounding_box_to_slice(properties["bbox_used_for_cropping"])]
    target_mm = list(configuration.spacing)
    if len(target_mm) < cropped.ndim:  # 2d: nnU-Net leaves the distance of slices as it is
        target_mm = [spacing_mm[0], *target_mm]
    resampled = configuration.resampling_fn_seg(cropped[None].astype(np.int16), tuple(shape), spacing_mm, target_mm)[0]
    return resampled.astype(np.int8 if resampled.max() < 128 else np.int16)


def write_training_maps(
    data_folder: Path,
    plans_manager,
    configuration,
    hosts: Sequence[HostValue],
    read_map: Callable[[str], np.ndarray],
    on_case: Callable[[], None] = lambda: None,
) -> Path:
    """<data_folder>_anatomy with a map for each preprocessed case; the index is written last.

    `read_map(case)` gives the map on the image's grid. Gives the folder.
    """
    from batchgenerators.utilities.file_and_folder_operations import load_pickle
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    dataset_class = infer_dataset_class(str(data_folder))
    folder = training_folder(data_folder)
    folder.mkdir(exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    index = {}
    for case in sorted(dataset_class.get_identifiers(str(data_folder))):
        properties = load_pickle(str(data_folder / f"{case}.pkl"))
        made = preprocess_map(read_map(case), properties, data_shape(data_folder, case), plans_manager, configuration)
        dataset_class.save_seg(np.ascontiguousarray(made), str(folder / case))
        values, size = sorted({*np.unique(made).tolist()} - {0}), map_file(folder, case).stat().st_size
        index[case] = {"values": values, "bytes": size}
        on_case()
    content = json.dumps({"hosts": host_rows(hosts), "cases": index}, indent=1)
    write_atomically({folder / INDEX: content.encode()})
    return folder


def training_folder(data_folder: Path) -> Path:
    """Beside the data, not in it: there each file becomes a case."""
    return data_folder.with_name(f"{data_folder.name}_anatomy")


def data_shape(data_folder: Path, case: str) -> tuple[int, ...]:
    """Of the preprocessed image, without channels; nothing is decompressed."""
    blosc_file = data_folder / f"{case}.b2nd"
    if blosc_file.is_file():
        import blosc2

        return tuple(int(n) for n in blosc2.open(urlpath=str(blosc_file), mode="r").shape[1:])
    npy_file = data_folder / f"{case}.npy"
    if npy_file.is_file():
        return np.load(npy_file, mmap_mode="r").shape[1:]
    return np.load(data_folder / f"{case}.npz")["data"].shape[1:]


def map_file(folder: Path, case: str) -> Path:
    """As nnU-Net saves it."""
    file = folder / f"{case}.b2nd"
    return file if file.is_file() else file.with_suffix(".npz")


def map_shape(file: Path) -> tuple[int, ...]:
    """Of a map as it was saved."""
    if file.suffix == ".b2nd":
        import blosc2

        return tuple(int(n) for n in blosc2.open(urlpath=str(file), mode="r").shape)
    return np.load(file)["seg"].shape


def check_training_maps(
    folder: Path, data_folder: Path, cases: Sequence[str], hosts: Sequence[HostValue], plans: str
) -> None:
    """Raise MASTProError unless each case has a map of its shape and of the plans' values."""
    remedy = f"run mastpro anatomy -d {data_folder.parent.name} -p {plans} --masks MASKS"
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        table, known = index["hosts"], index["cases"]
    except OSError as error:
        raise MASTProError(f"{folder} has no {INDEX}, so the host-organ maps were not made; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MASTProError(f"{folder / INDEX} cannot be read; {remedy}") from error
    if table != host_rows(hosts):
        raise MASTProError(f"the maps in {folder} were made for other host organs than the plans ask for; {remedy}")
    allowed = {host.value for host in hosts}
    files = {case: map_file(folder, case) for case in cases}
    missing = [case for case, file in files.items() if case not in known or not file.is_file()]
    if missing:
        raise MASTProError(f"{folder} has no map for {some(missing)}; {remedy}")
    for case, file in files.items():
        try:
            values, size = known[case]["values"], known[case]["bytes"]
        except (KeyError, TypeError) as error:
            raise MASTProError(f"{folder / INDEX} cannot be read; {remedy}") from error
        try:
            have, want = map_shape(file), data_shape(data_folder, case)
        except Exception as error:  # whatever the libraries raise for a torn file
            raise MASTProError(f"the map for {case} in {folder} cannot be read ({error}); {remedy}") from error
        if have != want:
            raise MASTProError(f"the map for {case} in {folder} has the shape {have}, its image {want}; {remedy}")
        if file.stat().st_size != size:
            raise MASTProError(f"{file} is not the file that mastpro anatomy wrote; {remedy}")
        if not allowed.issuperset(values):
            raise MASTProError(
                f"the map for {case} in {folder} has the values {values}, known are {sorted(allowed)}; {remedy}"
            )

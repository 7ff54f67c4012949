"""Host-organ maps in nnU-Net's preprocessed geometry, for training, and the check that all are there and sound.

They lie beside the preprocessed images, in <data_identifier>_anatomy, with anatomy.json: the table of values, and each
map's values and size as a file, so that thousands can be checked in seconds, and maps of another origin are noticed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.processes import each

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

INDEX = "anatomy.json"
PRELOAD = ("nnunetv2.training.dataloading.nnunet_dataset", "nnunetv2.utilities.plans_handling.plans_handler")
UNFINISHED = "unfinished"  # in the index while maps are written
WRITE_EVERY_S = 5  # the index, which is as long as there are cases


def host_rows(hosts: Sequence[HostValue]) -> list[dict]:
    """What a map depends on, as JSON holds it: which value stands for which structures, not what these host."""
    return [{"value": host.value, "structures": sorted(host.structures)} for host in hosts]


def table_of(hosts: Sequence[HostValue]) -> dict[int, frozenset[str]]:
    """Value -> structures, whose order makes no difference to a map."""
    return read_table(host_rows(hosts))


def read_table(rows: Sequence[Mapping]) -> dict[int, frozenset[str]]:
    """Of an index. Raises KeyError, TypeError, ValueError for what no version wrote."""
    return {int(row["value"]): frozenset(map(str, row["structures"])) for row in rows}


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


@dataclass(frozen=True)
class MapJob:
    """A map of a case, as a file, to be preprocessed."""

    case: str
    host_map: Path
    data_folder: Path
    plans_manager: PlansManager
    configuration: ConfigurationManager


def write_training_maps(
    data_folder: Path,
    plans_manager: PlansManager,
    configuration: ConfigurationManager,
    hosts: Sequence[HostValue],
    host_maps: Mapping[str, Path],
    processes: int = 1,
) -> Path:
    """<data_folder>_anatomy with a map for each preprocessed case, of `host_maps`: case -> map on the image's grid.

    One that was made of the same files (their sizes and times) stays; an interrupted run leaves an index that training
    refuses. Gives the folder.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    cases = sorted(infer_dataset_class(str(data_folder)).get_identifiers(str(data_folder)))
    folder, rows = training_folder(data_folder), host_rows(hosts)
    folder.mkdir(exist_ok=True)
    known = _known(folder, hosts)
    index = {case: known[case] for case in cases if _is_current(folder, case, host_maps[case], data_folder, known)}
    stale = [case for case in cases if case not in index]

    def remember() -> None:
        content = {"hosts": rows, UNFINISHED: True, "cases": index}
        write_atomically({folder / INDEX: json.dumps(content).encode()})

    jobs = [MapJob(case, host_maps[case], data_folder, plans_manager, configuration) for case in stale]
    found = each(make_training_map, jobs, processes, f"preprocessed maps, {data_folder.name}", PRELOAD) if jobs else ()
    with remembering(remember) as now_and_then:
        for case, entry in zip(stale, found, strict=True):
            index[case] = entry
            now_and_then()
    content = json.dumps({"hosts": rows, "cases": {case: index[case] for case in cases}}, indent=1)
    write_atomically({folder / INDEX: content.encode()})
    return folder


@contextmanager
def remembering(write: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Writes, and gives a function to call after each case, which writes every few seconds; in the end it does again,
    however that comes.
    """
    write()
    last = [time.monotonic()]

    def now_and_then() -> None:
        if time.monotonic() - last[0] > WRITE_EVERY_S:
            write()
            last[0] = time.monotonic()

    try:
        yield now_and_then
    finally:
        write()


def make_training_map(job: MapJob) -> dict:
    """Writes the map as nnU-Net would a segmentation; its entry of the index."""
    from batchgenerators.utilities.file_and_folder_operations import load_pickle
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    properties, shape = load_pickle(str(job.data_folder / f"{job.case}.pkl")), data_shape(job.data_folder, job.case)
    values = job.plans_manager.image_reader_writer_class().read_seg(str(job.host_map))[0][0]
    made = preprocess_map(values, properties, shape, job.plans_manager, job.configuration)
    folder = training_folder(job.data_folder)
    infer_dataset_class(str(job.data_folder)).save_seg(np.ascontiguousarray(made), str(folder / job.case))
    size = map_file(folder, job.case).stat().st_size
    values = sorted({*np.unique(made).tolist()} - {0})
    return {"values": values, "bytes": size, "of": _stamp(job.host_map, job.data_folder, job.case)}


def _stamp(host_map: Path, data_folder: Path, case: str) -> list[list[int]]:
    found = (path.stat() for path in (host_map, data_folder / f"{case}.pkl"))
    return [[about.st_size, about.st_mtime_ns] for about in found]


def _known(folder: Path, hosts: Sequence[HostValue]) -> dict[str, dict]:
    """Entries of an index of these hosts, also of a run that did not end."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return dict(index["cases"]) if read_table(index["hosts"]) == table_of(hosts) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_current(folder: Path, case: str, host_map: Path, data_folder: Path, known: Mapping[str, dict]) -> bool:
    file = map_file(folder, case)
    entry = known.get(case)
    return (
        isinstance(entry, dict)
        and file.is_file()
        and file.stat().st_size == entry.get("bytes")
        and entry.get("of") == _stamp(host_map, data_folder, case)
    )


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


def empty_training_maps(folder: Path) -> list[str]:
    """Cases whose map says nothing, by an index that check_training_maps has read."""
    cases = json.loads((folder / INDEX).read_text(encoding="utf-8"))["cases"]
    return [case for case, entry in cases.items() if not entry["values"]]


def check_training_maps(
    folder: Path, data_folder: Path, cases: Sequence[str], hosts: Sequence[HostValue], plans: str
) -> None:
    """Raise MASTProError unless each case has a map of its shape and of the plans' values."""
    remedy = f"run mastpro anatomy -d {data_folder.parent.name} -p {plans} --masks MASKS"
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        table, known = read_table(index["hosts"]), index["cases"]
    except OSError as error:
        raise MASTProError(f"{folder} has no {INDEX}, so the host-organ maps were not made; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MASTProError(f"{folder / INDEX} cannot be read; {remedy}") from error
    if UNFINISHED in index:
        raise MASTProError(f"mastpro anatomy was interrupted in {folder}, so maps are missing; {remedy}")
    if table != table_of(hosts):
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

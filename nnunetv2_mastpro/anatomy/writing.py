"""Host-organ maps as files, several cases at once. A map that was made of the same files in the same way stays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.anatomy import maps
from nnunetv2_mastpro.anatomy.cases import Case
from nnunetv2_mastpro.anatomy.preprocessed import INDEX, PRELOAD, UNFINISHED, host_rows, remembering
from nnunetv2_mastpro.anatomy.source import Source
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.geometry import read_geometry
from nnunetv2_mastpro.processes import each


@dataclass(frozen=True)
class MapJob:
    """A map to be made."""

    case: Case
    source: Source
    dilate_mm: float


@dataclass(frozen=True)
class MapRecord:
    """Of a map in its folder's index. `made_of`: a hash of what it was made of and how; `volumes_ml`: by value."""

    made_of: str
    file_bytes: int
    volumes_ml: dict[str, float]
    claimed: int  # voxels that two hosts claimed


def write_maps(cases: Sequence[Case], source: Source, dilate_mm: float, processes: int) -> tuple[list[MapRecord], int]:
    """One map per case, each whole or not at all: their records, and how many were made; the others are up to date.

    An interrupted run leaves the records of what it made, so that the next goes on there.
    """
    folders = {case.target.parent: known_records(case.target.parent) for case in cases}
    keys = {case.target: made_of(case, source, dilate_mm) for case in cases}
    stale = [case for case in cases if not _is_current(case.target, folders[case.target.parent], keys[case.target])]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for case in stale:
        folders[case.target.parent].pop(case.target.name, None)
    jobs = [MapJob(case, source, dilate_mm) for case in stale]
    found = each(make_map, jobs, processes, "host-organ maps", PRELOAD) if jobs else ()

    def remember() -> None:
        for folder, records in folders.items():
            _write_index(folder, {UNFINISHED: True}, records)

    with remembering(remember) as now_and_then:
        for case, (volumes_ml, claimed) in zip(stale, found, strict=True):
            size = case.target.stat().st_size
            folders[case.target.parent][case.target.name] = MapRecord(keys[case.target], size, volumes_ml, claimed)
            now_and_then()
    for folder, records in folders.items():
        _write_index(folder, {"hosts": host_rows(source.hosts)}, records)
    return [folders[case.target.parent][case.target.name] for case in cases], len(stale)


def made_of(case: Case, source: Source, dilate_mm: float) -> str:
    """SHA-256 of all that changes the map; of files their names, sizes and times."""
    told = [host_rows(source.hosts), dilate_mm, source.only_ct, *source.stamp(case)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def known_records(folder: Path) -> dict[str, MapRecord]:
    """By file name; none where the index is not there, or is not what this version writes."""
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))["maps"]
        return {str(name): MapRecord(**entry) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def make_map(job: MapJob) -> tuple[dict[str, float], int]:
    """Writes the map; its volumes in ml by value, and how many voxels two hosts claimed."""
    case, source = job.case, job.source
    geometry = read_geometry(case.images[0])
    values, claimed = maps.compose(source.read(case), source.hosts, geometry.size[::-1])
    values = maps.dilate(values, job.dilate_mm, geometry.spacing_mm[::-1])
    if not source.only_ct:  # there nnU-Net may take a label outside the image for a part of it
        values[~_nonzero(case)] = maps.UNKNOWN
    _write(values, case)
    voxel_ml = float(np.prod(geometry.spacing_mm)) / 1000
    counts = zip(*np.unique(values[values > 0], return_counts=True), strict=True)
    return {str(value): float(count) * voxel_ml for value, count in counts}, claimed


def _is_current(target: Path, records: Mapping[str, MapRecord], key: str) -> bool:
    record = records.get(target.name)
    return (
        record is not None and record.made_of == key and target.is_file() and target.stat().st_size == record.file_bytes
    )


def _write_index(folder: Path, said: Mapping, records: Mapping[str, MapRecord]) -> None:
    kept = {name: vars(record) for name, record in sorted(records.items())}
    write_atomically({folder / INDEX: json.dumps({**said, "maps": kept}).encode()})


def _write(values: np.ndarray, case: Case) -> None:
    import SimpleITK as sitk

    image, grid = sitk.GetImageFromArray(values), read_geometry(case.images[0])
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    temporary = case.target.with_name(f".{os.getpid()}.{case.target.name}")
    try:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        os.replace(temporary, case.target)
    finally:
        temporary.unlink(missing_ok=True)


def _nonzero(case: Case) -> np.ndarray:
    import SimpleITK as sitk
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    return create_nonzero_mask(np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in case.images]))

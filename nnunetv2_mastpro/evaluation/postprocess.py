"""Tumour components that do not touch the dilated host organ are false positives, and are taken out.

Segmentations and host-organ maps are (Z, Y, X) as nnU-Net's reader gives them, spacing_mm in the same order.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunetv2_mastpro.config import Resolved
from nnunetv2_mastpro.datasets import label_values
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import check_whole
from nnunetv2_mastpro.label_maps import TOLERANCE, differences, read

NEIGHBOURS = np.ones((3, 3, 3), bool)  # 26


@dataclass(frozen=True)
class TumorType:
    """A tumour class of the data set, its voxels in a segmentation, and its host organ's in a map."""

    label: str
    values: tuple[int, ...]
    host_values: tuple[int, ...]  # empty: where it lives is not known
    enclosing: tuple[tuple[tuple[int, ...], int], ...] = ()  # values and own label of regions around it, inmost first


@dataclass(frozen=True)
class Removed:
    """What one class lost in one case."""

    components: int
    voxels: int
    ml: float
    host_voxels: int  # 0: the organ is absent beside others, so all of the class went


@dataclass(frozen=True)
class Job:
    """One case, and all that a worker process needs for it."""

    case: str
    prediction: Path
    host_map: Path
    reference: Path | None
    output: Path  # a folder
    reader: object  # nnU-Net's
    tumors: tuple[TumorType, ...]
    map_values: tuple[int, ...]
    margin_mm: float


def tumor_types(resolved: Resolved, dataset_json: dict) -> tuple[TumorType, ...]:
    """The tumour classes of a trained model; of regions the outer ones first, since they take the inner ones along.

    Raises MASTProError where the model has classes that the data set lacks.
    """
    values = {label: found for label, found in label_values(dataset_json).items() if label != "ignore"}
    strange = [entry.label for entry in resolved.classes if entry.label not in values]
    if strange:
        raise MASTProError(
            f"the model has the classes {', '.join(strange)}, dataset.json has not; give a folder with the "
            "dataset.json and plans.json that nnUNetv2_predict wrote to it"
        )
    own = dict(
        zip((entry.label for entry in resolved.classes), dataset_json.get("regions_class_order") or (), strict=False)
    )
    tumors = []
    for index, entry in enumerate(resolved.classes):
        if not entry.is_tumor:
            continue
        around = [label for label in own if set(values[label]) > set(values[entry.label])]
        enclosing = tuple((values[label], own[label]) for label in sorted(around, key=lambda label: len(values[label])))
        hosts = tuple(host.value for host in resolved.hosts if index in host.classes)
        tumors.append(TumorType(entry.label, values[entry.label], hosts, enclosing))
    return tuple(sorted(tumors, key=lambda tumor: -len(tumor.values)))


def remove_outside_hosts(
    segmentation: np.ndarray,
    host_map: np.ndarray,
    tumors: Sequence[TumorType],
    spacing_mm: Sequence[float],
    margin_mm: float,
) -> tuple[np.ndarray, dict[str, Removed]]:
    """The segmentation (Z, Y, X) without 26-connected components farther than margin_mm from their host organ.

    Distances are between voxel centres. Classes without host values stay, and so does all of a case whose map is
    empty: unknown is not absent. A host that is absent beside others takes all of its class along. A removed component
    becomes the inmost enclosing region that goes on around it, else background.
    """
    cleaned = segmentation.copy()
    removed: dict[str, Removed] = {}
    if not host_map.any():
        return cleaned, removed
    reach = [int(margin_mm / step) + 1 for step in spacing_mm]
    for tumor in tumors:
        if not tumor.host_values:
            continue
        host = np.isin(host_map, tumor.host_values)
        parts, _ = ndimage.label(np.isin(cleaned, tumor.values), NEIGHBOURS)
        components = voxels = 0
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            wide = tuple(slice(max(0, side.start - far), side.stop + far) for side, far in zip(box, reach, strict=True))
            component = parts[wide] == number
            if _touches(component, host[wide], spacing_mm, margin_mm):
                continue
            cleaned[wide][component] = _label_beneath(cleaned[wide], component, tumor)
            components += 1
            voxels += int(component.sum())
        ml = voxels * float(np.prod(spacing_mm)) / 1000
        removed[tumor.label] = Removed(components, voxels, ml, host_voxels=int(host.sum()))
    return cleaned, removed


def _touches(component: np.ndarray, host: np.ndarray, spacing_mm: Sequence[float], margin_mm: float) -> bool:
    """Whether a voxel of the component lies within margin_mm of the host; both masks are (z, y, x) of one box."""
    if not host.any():
        return False
    if (component & host).any():
        return True
    distance_mm = ndimage.distance_transform_edt(~host, sampling=spacing_mm)
    return bool(distance_mm[component].min() <= margin_mm + TOLERANCE)


def _label_beneath(segmentation: np.ndarray, component: np.ndarray, tumor: TumorType) -> int:
    rim = ndimage.binary_dilation(component, NEIGHBOURS) & ~component
    for values, label in tumor.enclosing:
        if label not in tumor.values and np.isin(segmentation[rim], values).any():
            return label
    return 0


def check_case(job: Job) -> None:
    """Raises MASTProError where map or reference do not lie on the prediction, or the map has unknown values."""
    for path in filter(None, (job.prediction, job.host_map, job.reference)):
        check_whole(path)
    prediction, properties = read(job.reader, job.prediction)
    grid = {"shape": prediction.shape, **properties}

    def read_on_grid(path: Path, remedy: str) -> np.ndarray:
        values, theirs = read(job.reader, path)
        found = differences(grid, {"shape": values.shape, **theirs})
        if found:
            raise MASTProError(f"{path} does not lie on {job.prediction}: {'; '.join(found)}; {remedy}")
        return values

    host_map = read_on_grid(job.host_map, "make the map of the predicted image with mastpro anatomy")
    unknown = sorted(set(np.unique(host_map[host_map != 0]).tolist()) - set(job.map_values))
    if unknown:
        raise MASTProError(
            f"{job.host_map} has the values {', '.join(f'{value:g}' for value in unknown[:5])}, the model knows 0, "
            f"{', '.join(map(str, job.map_values))}; make the map with mastpro anatomy and the plans of this model"
        )
    if job.reference is not None:
        read_on_grid(job.reference, "give the labels of the predicted images with -ref")


def clean_case(job: Job) -> tuple[dict[str, Removed] | None, float]:
    """Writes the cleaned segmentation of a case; what was removed by class, None for an empty map, and a voxel's ml."""
    segmentation, properties = read(job.reader, job.prediction)
    host_map, _ = read(job.reader, job.host_map)
    spacing_mm = [float(step) for step in properties["spacing"]]
    cleaned, removed = remove_outside_hosts(segmentation, host_map, job.tumors, spacing_mm, job.margin_mm)
    with tempfile.TemporaryDirectory(prefix=".postprocess-", dir=job.output) as scratch:
        job.reader.write_seg(cleaned, str(Path(scratch) / job.prediction.name), properties)
        for file in Path(scratch).iterdir():  # the TIFF writer adds a JSON file
            os.replace(file, job.output / file.name)
    return removed if host_map.any() else None, float(np.prod(spacing_mm)) / 1000

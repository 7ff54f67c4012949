"""What is read from and written to files: hashes that find duplicates, counts, and labels in the merged values.

Arrays are as nnU-Net's reader gives them: images (C, Z, Y, X), labels (1, Z, Y, X).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import check_whole
from nnunetv2_mastpro.label_maps import differences
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.sources import RawCase
from nnunetv2_mastpro.merging.unite import unite


@dataclass(frozen=True)
class Probe:
    """A case to look at. `declared`: values that its label file may hold."""

    case: RawCase
    declared: tuple[int, ...]
    num_channels: int


@dataclass(frozen=True)
class Scan:
    """What was seen. `digest`: of voxels, shape and spacing of the image; `turned`: of the same, with the patient's
    axes; `counts`: voxels by value of the source; `aligned`: False where label and image differ in origin or
    direction, which nnU-Net overlooks.
    """

    digest: str
    turned: str
    counts: dict[int, int]
    aligned: bool


@dataclass(frozen=True)
class Rewrite:
    """A merged case: its label is made of those of all cases that have its image. `annotated`: classes of each."""

    cases: tuple[RawCase, ...]
    annotated: tuple[tuple[str, ...], ...]
    classes: Classes
    target: Path | None = None  # nothing: only find out whether it can be made


class _Loaded:
    """A case in memory in the place of nnU-Net's reader, so that its checks do not read the files again."""

    def __init__(self, images: tuple[np.ndarray, dict], label: tuple[np.ndarray, dict]):
        self._images, self._label = images, label

    def read_images(self, _files: Sequence[str]) -> tuple[np.ndarray, dict]:
        return self._images

    def read_seg(self, _file: str) -> tuple[np.ndarray, dict]:
        return self._label


def scan(probe: Probe) -> Scan:
    """Reads a case. Raises MASTProError where nnU-Net's own integrity check finds fault with it."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels

    case, reader = probe.case, probe.case.reader()
    for path in (*case.images, case.label):
        check_whole(Path(path))
    images, label = reader.read_images(case.images), reader.read_seg(case.label)
    loaded, said = _Loaded(images, label), io.StringIO()
    with contextlib.redirect_stdout(said):
        fine = verify_labels(case.label, lambda: loaded, list(probe.declared))
        if not fine:
            found = sorted({*np.unique(label[0]).tolist()} - {*probe.declared})
            raise MASTProError(
                f"{case.label} of {case.source} holds the labels {', '.join(f'{value:g}' for value in found)}, which "
                f"its dataset.json does not declare; declare or correct them"
            )
        fine = check_cases(list(case.images), case.label, probe.num_channels, lambda: loaded)
    if not fine:
        raise MASTProError(f"case {case.name} of {case.source}: {said.getvalue().strip()}; repair the files")
    values, counts = np.unique(label[0], return_counts=True)
    counted = dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    image, spacing = images[0], images[1]["spacing"]
    digest = _digest(image, spacing)
    turned = _turned(image, images[1])
    return Scan(digest, digest if turned is None else _digest(*turned), counted, not differences(images[1], label[1]))


def _digest(image: np.ndarray, spacing: Sequence[float]) -> str:
    digest = hashlib.sha256(f"{image.shape} {[round(float(step), 4) for step in spacing]} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _turned(image: np.ndarray, properties: dict) -> tuple[np.ndarray, list[float]] | None:
    """The image with its axes along the patient's, and its spacing; None where that is how it is, or not known."""
    from nibabel.orientations import apply_orientation, io_orientation

    if "sitk_stuff" in properties and len(properties["sitk_stuff"]["direction"]) == 9:
        axes = np.diag((-1, -1, 1)) @ np.reshape(properties["sitk_stuff"]["direction"], (3, 3))  # of x, y, z
    elif "nibabel_stuff" in properties:
        told = properties["nibabel_stuff"]
        axes = np.asarray(told.get("reoriented_affine", told["original_affine"]))[:3, :3]
    else:
        return None
    if not np.isfinite(axes).all():
        return None
    orientation = io_orientation(np.block([[axes, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))
    if np.isnan(orientation).any() or (orientation == [[0, 1], [1, 1], [2, 1]]).all():
        return None
    spacing = np.empty(3)
    spacing[orientation[:, 0].astype(int)] = properties["spacing"][::-1]
    return apply_orientation(image.T, orientation).T, spacing[::-1].tolist()


def rewrite(job: Rewrite) -> int:
    """Makes the label and writes it where there is a target, geometry kept. Returns how many voxels had two classes.

    Raises MASTProError as `unite` does.
    """
    reader, classes = job.cases[0].reader(), job.classes
    labels, properties = [], []
    for case in job.cases:
        label, about = reader.read_seg(case.label)
        labels.append(translate(label[0], classes.tables[case.source]))
        properties.append(about)
    names = [f"{case.name} of {case.source}" for case in job.cases]
    united, disputed = unite(labels, job.annotated, classes, names)
    if job.target is not None:
        reader.write_seg(united, str(job.target), properties[0])
    return disputed


def translate(label: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """(Z, Y, X) with a source's values to merged values, uint8 or uint16."""
    dtype = np.uint8 if max(table.values()) < 256 else np.uint16
    lookup = np.zeros(max(table) + 1, dtype)
    lookup[list(table)] = list(table.values())
    return lookup[label.astype(np.int64)]

"""One case of an evaluation, and all that a worker process needs for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunetv2_mastpro.datasets import label_values
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.lesions import COUNTS, count_lesions
from nnunetv2_mastpro.evaluation.metrics import NAMES, score
from nnunetv2_mastpro.geometry import check_whole
from nnunetv2_mastpro.label_maps import differences, read
from nnunetv2_mastpro.tasks import nesting

MEASURED = (
    *NAMES,
    *("has_reference", "has_prediction", "has_ignored", "reference_ml", "prediction_ml"),
    *(*COUNTS, "false_lesions_ml", "bands"),
)


@dataclass(frozen=True)
class ScoredClass:
    """A class of the data set; of a region all values that it consists of.

    `inside`: tumour classes that live in it and have values of their own. Where a case does not annotate them, they
    are part of it in the reference, so that they count as it in the prediction.
    """

    label: str
    values: tuple[int, ...]
    tumour: bool
    inside: tuple[int, ...] = ()  # places among the classes


def scored_classes(prompts: Sequence, dataset_json: Mapping) -> tuple[ScoredClass, ...]:
    """`prompts`: the classes but background, with label, is_tumor and host_structures."""
    values, nested = label_values(dataset_json), nesting(prompts)
    return tuple(
        ScoredClass(
            prompt.label,
            values[prompt.label],
            prompt.is_tumor,
            tuple(inner for inner, row in enumerate(nested) if row[outer]),
        )
        for outer, prompt in enumerate(prompts)
    )


@dataclass(frozen=True)
class Scoring:
    """What all cases of an evaluation share."""

    classes: tuple[ScoredClass, ...]
    ignore_value: int | None
    reader: object  # nnU-Net's
    tolerance_mm: float
    lesion_overlap: float


@dataclass(frozen=True)
class Job:
    """One case."""

    case: str
    unit: str  # what the bootstrap draws: the patient
    source: str | None
    reference: Path
    prediction: Path
    annotated: tuple[bool, ...]
    scoring: Scoring
    presumed: bool = False  # wholly annotated for want of an entry in mastpro.cases, which other cases have


def check_case(job: Job) -> None:
    """Raises MASTProError where the files cannot be read, lie on different grids, or have unknown values."""
    reader = job.scoring.reader
    for path in (job.reference, job.prediction):
        check_whole(path)
    reference, properties = read(reader, job.reference)
    prediction, theirs = read(reader, job.prediction)
    found = differences({"shape": reference.shape, **properties}, {"shape": prediction.shape, **theirs})
    if found:
        raise MASTProError(
            f"{job.prediction} does not lie on its reference {job.reference}: {'; '.join(found)}; bring predictions to "
            "the grid of the images (docs/peers.md shows how), or correct the header of the label where that is off, "
            "which nnU-Net's training overlooks"
        )
    known = {0, *(value for entry in job.scoring.classes for value in entry.values)}
    ignored = {job.scoring.ignore_value} - {None}
    for path, values, allowed in ((job.reference, reference, known | ignored), (job.prediction, prediction, known)):
        unknown = sorted(set(np.unique(values).tolist()) - allowed)
        if unknown:
            raise MASTProError(
                f"{path} has the values {', '.join(map(str, unknown[:5]))}, the labels of dataset.json are "
                f"{', '.join(map(str, sorted(allowed)))}; map the file's values to them, or give the right -d"
            )


def score_case(job: Job) -> list[dict]:
    """A row per class; None for what is not annotated or undefined."""
    reference, properties = read(job.scoring.reader, job.reference)
    prediction, _ = read(job.scoring.reader, job.prediction)
    spacing_mm = [float(step) for step in properties["spacing"]]
    ignored = None if job.scoring.ignore_value is None else reference == job.scoring.ignore_value
    has_ignored, rows = ignored is not None and bool(ignored.any()), []
    kept = ~ignored if has_ignored else True
    organs = organs_of_unknown(reference, prediction, job.scoring.classes, job.annotated)
    told = {v for entry, known in zip(job.scoring.classes, job.annotated, strict=True) if known for v in entry.values}
    for entry, annotated in zip(job.scoring.classes, job.annotated, strict=True):
        row = {"case": job.case, "unit": job.unit, "source": job.source, "class": entry.label, "annotated": annotated}
        if annotated:
            predicted = np.isin(prediction, entry.values) | organs.get(entry.label, False)
            masks = [np.isin(reference, entry.values) & kept, predicted & kept]
            row |= _measure(masks, ignored if has_ignored else None, spacing_mm, entry.tumour, job.scoring)
            row["has_ignored"] = has_ignored
        row["unexpected"] = not annotated and bool(np.isin(reference, [v for v in entry.values if v not in told]).any())
        rows.append({**dict.fromkeys(MEASURED), **row})
    return rows


def organs_of_unknown(
    reference: np.ndarray, prediction: np.ndarray, classes: Sequence[ScoredClass], annotated: Sequence[bool]
) -> dict[str, np.ndarray]:
    """Class -> where a predicted tumour that the case does not annotate counts as it, an organ that the tumour is in.

    Of several such organs, as of two kidneys, it is the one that the reference has there. What lies outside of all of
    them is, component by component, the one that is predicted most next to it, annotated or not, if any is.
    """
    found: dict[str, np.ndarray] = {}
    for place, tumour in enumerate(classes):
        organs = [n for n, entry in enumerate(classes) if place in entry.inside]
        if annotated[place] or not any(annotated[n] for n in organs):
            continue
        marked = np.isin(prediction, tumour.values)
        values = {n: classes[n].values for n in organs}
        shares = {n: marked & np.isin(reference, values[n]) for n in organs}
        _share_out(marked & ~np.logical_or.reduce([*shares.values()]), prediction, values, shares)
        for n in organs:
            label = classes[n].label
            found[label] = found.get(label, False) | shares[n]
    return found


def _share_out(outside: np.ndarray, prediction: np.ndarray, values: Mapping, shares: Mapping[int, np.ndarray]) -> None:
    """Add each component of `outside` to the share of the organ that most of the voxels next to it are predicted as."""
    if not outside.any():
        return
    around = np.ones((3,) * outside.ndim, bool)
    parts, _ = ndimage.label(outside, around)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        wider = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        near = ndimage.binary_dilation(parts[wider] == number, around)
        beside = {n: np.isin(prediction[wider], values[n]) | share[wider] for n, share in shares.items()}
        counts = {n: int((near & mask).sum()) for n, mask in beside.items()}
        most = max(counts, key=counts.get)
        if counts[most]:
            shares[most][box] |= parts[box] == number


def _measure(
    masks: Sequence[np.ndarray],
    ignored: np.ndarray | None,
    spacing_mm: Sequence[float],
    tumour: bool,
    scoring: Scoring,
) -> dict:
    """Of the masks of reference and prediction (Z, Y, X). One slice, along whichever axis, has no volume."""
    flat = 1 in masks[0].shape
    if flat:
        axis = masks[0].shape.index(1)
        masks = [np.moveaxis(mask, axis, 0) for mask in masks]
        ignored = ignored if ignored is None else np.moveaxis(ignored, axis, 0)
        spacing_mm = [spacing_mm[axis], *spacing_mm[:axis], *spacing_mm[axis + 1 :]]
    voxel_ml = None if flat else math.prod(spacing_mm) / 1000
    scores = score(*masks, spacing_mm, scoring.tolerance_mm, ignored)
    found = {name: None if math.isnan(value) else value for name, value in scores.items()}
    for name, mask in zip(("reference", "prediction"), masks, strict=True):
        voxels = int(mask.sum())
        found |= {f"has_{name}": voxels > 0, f"{name}_ml": None if flat else voxels * voxel_ml}
    if tumour:
        bands, false_voxels = count_lesions(*masks, spacing_mm, scoring.lesion_overlap, ignored)
        found |= {name: sum(counts[name] for counts in bands.values()) for name in COUNTS}
        found |= {"false_lesions_ml": None if flat else false_voxels * voxel_ml, "bands": bands}
    return found

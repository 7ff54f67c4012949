"""Rows of cases and classes to means with intervals: by class, macro, by source, and lesions by size.

A number is {"mean", "low", "high", "cases", "units"}: the estimate, its 95 % interval, the cases in which it is defined
and how many units (cases, or patients) these are, of a mean of parts in the part that has fewest; None where undefined.
A mean of parts one of which has fewer than FEWEST units has no interval. Dice, NSD and HD95_mm are means over cases.
sensitivity, precision and F1 count lesions over all cases. false_lesions and false_lesions_ml are per case, over all
cases that annotate the class; in "without" over those that are known not to have it: their reference has neither the
class nor voxels to be ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nnunetv2_mastpro.evaluation import lesions, metrics
from nnunetv2_mastpro.evaluation.statistics import average, by_unit, interval, mean
from nnunetv2_mastpro.tasks import NO_SOURCE

FEWEST = 3  # units of a part, for an interval of a mean of parts
PER_CASE = ("false_lesions", "false_lesions_ml")
RATES = ("sensitivity", "precision", "F1")


def summarise(rows: Sequence[Mapping], tumours: Sequence[str]) -> dict:
    """{"classes": {label: ...}, "macro": {...}, "sources": {source: {label: ...}}}; see this module's docstring."""
    labels = list(dict.fromkeys(row["class"] for row in rows))
    sources = sorted({row["source"] or NO_SOURCE for row in rows})
    of_class = {label: [row for row in rows if row["class"] == label] for label in labels}
    by_source = {
        source: {
            label: [row for row in of_class[label] if (row["source"] or NO_SOURCE) == source and row["annotated"]]
            for label in labels
        }
        for source in sources
    }
    return {
        "classes": {label: _of_class(found, label in tumours) for label, found in of_class.items()},
        "macro": _macros(of_class, by_source, tumours),
        "sources": {
            source: {label: _numbers(found, label in tumours) for label, found in classes.items() if found}
            for source, classes in by_source.items()
        },
    }


def _of_class(rows: Sequence[Mapping], tumour: bool) -> dict:
    known = [row for row in rows if row["annotated"]]
    without = [row for row in known if not row["has_reference"]]
    told = {
        "tumour": tumour,
        "annotated": len(known),
        "left_out": len(rows) - len(known),
        "with": len(known) - len(without),
        "empty_in_both": sum(not row["has_prediction"] for row in without),
        "missed": sum(row["has_reference"] and not row["has_prediction"] for row in known),
        "made_up": sum(row["has_prediction"] for row in without),
        **_numbers(known, tumour),
    }
    if tumour:
        sure = [row for row in without if not row["has_ignored"]]
        told["cases_with_false_lesions"] = _with_false(known)
        told["bands"] = {band: _band(known, band) for band in lesions.BANDS}
        told["without"] = {
            "cases": len(sure),
            "cases_with_false_lesions": _with_false(sure),
            **{name: number([sure], name) for name in PER_CASE},
        }
    return told


def _with_false(rows: Sequence[Mapping]) -> int:
    return sum(row["lesions_false"] > 0 for row in rows)


def _numbers(rows: Sequence[Mapping], tumour: bool) -> dict:
    names = (*metrics.NAMES, *(RATES + PER_CASE if tumour else ()))
    return {name: number([rows], name) for name in names}


def _band(rows: Sequence[Mapping], band: str) -> dict:
    inside = [{**row, **row["bands"][band]} for row in rows]
    counts = {name: sum(row[name] for row in inside) for name in lesions.COUNTS}
    return {**counts, **{name: number([inside], name) for name in RATES}}


def _macros(of_class: Mapping, by_source: Mapping, tumours: Sequence[str]) -> dict:
    """Means over classes, over tumour types, and over sources of their means over classes."""
    some = [rows for label, rows in of_class.items() if label in tumours]
    return {
        "classes": {name: number(list(of_class.values()), name) for name in metrics.NAMES},
        "tumours": {name: number(some, name) for name in (*metrics.NAMES, *RATES, *PER_CASE)},
        "sources": {
            name: number([rows for classes in by_source.values() for rows in classes.values()], name, len(by_source))
            for name in metrics.NAMES
        },
    }


def number(groups: Sequence[Sequence[Mapping]], name: str, outer: int = 1) -> dict:
    """Mean over groups of rows, each of one class, of a number; of `outer` equal parts of them the mean of means.

    Units (row["unit"]) are drawn over all groups jointly; without a value they have no part in it.
    """
    columns_of, function = _columns(name)
    known = [[row for row in rows if row["annotated"] and columns_of(row) is not None] for rows in groups]
    cases = {row["case"] for rows in known for row in rows}
    if not cases:
        return {"mean": None, "low": None, "high": None, "cases": 0, "units": 0}
    flat = [(row["unit"], place, columns_of(row)) for place, rows in enumerate(known) for row in rows]
    units, places, values = zip(*flat, strict=True)
    columns = by_unit(units, values, places, len(groups))
    columns = columns.reshape(len(columns), outer, len(groups) // outer, -1)
    lacking = np.isnan(function(columns.sum(0)))

    def mean_of_parts(sums: np.ndarray) -> np.ndarray:
        """Undefined where a part is that is not undefined in all: a mean without it would be another number."""
        parts = function(sums)
        incomplete = (np.isnan(parts) & ~lacking).any((-1, -2))
        return np.where(incomplete, np.nan, average(average(parts)))

    mean, *ends = (None if math.isnan(value) else value for value in interval(columns, mean_of_parts))
    fewest = min(len({unit for unit, at in zip(units, places, strict=True) if at == place}) for place in {*places})
    if len({*places}) > 1 and fewest < FEWEST:  # it would be taken for certain
        ends = (None, None)
    return {"mean": mean, "low": ends[0], "high": ends[1], "cases": len(cases), "units": fewest}


def _columns(name: str) -> tuple[Callable[[Mapping], tuple | None], Callable[[np.ndarray], np.ndarray]]:
    """What a row adds to a number (None: nothing), and the number of the sums."""
    if name == "sensitivity":
        return lambda row: _if_any(row, "lesions_found", "lesions"), mean
    if name == "precision":
        return lambda row: _if_any(row, "lesions_right", "lesions_predicted"), mean
    if name == "F1":
        return lambda row: _if_any(row, "lesions_found", "lesions", "lesions_right", "lesions_predicted"), _f1
    key = key_of(name)
    return lambda row: None if row[key] is None else (row[key], 1), mean


def key_of(name: str) -> str:
    """What a number per case is called in a row."""
    return {"false_lesions": "lesions_false"}.get(name, name)


def _if_any(row: Mapping, *names: str) -> tuple | None:
    if row["lesions"] is None:
        return None
    values = {**row, "lesions_right": row["lesions_predicted"] - row["lesions_false"]}
    found = tuple(values[name] for name in names)
    return found if any(found) else None


def _f1(sums: np.ndarray) -> np.ndarray:
    """Harmonic mean of sensitivity and precision; 0 where none is found and none right, nan where none is there."""
    sensitivity, precision = mean(sums[..., :2]), mean(sums[..., 2:])
    with np.errstate(invalid="ignore", divide="ignore"):
        harmonic = 2 * sensitivity * precision / (sensitivity + precision)
    nothing = (sums[..., 0] + sums[..., 2] == 0) & (sums[..., 1] + sums[..., 3] > 0)
    return np.where(nothing, 0.0, harmonic)

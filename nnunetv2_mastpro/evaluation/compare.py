"""Several folders of predictions against one folder of references, each compared with the first, case by case.

`compare` gives a JSON-ready dict:

    reference, predictions   {name: folder}, the first is what the others are compared with
    tolerance_mm, lesion_overlap, confidence, units, number_of_units, number_of_cases, presumed_complete, unexpected,
    classes, tumours         as in evaluate.py
    summaries                {name: summary of evaluate.py}
    differences              per metric, other and class: class (None: mean of classes), metric, name, first, mean_first
                             and mean in the cases that both have, difference (name minus first) with low and high,
                             cases, units, unpaired (only one of both is defined: left out), p and p_holm

The interval is a bootstrap over cases (or patients) of paired differences; p is Wilcoxon's signed-rank test on them,
two-sided, adjusted by Holm over classes and others within a metric. Means of classes have no p.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.evaluate import assemble, check, make_jobs, make_scoring, score
from nnunetv2_mastpro.evaluation.metrics import NAMES
from nnunetv2_mastpro.evaluation.statistics import by_unit, holm, mean, wilcoxon
from nnunetv2_mastpro.evaluation.summary import PER_CASE, key_of, number
from nnunetv2_mastpro.listing import some

SHARED = (
    *("tolerance_mm", "lesion_overlap", "confidence", "units", "number_of_units", "number_of_cases"),
    *("presumed_complete", "unexpected", "classes", "tumours"),
)


def compare(
    reference: Path,
    predictions: Mapping[str, Path],
    dataset_json: Mapping,
    *,
    tolerance_mm: float = 2.0,
    workers: int = 2,
    lesion_overlap: float = 0.0,
    patients: str | None = None,
    chill: bool = False,
) -> dict:
    """See the module's docstring; options as `evaluate`. Checks all files before one is scored. Raises MASTProError."""
    scoring = make_scoring(dataset_json, reference, tolerance_mm, lesion_overlap)
    jobs = {
        name: make_jobs(reference, folder, scoring, dataset_json, patients=patients, chill=chill)
        for name, folder in predictions.items()
    }
    _check_same_cases(jobs)
    all_jobs = [job for found in jobs.values() for job in found]
    check(all_jobs, workers)
    scored = iter(score(all_jobs, workers))
    results = {name: assemble(found, list(itertools.islice(scored, len(found)))) for name, found in jobs.items()}
    first, *others = results
    return {
        "reference": str(reference),
        "predictions": {name: str(folder) for name, folder in predictions.items()},
        **{key: results[first][key] for key in SHARED},
        "summaries": {name: result["summary"] for name, result in results.items()},
        "differences": _differences(results, first, others),
    }


def _check_same_cases(jobs: Mapping[str, Sequence]) -> None:
    cases = {name: {job.case for job in found} for name, found in jobs.items()}
    for name, found in cases.items():
        lacking = sorted(set().union(*cases.values()) - found)
        if lacking:
            raise MASTProError(
                f"{name} lacks {len(lacking)} cases that another has, {some(lacking)}; compare folders with the same "
                "cases"
            )


def _differences(results: Mapping[str, Mapping], first: str, others: Sequence[str]) -> list[dict]:
    found = []
    for metric in (*NAMES, *PER_CASE):
        labels = results[first]["classes" if metric in NAMES else "tumours"]
        rows = []
        for other in others:
            paired = {label: _paired(results[first]["rows"], results[other]["rows"], label, metric) for label in labels}
            wanted = [*((label, [pairs]) for label, pairs in paired.items()), (None, list(paired.values()))]
            rows += [_row(label, groups, metric, first, other) for label, groups in wanted if len(labels) > 1 or label]
        adjusted = holm([math.nan if row["p"] is None else row["p"] for row in rows])
        found += [{**row, "p_holm": None if math.isnan(p) else p} for row, p in zip(rows, adjusted, strict=True)]
    return found


def _paired(ours: Sequence[Mapping], theirs: Sequence[Mapping], label: str, metric: str) -> list[dict]:
    """Rows of one class with the metric of the first, of the other, and their difference; None where one has none."""
    key = key_of(metric)
    rows = []
    for mine, other in zip(ours, theirs, strict=True):
        if mine["class"] == label and mine["annotated"]:
            both = (mine[key], other[key])
            known = None not in both
            values = {"mine": both[0], "other": both[1], "difference": both[1] - both[0]} if known else {}
            unpaired = not known and both != (None, None)
            row = {"case": mine["case"], "unit": mine["unit"], "annotated": True, "unpaired": unpaired}
            rows.append({**row, **dict.fromkeys(("mine", "other", "difference")), **values})
    return rows


def _row(label: str | None, groups: Sequence[Sequence[Mapping]], metric: str, first: str, other: str) -> dict:
    numbers = {name: number(groups, name) for name in ("mine", "other", "difference")}
    row = {
        "class": label,
        "metric": metric,
        "name": other,
        "first": first,
        "mean_first": numbers["mine"]["mean"],
        "mean": numbers["other"]["mean"],
        "difference": numbers["difference"]["mean"],
        **{key: numbers["difference"][key] for key in ("low", "high", "cases", "units")},
        "unpaired": sum(row["unpaired"] for rows in groups for row in rows),
        "p": None,
    }
    pairs = [row for row in groups[0] if row["difference"] is not None]
    if label is not None and pairs:
        row["p"] = wilcoxon(
            mean(by_unit([pair["unit"] for pair in pairs], [(pair["difference"], 1) for pair in pairs]))
        )
    return row

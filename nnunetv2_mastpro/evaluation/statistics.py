"""Bootstrap intervals of means and ratios, and paired comparisons.

A case, or all cases of a patient, is the unit that is drawn (G units). A unit has columns of sums, such as that of its
Dice values and how many these are; a number is a function of the columns' sums over units, so that means, rates of
lesions and averages of such (macro) are resampled alike, jointly, and with the numbers of cases as they come.

Intervals are expanded percentile intervals (Hesterberg, "What teachers should know about the bootstrap", The American
Statistician 69, 2015): plain percentile intervals are too narrow by sqrt((G - 1) / G) and by the normal quantile in
place of Student's t, which the level of the percentiles makes up for.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
LEAST = 200  # resamples in which the number is defined
CONFIDENCE = 0.95


def mean(sums: np.ndarray) -> np.ndarray:
    """(..., 2) sum and count -> (...); nan where there is nothing to average."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def average(numbers: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined there; nan where nothing is."""
    defined = ~np.isnan(numbers)
    return mean(np.stack([np.where(defined, numbers, 0).sum(-1), defined.sum(-1)], -1))


def interval(
    columns: np.ndarray, function: Callable[[np.ndarray], np.ndarray] = mean, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """`function` of the sums of columns (G, ...), and its interval from drawing units; nan where there is none.

    Resamples in which the number is undefined are left out; where few are left, and of one unit, there is no interval.
    """
    from scipy import stats

    units = len(columns)
    if not units:
        return (math.nan,) * 3
    estimate = float(function(columns.sum(0)))
    if units == 1 or math.isnan(estimate):
        return estimate, math.nan, math.nan
    drawn = function(np.tensordot(_times_drawn(units), columns, 1))
    if np.isfinite(drawn).sum() < LEAST:
        return estimate, math.nan, math.nan
    tail = stats.norm.cdf(math.sqrt(units / (units - 1)) * stats.t.ppf((1 - confidence) / 2, units - 1))
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return estimate, float(low), float(high)


@functools.lru_cache(maxsize=8)
def _times_drawn(units: int) -> np.ndarray:
    """(RESAMPLES, units): how often each unit is in each resample; the same at every call."""
    return np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(float)


def by_unit(
    units: Sequence[str], values: Sequence[Sequence[float]], parts: Sequence[int] | None = None, num_parts: int = 1
) -> np.ndarray:
    """Columns (G, k): values (rows, k) summed over the rows of each unit; with the part of each row, (G, parts, k)."""
    names, index = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    columns = np.zeros((len(names), num_parts, *np.shape(values)[1:]))
    np.add.at(columns, (index, 0 if parts is None else np.asarray(parts)), np.asarray(values, float))
    return columns[:, 0] if parts is None else columns


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where no difference is other than 0, nan for none at all."""
    from scipy import stats

    if not len(differences):
        return math.nan
    if not np.any(differences):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment within one family; nan stays nan and is not counted."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = largest
    return adjusted

"""Intervals: their coverage by simulation, and what they do at the edges; tests and their adjustment."""

import math

import numpy as np
import pytest
from scipy import stats

from nnunetv2_mastpro.evaluation.statistics import average, by_unit, holm, interval, mean, wilcoxon
from nnunetv2_mastpro.evaluation.summary import number

TRIALS = 400


def columns_of(values):
    return np.stack([values, np.ones(len(values))], 1)


def covered(truth, draw, function=mean):
    """Share of simulated samples whose interval holds the truth."""
    intervals = [interval(draw(), function)[1:] for _ in range(TRIALS)]
    return np.mean([low <= truth <= high for low, high in intervals])


# Expected by a simulation of 2,000 samples each: 0.90 to 0.92 at 5 cases, 0.94 at 10, 0.94 at 20. A plain percentile
# interval has 0.81 to 0.84 at 5, and would fail here. 400 trials deviate by 0.015 (standard deviation).
@pytest.mark.parametrize(("cases", "least"), [(5, 0.86), (10, 0.90), (20, 0.90)])
@pytest.mark.parametrize("kind", ["normal", "dice"])
def test_coverage_of_a_mean(kind, cases, least):
    rng = np.random.default_rng(cases)
    draw = {"normal": lambda: rng.normal(3, 2, cases), "dice": lambda: rng.beta(6, 2, cases)}[kind]
    share = covered({"normal": 3, "dice": 6 / 8}[kind], lambda: columns_of(draw()))
    assert least <= share <= 0.99


def test_coverage_of_a_sensitivity():
    """Lesions of a case are found together: 1 to 6 lesions, each found with a chance of the case's own."""
    rng = np.random.default_rng(1)

    def draw():
        lesions = rng.integers(1, 7, 25)
        return np.stack([rng.binomial(lesions, rng.beta(4, 2, 25)), lesions], 1)

    assert 0.89 <= covered(4 / 6, draw) <= 0.99


def test_coverage_needs_patients_where_cases_belong_together():
    rng = np.random.default_rng(2)

    def draw():
        patients = np.repeat(np.arange(20), rng.permutation([1, 2, 3, 4, 5] * 4))
        return patients, rng.normal(0, 1, 20)[patients] + rng.normal(0, 0.3, len(patients))

    def of_units(by_patient):
        patients, values = draw()
        return by_unit(patients if by_patient else np.arange(len(values)), columns_of(values))

    assert covered(0, lambda: of_units(by_patient=True)) >= 0.89
    assert covered(0, lambda: of_units(by_patient=False)) <= 0.85


def test_interval_is_an_expanded_percentile_interval():
    """scipy's own percentile interval of the mean, at the level that makes up for the number of cases."""
    values = np.random.default_rng(0).gamma(2, size=12)
    tail = stats.norm.cdf(math.sqrt(12 / 11) * stats.t.ppf(0.025, 11))
    options = {"method": "percentile", "n_resamples": 50_000, "random_state": np.random.default_rng(0)}
    plain = stats.bootstrap((values,), np.mean, confidence_level=1 - 2 * tail, **options)
    narrower = stats.bootstrap((values,), np.mean, confidence_level=0.95, **options).confidence_interval
    estimate, low, high = interval(columns_of(values))
    assert estimate == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(plain.confidence_interval), abs=0.08)
    assert high - low > 1.05 * (narrower.high - narrower.low)
    assert (low, high) == interval(columns_of(values))[1:]  # the same draws each time
    assert low < plain.bootstrap_distribution.min() + np.ptp(plain.bootstrap_distribution) / 2 < high


def test_macro_draws_cases_for_all_classes_at_once():
    """Two classes whose scores are opposite in each case: their mean does not vary, the mean of each does."""
    values = np.random.default_rng(0).random(15)
    both = np.stack([columns_of(values), columns_of(1 - values)], 1)
    assert interval(both, lambda sums: average(mean(sums))) == pytest.approx((0.5, 0.5, 0.5))
    assert np.ptp(interval(both[:, 0])[1:]) > 0.1


def test_a_class_of_few_cases():
    """One of many cases has the class: resamples without it are left out of its mean."""
    rare = np.zeros((40, 2))
    rare[7] = (0.25, 1)
    assert interval(rare) == pytest.approx((0.25, 0.25, 0.25))


def rows_of(label, values):
    """`values`: case -> Dice."""
    return [
        {"class": label, "case": str(case), "unit": str(case), "annotated": True, "Dice": value}
        for case, value in values.items()
    ]


def test_a_mean_of_classes_is_of_all_of_them_in_each_resample():
    """Without its few cases a rare class would leave the mean of the others, which is another number."""
    common, rare = rows_of("common", dict.fromkeys(range(40), 1.0)), rows_of("rare", {0: 0.2, 1: 0.3, 2: 0.25})
    found = number([common, rare], "Dice")
    assert found["mean"] == pytest.approx((1 + 0.25) / 2)
    assert (found["low"], found["high"]) == (pytest.approx(0.6), pytest.approx(0.65))
    assert (found["cases"], found["units"]) == (40, 3)


@pytest.mark.parametrize("cases", [1, 2])
def test_no_interval_where_a_part_of_the_mean_has_hardly_a_case(cases):
    """Each resample that has the class would have the same value of it, which would be taken for certain."""
    common, rare = rows_of("common", dict.fromkeys(range(40), 1.0)), rows_of("rare", dict.fromkeys(range(cases), 0.25))
    found = number([common, rare], "Dice")
    assert found == {"mean": 0.625, "low": None, "high": None, "cases": 40, "units": cases}


def test_no_interval_where_hardly_a_resample_has_all_classes():
    groups = [rows_of(f"class {first}", dict.fromkeys(range(first, first + 3), 0.5)) for first in range(0, 240, 3)]
    found = number([*groups, rows_of("common", dict.fromkeys(range(240), 1.0))], "Dice")
    assert found["mean"] is not None
    assert (found["low"], found["high"]) == (None, None)


def test_no_interval_of_nothing_or_of_one():
    assert interval(np.zeros((0, 2))) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert interval(columns_of([0.3])) == pytest.approx((0.3, math.nan, math.nan), nan_ok=True)


def test_by_unit_sums():
    np.testing.assert_array_equal(by_unit(["b", "a", "b"], [(1, 1), (2, 1), (4, 1)]), [[2, 1], [5, 2]])


def test_wilcoxon():
    differences = np.random.default_rng(0).normal(0.3, 1, 14)
    assert wilcoxon(differences) == stats.wilcoxon(differences).pvalue
    assert wilcoxon([0.0, 0.0, 0.0]) == 1
    assert math.isnan(wilcoxon([]))


def test_holm():
    """An example that was worked out by hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, then not falling."""
    assert holm([0.01, 0.04, math.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([]) == []

"""Draws of cases by temperature, and patches centred on tumours."""

import pickle
from collections import Counter

import numpy as np
import pytest

from nnunetv2_mastpro.training.sampling import HostRegion, SampledCases, draw_shares, histogram, repeated, tumors_of

TYPES = {"a": ["liver"], "b": ["liver"], "c": ["liver"], "d": ["kidney"], "e": ["liver", "kidney"], "f": []}
SOURCES = {"a": "A", "b": "A", "c": "B", "d": "B", "e": "B", "f": "B"}
PLACES = {1: np.ones((3, 4)), 2: np.zeros((2, 4)), (1, 2): np.ones((5, 4)), 3: [], (-1, 0, 1, 2): np.ones((9, 4))}


def test_temperature_1_draws_every_case_alike():
    assert draw_shares(TYPES, SOURCES, 1) == pytest.approx(dict.fromkeys(TYPES, 1 / 6))


def test_temperature_0_draws_types_alike_and_sources_within_them():
    shares = draw_shares(TYPES, SOURCES, 0)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["f"] == pytest.approx(1 / 3)  # the only case without a tumour
    liver, kidney = 1 / 3, 1 / 3
    assert shares["a"] + shares["b"] == pytest.approx(liver / 2)  # source A
    assert shares["c"] == pytest.approx(liver / 2 * 1 / 1.5)
    assert shares["d"] == pytest.approx(kidney * 1 / 1.5)
    assert shares["e"] == pytest.approx(liver / 2 * 0.5 / 1.5 + kidney * 0.5 / 1.5)


def test_a_rare_type_is_drawn_more_often_the_lower_the_temperature():
    types = {f"l{n}": ["liver"] for n in range(9)} | {"k": ["kidney"]}
    rare = [draw_shares(types, dict.fromkeys(types, "A"), t)["k"] for t in (1, 0.5, 0)]
    assert rare == pytest.approx([0.1, 0.25, 0.5])


def test_repeated_keeps_every_case_and_the_shares():
    types = {f"l{n}": ["liver"] for n in range(90)} | {f"k{n}": ["kidney"] for n in range(10)}
    entries = Counter(repeated(draw_shares(types, dict.fromkeys(types, "A"), 0)))
    assert entries.keys() == types.keys()
    rare = sum(entries[f"k{n}"] for n in range(10)) / sum(entries.values())
    assert rare == pytest.approx(0.5, abs=0.01)


class Stored:
    """A data set of nnU-Net with one case."""

    identifiers = ["x"]
    source_folder = "somewhere"

    def __init__(self, places):
        self.places = places

    def load_case(self, identifier):
        return "image", "labels", None, {"class_locations": self.places, "spacing": 1}


@pytest.mark.parametrize(
    ("places", "tumors", "kept"),
    [
        (PLACES, [2], [2, (-1, 0, 1, 2)]),  # nnU-Net itself drops the key of annotated voxels
        (PLACES, [3], [*PLACES]),  # no such tumour here
        (PLACES, [np.int64(2)], [2, (-1, 0, 1, 2)]),  # as nnU-Net's label manager has them
        (PLACES, [[1, 2]], [(1, 2), (-1, 0, 1, 2)]),  # a region, as JSON has it
        ({1: PLACES[1], 2: PLACES[2]}, [2, 3], [2]),
    ],
)
def test_patches_are_centred_on_tumours(places, tumors, kept):
    cases = SampledCases(Stored(places), ["x", "x"], tumors)
    image, labels, previous, properties = cases.load_case("x")
    assert (image, labels, previous, properties["spacing"]) == ("image", "labels", None, 1)
    assert [*properties["class_locations"]] == kept
    assert [*cases.identifiers] == ["x", "x"]
    assert cases.source_folder == "somewhere"


def test_sampled_cases_can_be_pickled():
    assert pickle.loads(pickle.dumps(SampledCases(Stored(PLACES), ["x"], [2]))).identifiers == ["x"]


def test_tumors_of_a_case():
    assert tumors_of({"class_locations": PLACES}, {"whole": [1, 2], "core": 2, "none": 3}) == ["whole", "core"]


def test_histogram_counts_samples():
    shown = histogram(Counter(a=2, e=1, f=1), TYPES, SOURCES)
    assert shown == "Samples drawn: from A 50 %, B 50 %; with kidney 25 %, liver 75 %, no tumour type 25 %"


def with_region(places, margin, share):
    organs = np.zeros((6, 8, 10), np.int8)
    organs[2:4, 3, 5] = 1
    region = HostRegion(margin, share)
    return region, lambda: region.choose("x", organs, places), organs


def test_patches_without_tumour_are_centred_in_the_host_organs():
    _, choose, _ = with_region({2: PLACES[1]}, (0, 0, 0), 0.0)
    assert sorted(choose()[1].tolist()) == [[0, 2, 3, 5], [0, 3, 3, 5]]


def test_the_loader_gets_the_places_of_the_region():
    region, _, organs = with_region({}, (0, 0, 0), 0.0)
    stored = Stored({2: PLACES[1]})
    stored.load_case = lambda case: ("image", "labels", organs, {"class_locations": stored.places})
    properties = SampledCases(stored, ["x"], [2], region).load_case("x")[3]
    assert sorted(properties["class_locations"][1].tolist()) == [[0, 2, 3, 5], [0, 3, 3, 5]]


def test_the_margin_is_reached_and_not_left():
    _, choose, _ = with_region({}, (3, 1, 0), 1.0)  # no tumour: the organs in spite of the share
    found = np.concatenate([choose()[1] for _ in range(200)])
    assert (found.min(0).tolist(), found.max(0).tolist()) == ([0, 0, 2, 5], [0, 5, 4, 5])


def test_share_of_tumour_patches():
    np.random.seed(0)
    tumors = {2: PLACES[1]}
    _, choose, _ = with_region(tumors, (1, 1, 1), 0.5)
    assert np.mean([choose() is tumors for _ in range(400)]) == pytest.approx(0.5, abs=0.08)


def test_a_case_without_organs_is_drawn_anywhere():
    region, _, organs = with_region({}, (1, 1, 1), 0.5)
    assert region.choose("empty", np.zeros_like(organs), {}) == {}


def test_the_map_is_read_once_per_case():
    region, choose, organs = with_region({}, (0, 0, 0), 0.5)
    first = choose()
    organs[:] = 0
    assert np.array_equal(choose()[1], first[1])

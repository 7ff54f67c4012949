"""Structures to one value per voxel, against loops over voxels."""

import numpy as np
import pytest

from nnunetv2_mastpro.anatomy.maps import compose, dilate

SHAPE = (6, 7, 8)


def loop_dilate(values, margin_mm, spacing_mm):
    """Of each empty voxel: the value of the nearest organ voxel within the margin, the smaller of two as near.

    Distances are compared to a millionth of a millimetre, as two sums of the same squares may differ in the last bit.
    """
    organs = [(index, values[index]) for index in np.ndindex(values.shape) if values[index]]
    grown = values.copy()
    for index in np.ndindex(values.shape):
        if values[index]:
            continue
        near = []
        for other, value in organs:
            steps_mm = ((a - b) * s for a, b, s in zip(index, other, spacing_mm, strict=True))
            distance_mm = sum(step**2 for step in steps_mm) ** 0.5
            if distance_mm <= margin_mm + 1e-3:
                near.append((round(distance_mm, 6), value))
        if near:
            grown[index] = min(near)[1]
    return grown


@pytest.mark.parametrize("density", [0.2, 0.7])
@pytest.mark.parametrize("seed", [0, 1])
def test_overlap_goes_to_the_smaller_host_and_is_counted(host, density, seed):
    rng = np.random.default_rng(seed)
    hosts = (host(1, "liver"), host(2, "kidney_left", "kidney_right"), host(3, "colon"), host(4, "absent"))
    masks = {name: rng.random(SHAPE) < density for name in ("colon", "kidney_left", "liver", "kidney_right")}
    expected, claimed = np.zeros(SHAPE, np.uint8), 0
    unions = {entry.value: sum(masks.get(n, np.zeros(SHAPE)) for n in entry.structures) > 0 for entry in hosts}
    for index in np.ndindex(SHAPE):
        for entry in sorted(hosts, key=lambda entry: unions[entry.value].sum()):
            if any(name in masks and masks[name][index] for name in entry.structures):
                claimed += bool(expected[index])
                expected[index] = expected[index] or entry.value
    found, found_claimed = compose(masks.items(), hosts, SHAPE)
    np.testing.assert_array_equal(found, expected)
    assert found_claimed == claimed > 0


def test_a_host_within_another_is_kept(host):
    """The vessels of the liver, in either order of the table."""
    liver, vessels = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    vessels[1:3, 2] = True
    masks = {"liver": liver, "vessels": vessels}
    for first, second in (("liver", "vessels"), ("vessels", "liver")):
        found, claimed = compose(masks.items(), (host(1, first), host(2, second)), SHAPE)
        np.testing.assert_array_equal(found == (1 if first == "vessels" else 2), vessels)
        assert claimed == vessels.sum()


def test_structures_of_one_value_may_overlap(host):
    mask = np.ones(SHAPE, bool)
    found, claimed = compose({"a": mask, "b": mask}.items(), (host(2, "a", "b"),), SHAPE)
    np.testing.assert_array_equal(found, np.full(SHAPE, 2))
    assert claimed == 0


@pytest.mark.parametrize("masks", [{}, {"other": np.ones(SHAPE, bool)}, {"a": np.zeros(SHAPE, bool)}])
def test_nothing_known_is_an_empty_map(host, masks):
    found, claimed = compose(masks.items(), (host(1, "a"),), SHAPE)
    np.testing.assert_array_equal(found, np.zeros(SHAPE))
    assert claimed == 0


def test_a_hole_stays_as_it_is(host):
    mask = np.ones(SHAPE, bool)
    mask[2:4, 3, 4] = False
    np.testing.assert_array_equal(compose({"a": mask}.items(), (host(1, "a"),), SHAPE)[0], mask)


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_values_fit_their_type(host, value, dtype):
    found, _ = compose({"a": np.ones(SHAPE, bool)}.items(), (host(value, "a"),), SHAPE)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.full(SHAPE, value))


def test_the_masks_are_left_as_they_are(host):
    masks = {"a": np.ones(SHAPE, bool), "b": np.ones(SHAPE, bool)}
    compose(masks.items(), (host(1, "a"), host(2, "b")), SHAPE)
    assert all(mask.all() for mask in masks.values())


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.9, 1.4), (0.7, 0.7, 0.7), (0.3, 5.0, 0.1)])
@pytest.mark.parametrize("margin_mm", [0.5, 1.5, 3.0, 50.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dilation_is_that_of_a_loop(spacing_mm, margin_mm, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 1, 2, 5], SHAPE, p=[0.94, 0.02, 0.02, 0.02]).astype(np.uint8)
    before = values.copy()
    found = dilate(values, margin_mm, spacing_mm)
    np.testing.assert_array_equal(found, loop_dilate(values, margin_mm, spacing_mm))
    np.testing.assert_array_equal(values, before)
    assert found.dtype == values.dtype


@pytest.mark.parametrize("edge_mm", [0.1, 0.7, 0.977, 1.0, 1.37])
def test_ties_go_to_the_smaller_value(edge_mm):
    """In the plane between two organs, every voxel is as far from one as from the other."""
    values = np.zeros((9, 5, 5), np.uint8)
    values[0, 2, 2], values[8, 2, 2] = 7, 3
    found = dilate(values, 100.0, (edge_mm,) * 3)
    np.testing.assert_array_equal(found[:4], np.full((4, 5, 5), 7))
    np.testing.assert_array_equal(found[4:], np.full((5, 5, 5), 3))


def test_the_nearer_organ_wins_by_millimetres_not_voxels():
    values = np.zeros((1, 6, 6), np.uint8)
    values[0, 0, 0], values[0, 5, 5] = 1, 2
    found = dilate(values, 100.0, (1.0, 1.0, 10.0))
    np.testing.assert_array_equal(found[0, :, :3], np.full((6, 3), 1))
    np.testing.assert_array_equal(found[0, :, 3:], np.full((6, 3), 2))


@pytest.mark.parametrize(("margin_mm", "reach"), [(0.99, 0), (1.0, 1), (1.99, 1), (2.0, 2)])
def test_the_margin_is_within(margin_mm, reach):
    values = np.zeros((1, 1, 9), np.uint8)
    values[0, 0, 4] = 1
    expected = np.abs(np.arange(9) - 4) <= reach
    np.testing.assert_array_equal(dilate(values, margin_mm, (1.0, 1.0, 1.0))[0, 0], expected)


def test_organs_keep_their_voxels_where_they_touch():
    values = np.ones(SHAPE, np.uint8)
    values[:, :, 4:] = 2
    np.testing.assert_array_equal(dilate(values, 5.0, (1.0, 1.0, 1.0)), values)


@pytest.mark.parametrize("margin_mm", [0.0, 3.0])
def test_nothing_to_grow(margin_mm):
    empty = np.zeros(SHAPE, np.uint8)
    np.testing.assert_array_equal(dilate(empty, margin_mm, (1.0, 1.0, 1.0)), empty)


def test_no_margin_grows_nothing():
    values = np.zeros(SHAPE, np.uint8)
    values[3, 3, 3] = 1
    np.testing.assert_array_equal(dilate(values, 0.0, (1e-4, 1e-4, 1e-4)), values)

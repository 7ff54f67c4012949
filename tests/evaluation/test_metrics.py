"""Dice, surface Dice and HD95 against DeepMind's surface-distance and brute force; what empty masks give."""

import tracemalloc
import warnings

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from nnunetv2_mastpro.evaluation.metrics import score

SPACINGS_MM = [(1.0, 1.0, 1.0), (5.0, 0.8, 1.5), (0.7, 3.0, 3.0)]
TOLERANCES_MM = [0.0, 1.0, 2.0, 7.5]


def brute_hd95(reference, prediction, spacing_mm):
    """Border voxels have a neighbour by face outside the mask, or lie at the volume's edge."""
    borders = []
    for mask in (reference, prediction):
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(mask.ndim):
            inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        borders.append((np.argwhere(padded & ~inner) - 1) * np.asarray(spacing_mm))
    distances = cdist(*borders)
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


def deepminds_nsd(reference, prediction, spacing_mm, tolerance_mm):
    import surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of scipy.ndimage.filters
        found = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    return surface_distance.compute_surface_dice_at_tolerance(found, tolerance_mm)


def box(*slices, shape=(9, 12, 10)):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def random_pair(seed, shape=(9, 12, 10)):
    """Noise of some density, and noise that overlaps with it."""
    rng = np.random.default_rng(seed)
    reference = rng.random(shape) < rng.uniform(0.02, 0.6)
    return reference, np.where(rng.random(shape) < 0.7, reference, rng.random(shape) < rng.uniform(0.02, 0.6))


DEGENERATE = {
    "voxel and itself": (box(4, 5, 5), box(4, 5, 5)),
    "voxels in opposite corners": (box(0, 0, 0), box(8, 11, 9)),
    "whole volume and a voxel": (box(), box(4, 5, 5)),
    "whole volume and itself": (box(), box()),
    "planes": (box(4), box(slice(None), 6)),
    "line and plane": (box(4, 5), box(0)),
    "at the edge": (box(slice(0, 3), slice(0, 4), slice(0, 5)), box(slice(1, 4), slice(0, 4), slice(1, 5))),
    "shell and its filling": (box(slice(1, 8), slice(1, 9), slice(1, 9)) ^ box(4, 5, 5), box(4, 5, 5)),
}


def check(reference, prediction, spacing_mm, tolerance_mm):
    found = score(reference, prediction, spacing_mm, tolerance_mm)
    flat = len(reference) == 1
    masks = (reference[0], prediction[0]) if flat else (reference, prediction)
    assert found["Dice"] == pytest.approx(
        2 * np.count_nonzero(reference & prediction) / (np.count_nonzero(reference) + np.count_nonzero(prediction))
    )
    assert found["NSD"] == pytest.approx(deepminds_nsd(*masks, spacing_mm[flat:], tolerance_mm), rel=1e-6, abs=1e-6)
    assert found["HD95_mm"] == pytest.approx(brute_hd95(*masks, spacing_mm[flat:]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("tolerance_mm", TOLERANCES_MM)
@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_random_masks(spacing_mm, tolerance_mm):
    for seed in range(5):
        check(*random_pair(seed), spacing_mm, tolerance_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_masks(name, spacing_mm):
    check(*DEGENERATE[name], spacing_mm, 2.0)


@pytest.mark.parametrize("spacing_mm", [(999.0, 1.0, 1.0), (5.0, 0.8, 1.5)])
def test_one_slice_has_contours(spacing_mm):
    for seed in range(5):
        check(*random_pair(seed, (1, 20, 16)), spacing_mm, 2.0)


def test_empty_masks():
    some, nothing = box(4, 5, 5), box(slice(0))
    undefined = pytest.approx({"Dice": np.nan, "NSD": np.nan, "HD95_mm": np.nan}, nan_ok=True)
    missed = pytest.approx({"Dice": 0.0, "NSD": 0.0, "HD95_mm": np.nan}, nan_ok=True)
    assert score(nothing, nothing, SPACINGS_MM[0], 2.0) == undefined
    assert score(some, nothing, SPACINGS_MM[0], 2.0) == missed
    assert score(nothing, some, SPACINGS_MM[0], 2.0) == missed


def test_moved_by_known_millimetres():
    """A box that is moved by 3 voxels of 0.5 mm: half of both ends is beyond 1 mm, nothing beyond 1.5 mm."""
    reference = box(slice(2, 6), slice(2, 8), slice(2, 5), shape=(8, 10, 12))
    prediction = np.roll(reference, 3, 2)
    assert score(reference, prediction, (2.0, 2.0, 0.5), 1.5)["NSD"] == 1
    found = score(reference, prediction, (2.0, 2.0, 0.5), 1.0)
    assert 0 < found["NSD"] < 1
    assert found["HD95_mm"] == pytest.approx(1.5)
    assert found["Dice"] == 0


@pytest.mark.parametrize("start", [0, 7, 20])
@pytest.mark.parametrize("spacing_mm", [(0.4, 0.4, 0.4), (1.2, 0.8, 0.8)])
def test_a_distance_of_just_the_tolerance_is_within_it(spacing_mm, start):
    """Spacings of NIfTI files are single precision."""
    reference = box(slice(2, 7), slice(2, 7), slice(start, start + 4), shape=(9, 9, 40))
    steps = round(2 / spacing_mm[2]) if spacing_mm[2] == 0.4 else 0
    moved = np.roll(reference, steps or 5, 2)
    tolerance_mm = 2.0 if steps else 4.0
    for spacing in (spacing_mm, tuple(map(float, np.float32(spacing_mm)))):
        assert score(reference, moved, spacing, tolerance_mm)["NSD"] == 1


def test_far_apart_masks_cost_no_memory_of_the_space_between():
    """A false finding at the other end of a scan; distance maps of the box would take a hundred bytes a voxel."""
    shape = (120, 160, 160)
    reference = box(slice(0, 20), slice(0, 20), slice(0, 20), shape=shape)
    prediction = reference | box(119, 159, 159, shape=shape)
    score(reference[:20], reference[:20], SPACINGS_MM[0], 2.0)  # MONAI's import
    tracemalloc.start()
    found = score(reference, prediction, SPACINGS_MM[0], 2.0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 < found["NSD"] < 1
    assert most < 10 * reference.size


@pytest.mark.parametrize("known", ["every sixth slice", "half of the volume"])
def test_where_voxels_to_be_ignored_cut_a_mask_no_surface_is(known):
    """Both masks end there, so that the cut would count as surface on which they agree."""
    y, x = np.ogrid[:40, :40]
    reference, prediction = (
        np.broadcast_to((y - 20) ** 2 + (x - 20) ** 2 < radius**2, (40, 40, 40)) for radius in (12, 17)
    )
    ignored = np.ones(reference.shape, bool)
    ignored[slice(3, 36, 6) if known == "every sixth slice" else slice(0, 20)] = False
    whole = score(reference, prediction, (1.0, 1.0, 1.0), 2.0)
    found = score(reference & ~ignored, prediction & ~ignored, (1.0, 1.0, 1.0), 2.0, ignored)
    naive = score(reference & ~ignored, prediction & ~ignored, (1.0, 1.0, 1.0), 2.0)
    assert found["Dice"] == pytest.approx(whole["Dice"])
    if known == "every sixth slice":  # no voxel's surroundings are known
        assert np.isnan(found["NSD"])
        assert np.isnan(found["HD95_mm"])
        assert naive["NSD"] > 0.7
    else:
        half = score(reference[:20], prediction[:20], (1.0, 1.0, 1.0), 2.0)
        assert found["NSD"] < half["NSD"] < naive["NSD"] + 1e-9
        assert found["HD95_mm"] == pytest.approx(5, abs=1)


def test_a_prediction_beside_the_ignored_alone_has_no_part_of_a_known_surface():
    """Not undefined: more voxels of it, or none, have 0 too."""
    reference, prediction, ignored = np.zeros((3, 20, 20, 20), bool)
    reference[4:8, 4:8, 4:8] = True
    ignored[12:] = True
    prediction[11, 4:8, 4:8] = True
    found = score(reference, prediction, (1.0, 1.0, 1.0), 2.0, ignored)
    assert found["NSD"] == 0
    assert np.isnan(found["HD95_mm"])

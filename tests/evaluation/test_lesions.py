"""Lesions found, missed and made up, against loops over components that cc3d labels."""

import math

import cc3d
import numpy as np
import pytest

from nnunetv2_mastpro.evaluation.lesions import BANDS, EDGES_MM, count_lesions

SHAPE = (12, 24, 20)


def band_of(voxels, spacing_mm, flat):
    if flat:
        diameter_mm = 2 * math.sqrt(voxels * spacing_mm[1] * spacing_mm[2] / math.pi)
    else:
        diameter_mm = (6 * voxels * math.prod(spacing_mm) / math.pi) ** (1 / 3)
    return BANDS[sum(diameter_mm >= edge for edge in EDGES_MM)]


def loop_lesions(reference, prediction, spacing_mm, overlap):
    flat = len(reference) == 1
    true, predicted = (cc3d.connected_components(mask, connectivity=26) for mask in (reference, prediction))
    counts = {band: {"lesions": 0, "lesions_found": 0, "lesions_predicted": 0, "lesions_false": 0} for band in BANDS}
    false_voxels = 0
    for number in range(1, true.max() + 1):
        lesion = true == number
        band, shared = band_of(lesion.sum(), spacing_mm, flat), (lesion & prediction).sum()
        counts[band]["lesions"] += 1
        counts[band]["lesions_found"] += bool(shared and shared / lesion.sum() >= overlap)
    for number in range(1, predicted.max() + 1):
        lesion = predicted == number
        shared = (lesion & reference).sum()
        if shared and shared / lesion.sum() >= overlap:
            largest = max((true == other).sum() for other in np.unique(true[lesion]) if other)
            counts[band_of(largest, spacing_mm, flat)]["lesions_predicted"] += 1
        else:
            band = band_of(lesion.sum(), spacing_mm, flat)
            counts[band]["lesions_predicted"] += 1
            counts[band]["lesions_false"] += 1
            false_voxels += lesion.sum()
    return counts, false_voxels


def blobs(rng, shape=SHAPE):
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(0, 7)):
        start = [rng.integers(0, size) for size in shape]
        mask[tuple(slice(begin, begin + rng.integers(1, 9)) for begin in start)] = True
    return mask


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (5.0, 3.0, 4.0)])
def test_against_loops(spacing_mm, overlap):
    rng = np.random.default_rng(3)
    seen = set()
    for trial in range(25):
        reference, prediction = blobs(rng), blobs(rng)
        if trial % 2:  # some of the lesions, and others
            prediction = (reference & (rng.random(SHAPE) < 0.9)) | blobs(rng)
        counts, false_voxels = count_lesions(reference, prediction, spacing_mm, overlap)
        expected, expected_voxels = loop_lesions(reference, prediction, spacing_mm, overlap)
        assert counts == expected
        assert false_voxels == expected_voxels
        seen |= {band for band, found in counts.items() if found["lesions_predicted"] > found["lesions_false"] > 0}
    assert len(seen) >= 2


def test_one_slice():
    rng = np.random.default_rng(5)
    for _ in range(20):
        pair = blobs(rng, (1, 40, 30)), blobs(rng, (1, 40, 30))
        assert count_lesions(*pair, (999.0, 2.0, 1.0), 0.3) == loop_lesions(*pair, (999.0, 2.0, 1.0), 0.3)


def test_corners_join():
    mask = np.zeros(SHAPE, bool)
    mask[2, 2, 2] = mask[3, 3, 3] = mask[8, 8, 8] = True
    counts, _ = count_lesions(mask, mask, (1.0, 1.0, 1.0))
    assert counts["<10 mm"] == {"lesions": 2, "lesions_found": 2, "lesions_predicted": 2, "lesions_false": 0}


def test_nothing():
    empty = np.zeros(SHAPE, bool)
    counts, false_voxels = count_lesions(empty, empty, (1.0, 1.0, 1.0))
    assert not any(number for found in counts.values() for number in found.values())
    assert false_voxels == 0


def test_lesions_beside_voxels_to_be_ignored_do_not_count():
    """Every slice of a half-known tumour would be a lesion of its own."""
    reference = np.zeros((12, 9, 9), bool)
    reference[:, 2:5, 2:5] = reference[0:2, 7:, 7:] = True
    prediction = np.roll(reference, 1, 1)
    ignored = np.zeros(reference.shape, bool)
    ignored[3:] = True
    ignored[6::3] = False
    masks = reference & ~ignored, prediction & ~ignored
    counts, false_voxels = count_lesions(*masks, (1.0, 1.0, 1.0), 0.0, ignored)
    assert {name: sum(band[name] for band in counts.values()) for name in counts["<10 mm"]} == {
        "lesions": 1,  # at the top, apart from what is cut
        "lesions_found": 1,
        "lesions_predicted": 2,
        "lesions_false": 1,
    }
    assert false_voxels == 4
    naive, _ = count_lesions(*masks, (1.0, 1.0, 1.0))
    assert sum(band["lesions"] for band in naive.values()) == 4

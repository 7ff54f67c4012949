"""The phantom: repeatable, plausible, and no toy that one HU window solves."""

import numpy as np
import pytest

from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION, ORGANS, TUMOR_TYPES, Grid, make_case
from nnunetv2_mastpro.errors import MASTProError

HU = {
    "liver": (80, 130),
    "kidney_left": (100, 210),
    "lung_left": (-880, -650),
    "pancreas": (50, 115),
    "spleen": (90, 145),
    "spine": (90, 420),
    "aorta": (110, 190),
    "heart": (100, 160),
}


def median_hu(case, organ):
    return np.median(case.image[(case.organs == 1 + ORGANS.index(organ)) & (case.tumors == 0)])


def test_a_seed_gives_the_same_case_and_another_seed_another(grid, cases):
    again, other = make_case(3, TUMOR_TYPES, grid), cases[4]
    for name in ("image", "tumors", "organs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cases[3], name))
    assert again.diameters_mm == cases[3].diameters_mm
    assert (other.image != again.image).mean() > 0.5


def test_version_1_stays_as_it_was():
    """A change to the phantom needs a new GENERATOR_VERSION: figures are given with it."""
    case = make_case(5, TUMOR_TYPES, Grid((23, 26, 35), (8.0, 8.0, 8.0)))
    assert case.tumors.sum(dtype=int) == pytest.approx(541, abs=4)  # libraries may round differently
    assert case.image.sum(dtype=int) == pytest.approx(-7268805, rel=1e-4)


def test_arrays_are_what_nnunet_wants(grid, cases):
    assert GENERATOR_VERSION == "1"
    for case in cases:
        assert case.image.dtype == np.int16
        assert case.image.shape == case.tumors.shape == case.organs.shape == grid.shape
        assert case.image.min() >= -1024
        assert case.image.max() <= 3071


@pytest.mark.parametrize("organ", HU)
def test_organs_have_plausible_hu(cases, organ):
    low, high = HU[organ]
    assert all(low < median_hu(case, organ) < high for case in cases)


def test_organs_differ_in_size_and_place(cases):
    livers = [np.argwhere(case.organs == 1 + ORGANS.index("liver")) for case in cases]
    assert np.std([len(liver) for liver in livers]) > 0.05 * np.mean([len(liver) for liver in livers])
    assert np.std([liver.mean(0) for liver in livers], axis=0).min() > 0.2


def test_the_liver_is_on_the_right_and_the_spine_at_the_back(cases):
    for case in cases:
        liver, spine = (np.argwhere(case.organs == 1 + ORGANS.index(name)).mean(0) for name in ("liver", "spine"))
        assert liver[2] < case.image.shape[2] / 2  # the patient's right is at low x
        assert spine[1] > case.image.shape[1] / 2


def test_tumours_measure_15_to_60_mm(cases):
    diameters = [mm for case in cases for _, mm in case.diameters_mm]
    assert min(diameters) > 14.9
    assert max(diameters) < 60.1
    assert np.std(diameters) > 5


def test_labels_measure_what_the_case_says(cases):
    for case in cases:
        voxel_mm3 = np.prod(case.spacing_mm)
        said = sum(np.pi / 6 * mm**3 for _, mm in case.diameters_mm)
        assert (case.tumors > 0).sum() * voxel_mm3 == pytest.approx(said, rel=0.2)


def test_no_type_is_missing_and_every_tumour_lies_in_its_host(cases):
    for value, name in enumerate(TUMOR_TYPES, 1):
        hosts = {ORGANS[organ - 1] for case in cases for organ in np.unique(case.organs[case.tumors == value])}
        assert hosts
        assert all(host.startswith(name.removesuffix("_tumor")) for host in hosts)


def test_a_chosen_subset_sets_the_labels(grid):
    case = make_case(1, ("lung_tumor", "colon_tumor"), grid)
    assert case.diameters_mm[0][0] == "colon_tumor"
    assert set(np.unique(case.tumors)) <= {0, 1, 2}
    assert 2 in case.tumors


def test_no_single_hu_window_finds_the_tumours(cases):
    """Dice of the best window over all cases, chosen knowing the truth."""
    image = np.concatenate([case.image.ravel() for case in cases])
    truth = np.concatenate([case.tumors.ravel() > 0 for case in cases])
    edges = np.arange(-50, 200, 10)
    best = max(
        2 * (inside & truth).sum() / (inside.sum() + truth.sum())
        for low in edges
        for high in edges[edges > low]
        for inside in [(image >= low) & (image < high)]
    )
    assert best < 0.25


def test_no_single_hu_window_finds_a_type_within_its_organ(cases):
    """Even with the host organ known, cysts, vessels, rims and noise are in the way."""
    for value in range(1, 1 + len(TUMOR_TYPES)):
        shares = []
        for case in cases:
            truth = case.tumors == value
            if truth.any():
                hosts = np.isin(case.organs, np.unique(case.organs[truth]))
                low, high = np.percentile(case.image[truth], (5, 95))
                shares.append((truth & hosts).sum() / (hosts & (case.image >= low) & (case.image <= high)).sum())
        assert np.median(shares) < 0.95, TUMOR_TYPES[value - 1]


@pytest.mark.parametrize("seed", range(40, 55))
def test_a_first_tumour_always_finds_room(seed):
    make_case(seed, TUMOR_TYPES, Grid((23, 26, 35), (8.0, 8.0, 8.0)))


@pytest.mark.parametrize("types", [("liver_tumor", "brain_tumor"), ()])
def test_unknown_types_are_refused(grid, types):
    with pytest.raises(MASTProError, match=r"(brain_tumor|none).*not known.*choose from liver_tumor"):
        make_case(0, types, grid)


def test_a_grid_too_small_for_a_torso_is_refused():
    with pytest.raises(MASTProError, match=r"160\.0.*torso needs.*take more voxels"):
        Grid((40, 64, 64), (4.0, 4.0, 4.0))

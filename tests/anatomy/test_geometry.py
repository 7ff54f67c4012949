"""Same grid, same space, or another patient."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import Geometry, check_geometry, read_geometry

TURNED = (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)  # about z


def changed(grid, field, place, by):
    values = list(getattr(grid, field))
    values[place] += by
    return grid._replace(**{field: tuple(values)})


@pytest.mark.parametrize("field", ["spacing_mm", "origin_mm", "direction"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_agrees_within_a_thousandth_and_not_beyond(grid, field, sign):
    """Origins to a hundredth of a voxel, as converters round them."""
    allowed = min(grid.spacing_mm) / 100 if field == "origin_mm" else 1e-3
    for place in range(len(getattr(grid, field))):
        assert grid.agrees(changed(grid, field, place, sign * 0.9 * allowed))
        assert not grid.agrees(changed(grid, field, place, sign * 1.1 * allowed))


def test_tolerance_does_not_grow_with_the_value(grid):
    far = grid._replace(origin_mm=(-10.0, 20000.0, 5.0))
    assert not far.agrees(changed(far, "origin_mm", 1, 2 * min(grid.spacing_mm) / 100))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sizes_agree_only_where_equal(grid, axis):
    assert grid.agrees(changed(grid, "size", axis, 0))
    assert not grid.agrees(changed(grid, "size", axis, 1))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, True),
        ({"origin_mm": (-10.0, 20.0, 7.9)}, True),  # by less than a slice
        ({"origin_mm": (-10.0, 20.0, 8.1)}, False),
        ({"origin_mm": (-10.0, 20.0, 35.0)}, False),
        ({"size": (7, 3, 5)}, False),
        ({"size": (14, 12, 10), "spacing_mm": (0.75, 1.0, 1.5), "origin_mm": (-10.375, 19.5, 4.25)}, True),
        ({"size": (14, 12, 10), "spacing_mm": (0.75, 1.0, 1.5), "origin_mm": (-10.375, 19.5, 8.0)}, False),
        ({"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}, False),  # flipped about its first voxel
        ({"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1), "origin_mm": (-1.0, 20.0, 5.0)}, True),
        ({"direction": TURNED}, False),
        ({"size": (7, 6), "spacing_mm": (1.5, 2.0), "origin_mm": (0.0, 0.0), "direction": (1, 0, 0, 1)}, False),
    ],
)
def test_what_is_only_a_resampling_apart(grid, other, expected):
    """Edges within one voxel of the coarser grid."""
    other = grid._replace(**other)
    assert grid.covers_the_same(other) is other.covers_the_same(grid) is expected


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize("direction", [None, TURNED])
def test_a_file_keeps_the_geometry(grid, write_volume, tmp_path, ending, direction):
    grid = grid._replace(direction=direction or grid.direction)
    path = write_volume(tmp_path / f"volume{ending}", np.zeros(grid.size[::-1], np.uint8), grid)
    assert read_geometry(path).agrees(grid)


def pair(write_volume, folder, grid, other):
    files = (("mask.nii.gz", grid._replace(**other)), ("image.nii.gz", grid))
    return [write_volume(folder / name, np.zeros(on.size[::-1], np.uint8), on) for name, on in files]


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize(
    "other", [{"origin_mm": (50.0, 20.0, 5.0)}, {"size": (7, 6, 3)}, {"spacing_mm": (1.5, 2, 2.2)}]
)
def test_another_space_is_refused_whatever_was_asked(grid, write_volume, tmp_path, resample, other):
    mask, image = pair(write_volume, tmp_path, grid, other)
    with pytest.raises(MASTProError, match="mask.nii.gz has .* its image image.nii.gz has .*not cover the same space"):
        check_geometry(mask, image, resample)


@pytest.mark.parametrize("resample", [False, True])
def test_a_series_of_masks_is_refused(grid, write_volume, tmp_path, resample):
    mask, image = pair(write_volume, tmp_path, grid, {})
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 5, 6, 7), np.uint8), isVector=False), str(mask))
    with pytest.raises(MASTProError, match=r"size \(7 6 5 2\).*not cover the same space"):
        check_geometry(mask, image, resample)


@pytest.mark.parametrize(
    "other",
    [
        {"origin_mm": (-10.2, 20.0, 5.0)},
        {"size": (14, 6, 5), "spacing_mm": (0.75, 2.0, 3.0), "origin_mm": (-10.375, 20.0, 5.0)},
        {"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1), "origin_mm": (-1.0, 20.0, 5.0)},
    ],
    ids=["shifted by a part of a voxel", "finer", "flipped in place"],
)
def test_a_resampling_apart_is_accepted_on_request_only(grid, write_volume, tmp_path, other):
    mask, image = pair(write_volume, tmp_path, grid, other)
    check_geometry(mask, image, resample=True)
    with pytest.raises(MASTProError, match="or --resample for nearest neighbour") as caught:
        check_geometry(mask, image, resample=False)
    assert str(read_geometry(mask)) in str(caught.value)
    assert str(read_geometry(image)) in str(caught.value)


def test_the_same_grid_is_accepted(grid, write_volume, tmp_path):
    check_geometry(*pair(write_volume, tmp_path, grid, {"origin_mm": (-10.0005, 20.0, 5.0)}), resample=False)


def test_text_names_all_fields():
    text = str(Geometry((2, 3), (1.0, 0.5), (0.0, -1.25), (1.0, 0.0, 0.0, 1.0)))
    assert text == "size (2 3), spacing (1 0.5), origin (0 -1.25), direction (1 0 0 1)"


@pytest.mark.parametrize("content", [b"", b"no volume"])
def test_an_unreadable_file_is_named(grid, write_volume, tmp_path, content):
    mask, image = pair(write_volume, tmp_path, grid, {})
    mask.write_bytes(content)
    for check in (lambda: read_geometry(mask), lambda: check_geometry(mask, image, True)):
        with pytest.raises(MASTProError, match=r"mask\.nii\.gz cannot be read as a volume \(.+\); replace the file"):
            check()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MASTProError, match=r"absent\.nii\.gz cannot be read as a volume"):
        read_geometry(tmp_path / "absent.nii.gz")

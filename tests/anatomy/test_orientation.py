"""A rotated or flipped scan: the masks follow its voxels, on its grid or resampled onto it."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from nnunetv2_mastpro.anatomy.masks import read_case
from nnunetv2_mastpro.errors import MASTProError

NUMBERS = {"spleen": 1, "kidney_right": 2, "liver": 5}  # class map of TotalSegmentator's task "total"
CODES = ["RAS", "LPI", "PIR", "SAL"]


@pytest.fixture
def upright(grid, rng):
    """Image and multi-label mask on the grid."""
    made = []
    for values in (rng.normal(size=grid.size[::-1]), rng.choice([0, 1, 2, 5], grid.size[::-1])):
        made.append(sitk.GetImageFromArray(values.astype(np.float32 if not made else np.uint8)))
        made[-1].SetSpacing(grid.spacing_mm)
        made[-1].SetOrigin(grid.origin_mm)
    return made


def masks_of(image):
    values = sitk.GetArrayFromImage(image)
    return {name: values == number for name, number in NUMBERS.items()}


def read(write_volume, folder, image, mask, resample):
    path = write_volume(folder / "case_0000.nii.gz", image)
    write_volume(folder / "masks" / "case.nii.gz", mask)
    return dict(read_case(folder / "masks", "case", tuple(NUMBERS), path, resample))


@pytest.mark.parametrize("code", CODES)
def test_masks_of_a_reoriented_scan_follow_it(upright, write_volume, tmp_path, code):
    """Voxel by voxel, each place of the patient has the structures that it had."""
    image, mask = (sitk.DICOMOrient(volume, code) for volume in upright)
    found = read(write_volume, tmp_path, image, mask, resample=False)
    before = sitk.GetArrayFromImage(upright[1])
    for index in np.ndindex(*image.GetSize()):
        x, y, z = upright[0].TransformPhysicalPointToIndex(image.TransformIndexToPhysicalPoint(index))
        for name, number in NUMBERS.items():
            assert found[name][index[::-1]] == (before[z, y, x] == number)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("turn_deg", [0.0, 20.0])
def test_a_mask_in_another_orientation_is_resampled_on_request(upright, write_volume, tmp_path, code, turn_deg):
    """Equal to the mask in the image's own orientation, also where the scan lies oblique."""
    turn = Rotation.from_euler("zx", [turn_deg, turn_deg], degrees=True).as_matrix()
    for volume in upright:
        volume.SetDirection(turn.ravel().tolist())
    image, mask = upright
    other = sitk.DICOMOrient(mask, code)
    assert other.GetSize() != mask.GetSize() or other.GetDirection() != mask.GetDirection()
    found = read(write_volume, tmp_path, image, other, resample=True)
    np.testing.assert_equal(found, masks_of(mask))
    with pytest.raises(MASTProError, match="--resample"):
        read(write_volume, tmp_path, image, other, resample=False)


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 1, 0)])
def test_permuted_axes(upright, write_volume, tmp_path, axes):
    image, mask = (sitk.PermuteAxes(volume, axes) for volume in upright)
    np.testing.assert_equal(read(write_volume, tmp_path, image, mask, False), masks_of(mask))
    back = read(write_volume, tmp_path / "back", upright[0], mask, resample=True)
    np.testing.assert_equal(back, masks_of(upright[1]))


def test_a_coarser_mask_is_taken_by_the_nearest_voxel(grid, upright, write_volume, tmp_path):
    """Twice the edges; each voxel of the image has the value of the mask's voxel that it lies in."""
    image = upright[0]
    size = [(n + 1) // 2 for n in grid.size]
    coarse = np.random.default_rng(1).choice([0, 1, 2, 5], size[::-1]).astype(np.uint8)
    mask = sitk.GetImageFromArray(coarse)
    mask.SetSpacing([2 * edge for edge in grid.spacing_mm])
    mask.SetOrigin([o + edge / 2 for o, edge in zip(grid.origin_mm, grid.spacing_mm, strict=True)])
    larger = sitk.ConstantPad(image, (0, 0, 0), [2 * n - m for n, m in zip(size, grid.size, strict=True)])
    found = read(write_volume, tmp_path, larger, mask, resample=True)
    for z, y, x in np.ndindex(*larger.GetSize()[::-1]):
        for name, number in NUMBERS.items():
            assert found[name][z, y, x] == (coarse[z // 2, y // 2, x // 2] == number)


def test_outside_a_smaller_mask_is_nothing(grid, upright, write_volume, tmp_path):
    """A mask that lacks the last slice of a long scan still covers nine tenths of it."""
    image, mask = (sitk.Tile([volume] * 3, (1, 1, 3)) for volume in upright)
    for volume in (image, mask):
        volume.SetSpacing(grid.spacing_mm)
        volume.SetOrigin(grid.origin_mm)
    found = read(write_volume, tmp_path, image, mask[:, :, :-1], resample=True)
    expected = masks_of(mask)
    for values in expected.values():
        values[-1] = False
    np.testing.assert_equal(found, expected)

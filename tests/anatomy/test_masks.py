"""Masks as users have them, on the image's grid."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from totalsegmentator.map_to_binary import class_map
from totalsegmentator.nifti_ext_header import save_multilabel_nifti

from nnunetv2_mastpro.anatomy.masks import check_case, read_case
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import check_whole

NUMBER = {name: number for number, name in class_map["total"].items()}
STRUCTURES = ("liver", "kidney_left", "colon")


@pytest.fixture
def organs(grid, rng):
    """structure -> bool (Z, Y, X); no two share a voxel."""
    drawn = rng.integers(0, 5, grid.size[::-1])
    return {name: drawn == index for index, name in enumerate(STRUCTURES, 1)}


@pytest.fixture
def image(grid, rng, write_volume, tmp_path):
    return write_volume(tmp_path / "case_7_0000.nii.gz", rng.normal(size=grid.size[::-1]).astype(np.float32))


def multilabel(organs, numbers, dtype=np.uint8):
    values = np.zeros(next(iter(organs.values())).shape, dtype)
    for name, mask in organs.items():
        values[mask] = numbers[name]
    return values


def with_table(path, table):
    """The file again, with an extended header that tells the numbers."""
    loaded = nibabel.load(path)
    loaded = nibabel.Nifti1Image(np.asarray(loaded.dataobj), loaded.affine, loaded.header)
    save_multilabel_nifti(loaded, path, table)


def read(folder, image, structures=STRUCTURES, case="case_7", resample=False):
    return dict(read_case(folder, case, structures, image, resample))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_numbers_of_the_class_map(organs, image, write_volume, tmp_path, ending, dtype):
    write_volume(tmp_path / "masks" / f"case_7{ending}", multilabel(organs, NUMBER, dtype))
    found = read(tmp_path / "masks", image)
    np.testing.assert_equal(found, organs)
    assert {mask.dtype for mask in found.values()} == {np.dtype(bool)}


def test_numbers_of_the_extended_header_go_before_the_class_map(organs, image, write_volume, tmp_path):
    numbers = {"liver": 1, "kidney_left": 200, "colon": 5}  # 5 is the liver, 1 the spleen in the class map
    path = write_volume(tmp_path / "masks" / "case_7.nii.gz", multilabel(organs, numbers))
    with_table(path, {number: name for name, number in numbers.items()})
    np.testing.assert_equal(read(tmp_path / "masks", image), organs)


def test_a_header_with_one_label(organs, image, write_volume, tmp_path):
    path = write_volume(tmp_path / "masks" / "case_7.nii.gz", multilabel({"colon": organs["colon"]}, {"colon": 9}))
    with_table(path, {9: "colon"})
    np.testing.assert_equal(read(tmp_path / "masks", image), {"colon": organs["colon"]})


def test_the_header_of_another_program_leaves_the_class_map(organs, image, write_volume, tmp_path):
    path = write_volume(tmp_path / "masks" / "case_7.nii.gz", multilabel(organs, NUMBER))
    loaded = nibabel.load(path)
    loaded = nibabel.Nifti1Image(np.asarray(loaded.dataobj), loaded.affine, loaded.header)
    loaded.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"not XML"))
    nibabel.save(loaded, path)
    np.testing.assert_equal(read(tmp_path / "masks", image), organs)
    (tmp_path / "masks" / "own").mkdir()
    path.rename(tmp_path / "masks" / "own" / "case_7.nii.gz")
    with pytest.raises(MASTProError, match="extended header without a label table; write it with TotalSegmentator"):
        read(tmp_path / "masks", image, ("own:liver",))


def test_structures_of_total_in_the_file_of_an_mr_image(organs, image, write_volume, tmp_path):
    """Where its header names them."""
    numbers = {"liver": 1, "kidney_left": 3, "colon": 12}  # in total_mr 1 is the spleen, 3 the left kidney
    path = write_volume(tmp_path / "masks" / "case_7.nii.gz", multilabel(organs, numbers))
    wanted = ("total_mr:kidney_left", "total:colon")
    np.testing.assert_equal(read(tmp_path / "masks", image, wanted)["total_mr:kidney_left"], organs["kidney_left"])
    with_table(path, {1: "liver", 3: "kidney_left", 12: "colon"})
    found = read(tmp_path / "masks", image, wanted)
    np.testing.assert_equal(found, dict(zip(wanted, (organs["kidney_left"], organs["colon"]), strict=True)))


@pytest.mark.parametrize("has_table", [False, True])
def test_unknown_numbers_are_refused(organs, image, write_volume, tmp_path, has_table):
    values = multilabel(organs, NUMBER)
    values[0, 0, :2] = 251, 250
    path = write_volume(tmp_path / "masks" / "case_7.nii.gz", values)
    if has_table:
        with_table(path, {NUMBER[name]: name for name in STRUCTURES})
    with pytest.raises(MASTProError, match=r"case_7\.nii\.gz has the numbers 250, 251, which its label table lacks"):
        read(tmp_path / "masks", image)


def test_numbers_of_an_unknown_task_are_refused(organs, image, write_volume, tmp_path):
    write_volume(tmp_path / "masks" / "own" / "case_7.nii.gz", multilabel(organs, NUMBER))
    with pytest.raises(MASTProError, match="no task 'own' whose numbers would tell; .*one binary file per structure"):
        read(tmp_path / "masks", image, ("own:liver",))
    with pytest.raises(MASTProError, match="no task 'own' whose numbers would tell"):  # before any voxel is read
        check_case(tmp_path / "masks", "case_7", ("own:liver",), image, resample=False)


def test_another_task_lies_in_its_folder(organs, image, write_volume, tmp_path):
    numbers = {name: number for number, name in class_map["liver_vessels"].items()}
    vessels = {"liver_vessels": organs["kidney_left"], "liver_tumor": organs["colon"]}
    write_volume(tmp_path / "masks" / "liver_vessels" / "case_7.nii.gz", multilabel(vessels, numbers))
    write_volume(tmp_path / "masks" / "case_7.nii.gz", multilabel({"liver": organs["liver"]}, NUMBER))
    wanted = ("liver", "liver_vessels:liver_vessels", "total:liver")
    found = read(tmp_path / "masks", image, wanted)
    expected = (organs["liver"], organs["kidney_left"], organs["liver"])
    np.testing.assert_equal(found, dict(zip(wanted, expected, strict=True)))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("dtype", "inside"), [(np.uint8, 1), (np.uint8, 255), (np.float32, 1)])
def test_a_folder_of_binary_files(organs, image, write_volume, tmp_path, ending, dtype, inside):
    for name, mask in organs.items():
        write_volume(tmp_path / "masks" / "case_7" / f"{name}{ending}", (inside * mask).astype(dtype))
    np.testing.assert_equal(read(tmp_path / "masks", image), organs)


def test_binary_files_and_multi_label_ones_together(organs, image, write_volume, tmp_path):
    """A structure's own file goes first; another task's file is found beside the case's folder."""
    folder = tmp_path / "masks"
    write_volume(folder / "case_7" / "liver.nii.gz", organs["liver"].astype(np.uint8))
    write_volume(folder / "case_7.nii.gz", multilabel({"liver": organs["colon"], "colon": organs["colon"]}, NUMBER))
    numbers = {name: number for number, name in class_map["liver_vessels"].items()}
    vessels = {"liver_vessels": organs["kidney_left"]}
    write_volume(folder / "liver_vessels" / "case_7.nii.gz", multilabel(vessels, numbers))
    wanted = ("liver", "colon", "liver_vessels:liver_vessels")
    expected = (organs["liver"], organs["colon"], organs["kidney_left"])
    np.testing.assert_equal(read(folder, image, wanted), dict(zip(wanted, expected, strict=True)))
    assert check_case(folder, "case_7", wanted, image, False) == {*wanted}


@pytest.mark.parametrize("folder", ["case_7", "case_7/case_7", "total", "liver"])
def test_the_name_of_the_folder_says_nothing(organs, image, write_volume, tmp_path, folder):
    write_volume(tmp_path / folder / "case_7.nii.gz", multilabel(organs, NUMBER))
    np.testing.assert_equal(read(tmp_path / folder, image), organs)


def test_a_structure_without_file_or_number_is_left_out(organs, image, write_volume, tmp_path):
    write_volume(tmp_path / "binary" / "case_7" / "liver.nii.gz", organs["liver"].astype(np.uint8))
    np.testing.assert_equal(read(tmp_path / "binary", image), {"liver": organs["liver"]})
    write_volume(tmp_path / "multi" / "case_7.nii.gz", multilabel({"liver": organs["liver"]}, NUMBER))
    found = read(tmp_path / "multi", image, ("liver", "unheard_of", "own:liver"))
    np.testing.assert_equal(found, {"liver": organs["liver"]})


def test_a_case_without_masks(image, tmp_path):
    assert read(tmp_path, image) == {}
    assert not check_case(tmp_path, "case_7", STRUCTURES, image, False)


def test_names_that_begin_alike_are_told_apart(organs, image, write_volume, tmp_path):
    write_volume(tmp_path / "masks" / "case_70.nii.gz", multilabel(organs, NUMBER))
    assert read(tmp_path / "masks", image) == {}


@pytest.mark.parametrize("value", [0.5, -1.5, 1.001])
@pytest.mark.parametrize("place", ["case_7.nii.gz", "case_7/liver.nii.gz"])
def test_probabilities_are_refused(organs, image, write_volume, tmp_path, value, place):
    values = organs["liver"].astype(np.float32)
    values[0, 0, 0] = value
    write_volume(tmp_path / "masks" / place, values)
    with pytest.raises(MASTProError, match="values that are no whole numbers; give a mask, not probabilities"):
        read(tmp_path / "masks", image)


def test_colours_are_refused(grid, image, tmp_path):
    colours = sitk.Image(grid.size, sitk.sitkVectorUInt8, 3)
    colours.SetSpacing(grid.spacing_mm)
    colours.SetOrigin(grid.origin_mm)
    sitk.WriteImage(colours, str(tmp_path / "case_7.nii.gz"))
    with pytest.raises(MASTProError, match="several values per voxel"):
        read(tmp_path, image)


@pytest.mark.parametrize("place", ["case_7.nii.gz", "case_7/liver.nii.gz", "liver_vessels/case_7.nii.gz"])
def test_every_file_is_checked_against_the_image(grid, organs, image, write_volume, tmp_path, place):
    moved = grid._replace(origin_mm=(90.0, 20.0, 5.0))
    write_volume(tmp_path / "masks" / place, organs["liver"].astype(np.uint8), moved)
    wanted = (*STRUCTURES, "liver_vessels:liver_vessels")
    for look in (check_case, lambda *given: dict(read_case(*given))):
        with pytest.raises(MASTProError, match="not cover the same space"):
            look(tmp_path / "masks", "case_7", wanted, image, True)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_that_ends_early_is_refused(tmp_path, ending):
    """SimpleITK reads it as if zeros followed."""
    rng = np.random.default_rng(0)
    image, mask = tmp_path / "image.nii.gz", tmp_path / "masks" / f"a{ending}"
    mask.parent.mkdir()
    values = rng.integers(0, 6, (20, 20, 20)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values), image)
    sitk.WriteImage(sitk.GetImageFromArray(values), mask)
    dict(read_case(mask.parent, "a", ("liver",), image, False))
    mask.write_bytes(mask.read_bytes()[: mask.stat().st_size // 2])
    with pytest.raises(MASTProError, match=f"a{ending} is damaged or ends early"):
        dict(read_case(mask.parent, "a", ("liver",), image, False))


@pytest.mark.parametrize("quickly", [True, False])
def test_a_header_that_makes_no_sense_is_told(tmp_path, quickly):
    """By another kind of error of nibabel's."""
    file = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), file)
    content = bytearray(file.read_bytes())
    content[70:72] = (4095).to_bytes(2, "little")  # the type of the values
    file.write_bytes(content)
    with pytest.raises(MASTProError, match="a.nii is damaged or ends early"):
        check_whole(file, quickly=quickly)


def test_what_a_file_can_hold_is_told_by_its_table(tmp_path):
    """A liver that is not in the scan is held; a structure of another task, or misspelt, is not."""
    image, masks = tmp_path / "image.nii.gz", tmp_path / "masks"
    masks.mkdir()
    for path in (image, masks / "a.nii.gz"):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), path)
    assert check_case(masks, "a", ("liver", "lever", "breasts:breast"), image, False) == {"liver"}

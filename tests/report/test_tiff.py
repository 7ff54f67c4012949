"""TIFF files, whose spacing lies in a file beside them."""

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.report import viewer
from nnunetv2_mastpro.report.cases import Case, check_case, read_case

from .voxels import marked, open_nifti


@pytest.fixture
def tiff(tmp_path):
    """A case, its image with a resolution, its prediction as nnU-Net writes it."""
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    labels = marked((1, 3, slice(4, 9), slice(4, 10)))
    image, prediction = tmp_path / "c_0000.tif", tmp_path / "predicted" / "c.tif"
    tifffile.imwrite(image, labels.astype(np.int16), resolution=(5, 8), resolutionunit="CENTIMETER")
    prediction.parent.mkdir()
    Tiff3DIO().write_seg(labels, str(prediction), {"spacing": [5.0, 2.0, 1.5]})
    (tmp_path / "c.json").write_text('{"spacing": [5.0, 2.0, 1.5]}')
    return Case("c", image, prediction, None, None), labels


KNOWN = SimpleNamespace(allowed=frozenset({0, 1}), ignored=None, hosts=())


def test_tiff_files_are_of_one_grid_where_they_are_of_one_size(tiff, capsys):
    case, labels = tiff
    assert sitk.ReadImage(case.image).GetSpacing() != sitk.ReadImage(case.prediction).GetSpacing()
    check_case(case, KNOWN)
    assert "WARNING" not in capsys.readouterr().out
    tifffile.imwrite(case.prediction, labels[1:])
    with pytest.raises(MASTProError, match=r"has size \(24 20 5\), spacing \(1.5 2 5\).*has size \(24 20 6\), spacing"):
        check_case(case, KNOWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"mm": [1, 1, 1]}', "c.json has the spacing None; give three positive numbers"),
        ('{"spacing": [1, 1]}', r"c.json has the spacing \[1, 1\]; give three"),
        ('{"spacing": [0, 1, 1]}', r"c.json has the spacing \[0, 1, 1\]; give three"),
        ('{"spacing": [1, 1, NaN]}', r"c.json has the spacing \[1, 1, nan\]; give three"),
        ('{"spacing": ["1", 1, 1]}', r"c.json has the spacing \['1', 1, 1\]; give three"),
        ('{"spacing": 1}', "c.json has the spacing 1; give three"),
        ("{", "c.json cannot be read as JSON"),
    ],
)
def test_a_bad_spacing_beside_a_tiff_file_is_refused(tiff, content, message):
    case, _ = tiff
    case.image.with_name("c.json").write_text(content)
    with pytest.raises(MASTProError, match=message):
        check_case(case, KNOWN)


def test_the_spacing_of_tiff_files_is_that_of_the_file_beside_them(tiff, capsys):
    """As nnU-Net's Tiff3DIO reads them."""
    case, labels = tiff
    found = read_case(case)
    assert found.spacing_mm == (5, 2, 1.5)
    np.testing.assert_array_equal(found.prediction, labels)
    volume = open_nifti(viewer.embed("c", found, is_ct=False).files["prediction"])
    assert volume.header.get_zooms() == (1.5, 2, 5)
    case.image.with_name("c.json").unlink()
    assert read_case(case).spacing_mm == (1, 1, 1)
    assert capsys.readouterr().out == ""

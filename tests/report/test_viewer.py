"""The volumes of the viewer."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.report import viewer
from nnunetv2_mastpro.report.cases import Case, read_case

from .voxels import open_nifti


@pytest.fixture
def oblique(tmp_path):
    """A case whose axes are turned and reflected, with one bright voxel that is also the truth, and where it lies."""
    array = np.full((14, 18, 22), -1000, np.int16)
    array[4, 7, 15] = 402
    paths = {}
    for name, values in (("image", array), ("labels", (array > 0).astype(np.uint8))):
        volume = sitk.GetImageFromArray(values)
        volume.SetSpacing((1.5, 2.0, 3.0))
        volume.SetOrigin((10.0, -20.0, 30.0))
        volume.SetDirection((0.0, -0.8, 0.6, -1.0, 0.0, 0.0, 0.0, 0.6, 0.8))
        paths[name] = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(volume, paths[name])
        place = volume.TransformIndexToPhysicalPoint((15, 7, 4))
    return Case("c", paths["image"], paths["labels"], paths["labels"], None), np.array(place) * (-1, -1, 1)


def test_the_viewers_volumes_lie_where_the_image_lies(oblique):
    case, place = oblique
    found = viewer.embed("c", read_case(case), is_ct=True)
    for kind, value in (("image", 400), ("prediction", 1), ("truth", 1)):  # in steps of 4 HU
        volume = open_nifti(found.files[kind])
        (index,) = np.argwhere(np.asarray(volume.dataobj) > 0)
        assert volume.get_fdata()[tuple(index)] == value
        np.testing.assert_allclose(volume.affine @ [*index, 1], [*place, 1], atol=1e-3)
    sizes = np.array(volume.shape)
    np.testing.assert_allclose(found.focus, (index + 0.5) / sizes)
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.get_data_dtype() == np.uint8


def test_large_volumes_are_thinned_out_along_the_finest_axis(monkeypatch, oblique):
    assert viewer.thinning((40, 40, 56), (5, 5, 5)) == (1, 1, 1)
    steps = viewer.thinning((100, 512, 512), (5.0, 0.8, 0.8))
    assert np.prod([-(-size // step) for size, step in zip((100, 512, 512), steps, strict=True)]) <= viewer.MOST_VOXELS
    assert steps[0] == 1 < steps[1]
    monkeypatch.setattr(viewer, "MOST_VOXELS", 900)
    case, _ = oblique
    whole = read_case(case)
    found = viewer.embed("c", whole, is_ct=False)
    volume = open_nifti(found.files["image"])
    assert (
        volume.shape
        == tuple(-(-size // step) for size, step in zip(whole.image.shape, found.thinned, strict=True))[::-1]
    )
    corner = np.array(volume.affine @ [volume.shape[0] - 1, volume.shape[1] - 1, 0, 1])  # the first voxel of the whole
    np.testing.assert_allclose(corner, whole.affine @ [0, 0, 0, 1], atol=1e-3)


def test_the_viewers_data_cannot_end_the_script(write_model, tmp_path):
    from nnunetv2_mastpro.report.model import read_model

    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "</script>": 1, "kidney_tumor": 2}}
    with pytest.warns(UserWarning, match="not in the knowledge base"):
        folder = write_model(tmp_path / "a__b__2d", {**dataset, "numTraining": 1, "file_ending": ".nii.gz"})
    model = read_model(folder, None, with_maps=False)
    text = viewer.viewer_data([], model, is_ct=True)
    assert "<" not in text
    content = json.loads(text)
    assert content["labels"] == ["", "</script>", "kidney tumor"]
    assert content["values"] == [0, 1, 2]
    assert content["colors"]["prediction"][1] == [255, 95, 86]

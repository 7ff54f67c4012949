"""The writer: what nnU-Net's own check accepts, whole or not at all."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.demo import dataset
from nnunetv2_mastpro.demo.dataset import PhantomSet, write_dataset
from nnunetv2_mastpro.demo.phantom import ORGANS, Grid, make_case

TYPES = ("lung_tumor", "colon_tumor")
COARSE = Grid((23, 26, 35), (8.0, 8.0, 8.0))
PHANTOMS = PhantomSet("Dataset007_Phantom", TYPES, TYPES, (10000, 10001), (10002,))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    counted = []
    folder = write_dataset(
        tmp_path_factory.mktemp("raw"),
        PHANTOMS,
        COARSE,
        on_case=lambda: counted.append(1),
    )
    return folder, len(counted)


def test_nnunet_accepts_the_data_set(written):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(written[0]), num_processes=1)


def test_labels_are_tumours_only_and_organs_lie_beside(written):
    folder, counted = written
    assert counted == 3
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "lung_tumor": 1, "colon_tumor": 2}
    assert content["numTraining"] == 2
    assert content["channel_names"] == {"0": "CT"}
    names = {
        kind: sorted(path.name for path in (folder / kind).iterdir())
        for kind in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "organs")
    }
    assert names["imagesTr"] == ["phantom_010000_0000.nii.gz", "phantom_010001_0000.nii.gz"]
    assert names["labelsTr"] == ["phantom_010000.nii.gz", "phantom_010001.nii.gz"]
    assert names["labelsTs"] == ["phantom_010002.nii.gz"]
    assert names["organs"] == names["labelsTr"] + names["labelsTs"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_file_is_the_case_of_its_seed(written):
    image = sitk.ReadImage(str(written[0] / "imagesTs" / "phantom_010002_0000.nii.gz"))
    case = make_case(10002, TYPES, COARSE)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), case.image)
    assert image.GetSpacing() == (8.0, 8.0, 8.0)


def test_a_source_labels_its_own_types_alone(tmp_path):
    """The others are in the image, as background."""
    source = PhantomSet("Dataset008_Colon", TYPES, ("colon_tumor",), (10001,))
    folder = write_dataset(tmp_path, source, COARSE, workers=1)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "colon_tumor": 1}
    case = make_case(10001, TYPES, COARSE)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / "phantom_010001.nii.gz")))
    np.testing.assert_array_equal(labels == 1, case.tumors == 2)
    assert (case.tumors == 1).any()
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / "phantom_010001_0000.nii.gz")))
    np.testing.assert_array_equal(image, case.image)


def test_organs_are_numbered_as_totalsegmentator_does(written):
    image = sitk.ReadImage(str(written[0] / "organs" / "phantom_010002.nii.gz"))
    found, case = sitk.GetArrayFromImage(image), make_case(10002, TYPES, COARSE)
    before = {name: case.organs_before == 1 + ORGANS.index(name) for name in ("liver", "spleen", "lung_left")}
    np.testing.assert_array_equal(found == 5, before["liver"])  # class map of TotalSegmentator's task "total"
    np.testing.assert_array_equal(found == 1, before["spleen"])
    np.testing.assert_array_equal(np.isin(found, (10, 11)), before["lung_left"])
    upper, lower = (np.argwhere(found == number)[:, 0] for number in (10, 11))
    assert upper.min() == lower.max() + 1
    assert image.GetOrigin() == tuple(-(n - 1) / 2 * 8.0 for n in image.GetSize())


def test_organ_masks_tell_nothing_of_the_tumours_growth():
    """Exophytic tumours bulge out of `organs`, which counts them as their host; not out of the masks."""
    case = make_case(10001, ("kidney_tumor",), COARSE)
    bulge = (case.organs != case.organs_before) & (case.tumors > 0)
    assert bulge.any()
    np.testing.assert_array_equal(case.organs[case.tumors == 0], case.organs_before[case.tumors == 0])


def test_interrupted_writing_leaves_no_half_data_set(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, PHANTOMS, COARSE, workers=1)
    assert list(tmp_path.iterdir()) == []

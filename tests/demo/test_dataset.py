"""The writer: what nnU-Net's own check accepts, whole or not at all."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.demo import dataset
from nnunetv2_mastpro.demo.dataset import write_dataset
from nnunetv2_mastpro.demo.phantom import ORGANS, Grid, make_case

TYPES = ("lung_tumor", "colon_tumor")
COARSE = Grid((23, 26, 35), (8.0, 8.0, 8.0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    counted = []
    folder = write_dataset(
        tmp_path_factory.mktemp("raw"),
        "Dataset007_Phantom",
        TYPES,
        COARSE,
        2,
        1,
        seed=1,
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
    assert json.loads((folder / "organs.json").read_text())["liver"] == 1 + ORGANS.index("liver")
    names = {
        kind: sorted(path.name for path in (folder / kind).iterdir())
        for kind in ("imagesTr", "labelsTr", "organsTr", "imagesTs", "labelsTs", "organsTs")
    }
    assert names["imagesTr"] == ["phantom_010000_0000.nii.gz", "phantom_010001_0000.nii.gz"]
    assert names["labelsTr"] == names["organsTr"] == ["phantom_010000.nii.gz", "phantom_010001.nii.gz"]
    assert names["labelsTs"] == names["organsTs"] == ["phantom_010002.nii.gz"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_file_is_the_case_of_its_seed(written):
    image = sitk.ReadImage(str(written[0] / "imagesTs" / "phantom_010002_0000.nii.gz"))
    case = make_case(10002, TYPES, COARSE)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), case.image)
    assert image.GetSpacing() == (8.0, 8.0, 8.0)
    organs = sitk.ReadImage(str(written[0] / "organsTs" / "phantom_010002.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(organs), case.organs)
    assert organs.GetOrigin() == image.GetOrigin()


def test_interrupted_writing_leaves_no_half_data_set(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, "Dataset007_Phantom", TYPES, COARSE, 1, 0, workers=1)
    assert list(tmp_path.iterdir()) == []

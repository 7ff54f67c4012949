"""Training maps follow the reader that the plans name, to the voxel, as nnU-Net's preprocessing has them."""

import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

NAME = "Dataset901_Tiny"
SHAPE = (11, 13, 17)  # x y z as nibabel has them
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "liver_tumor": 1, "kidney_tumor": 2},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
ORIENTATIONS = {
    "LPS": np.diag([-1.5, -2.0, 3.0, 1.0]),
    "axes swapped": np.array([[0, 0, 3.0, -7], [-1.5, 0, 0, 4], [0, 2.0, 0, 9], [0, 0, 0, 1.0]]),
}


def resampling(order):
    return {"is_seg": order == 1, "order": order, "order_z": 0, "force_separate_z": None}


def plans(reader, transpose, use_mask):
    """Of nnU-Net, with what preprocessing reads of them."""
    spacing = [1.0, 2.5, 1.7]
    configuration = {
        "data_identifier": "Tiny_3d",
        "preprocessor_name": "DefaultPreprocessor",
        "previous_stage": "anatomy",
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [use_mask],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(3),
        "resampling_fn_seg_kwargs": resampling(1),
        "patch_size": [8, 8, 8],
        "architecture": {},
    }
    return {
        "dataset_name": NAME,
        "plans_name": "P",
        "image_reader_writer": reader,
        "transpose_forward": transpose,
        "transpose_backward": np.argsort(transpose).tolist(),
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d": configuration},
    }


@pytest.fixture
def folders(tmp_path, monkeypatch):
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    for folder in (raw / NAME / "imagesTr", raw / NAME / "labelsTr", preprocessed / NAME):
        folder.mkdir(parents=True)
    for folder in (raw, preprocessed):
        (folder / NAME / "dataset.json").write_text(json.dumps(DATASET))
        monkeypatch.setenv(f"nnUNet_{folder.name}", str(folder))
    return SimpleNamespace(raw=raw / NAME, preprocessed=preprocessed / NAME, masks=tmp_path / "masks")


def save(path, values, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


@pytest.mark.filterwarnings("ignore:Warning. Received empty chunks")  # of nnU-Net's, told no patch size
@pytest.mark.parametrize(("transpose", "use_mask"), [([0, 1, 2], True), ([2, 0, 1], False)])
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_map_is_what_preprocessing_makes_of_it(folders, orientation, reader, transpose, use_mask):
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_mastpro.cli import main

    rng, affine = np.random.default_rng(1), ORIENTATIONS[orientation]
    image = rng.normal(100, 9, SHAPE).astype(np.float32)
    image[:2], image[:, -3:] = 0, 0  # cropped
    image[2:5, :4, :6] = 0  # outside the patient, inside the crop
    liver, kidney = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[1:7, 2:6, 2:9], kidney[6:9, 6:11, 9:15] = 1, 1
    save(folders.raw / "imagesTr" / "a_0000.nii.gz", image, affine)
    save(folders.raw / "labelsTr" / "a.nii.gz", liver, affine)
    save(folders.masks / "a" / "liver.nii.gz", liver, affine)
    save(folders.masks / "a" / "kidney_left.nii.gz", kidney, affine)

    content = plans(reader, transpose, use_mask)
    (folders.preprocessed / "P.json").write_text(json.dumps(content))
    manager = PlansManager(content)
    configuration = manager.get_configuration("3d")
    images = [str(folders.raw / "imagesTr" / "a_0000.nii.gz")]
    run_case = configuration.preprocessor_class(verbose=False).run_case
    data, seg, properties = run_case(images, None, manager, configuration, DATASET)
    data_folder = folders.preprocessed / "Tiny_3d"
    data_folder.mkdir()
    nnUNetDatasetBlosc2.save_case(data, seg, properties, str(data_folder / "a"))

    assert main(["anatomy", "-d", NAME, "-p", "P", "--masks", str(folders.masks)]) == 0

    host_map = folders.raw / "anatomyTr" / "a.nii.gz"
    expected = run_case(images, str(host_map), manager, configuration, DATASET)
    found = nnUNetDatasetBlosc2(str(data_folder), ["a"], str(data_folder) + "_anatomy").load_case("a")[2]
    np.testing.assert_array_equal(np.asarray(found), np.maximum(expected[1][0], 0))
    np.testing.assert_array_equal(expected[0], data)  # the image is not changed by the map
    assert {1, 2} <= set(np.unique(np.asarray(found)).tolist())


def test_plans_without_the_anatomy_stage_are_refused_before_any_map(folders, capsys):
    from nnunetv2_mastpro.cli import main

    save(folders.raw / "imagesTr" / "a_0000.nii.gz", np.ones(SHAPE, np.float32), np.eye(4))
    save(folders.raw / "labelsTr" / "a.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    for organ in ("liver", "kidney_left"):
        save(folders.masks / "a" / f"{organ}.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    content = plans("SimpleITKIO", [0, 1, 2], False)
    del content["configurations"]["3d"]["previous_stage"]
    (folders.preprocessed / "P.json").write_text(json.dumps(content))
    assert main(["anatomy", "-d", NAME, "-p", "P", "--masks", str(folders.masks)]) == 2
    assert "asks for no organ masks" in capsys.readouterr().err
    assert not (folders.raw / "anatomyTr").exists()


def test_a_preprocessed_case_without_image_is_refused_before_any_map(folders, capsys):
    from nnunetv2_mastpro.cli import main

    save(folders.raw / "imagesTr" / "a_0000.nii.gz", np.ones(SHAPE, np.float32), np.eye(4))
    save(folders.raw / "labelsTr" / "a.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    for organ in ("liver", "kidney_left"):
        save(folders.masks / "a" / f"{organ}.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    (folders.preprocessed / "P.json").write_text(json.dumps(plans("SimpleITKIO", [0, 1, 2], False)))
    (folders.preprocessed / "Tiny_3d").mkdir()
    (folders.preprocessed / "Tiny_3d" / "gone.pkl").touch()
    assert main(["anatomy", "-d", NAME, "-p", "P", "--masks", str(folders.masks)]) == 2
    assert "holds gone, of which" in capsys.readouterr().err
    for name in ("gone.pkl", "a.b2nd"):
        (folders.preprocessed / "Tiny_3d" / name).rename(folders.preprocessed / "Tiny_3d" / "a.b2nd")
        assert main(["anatomy", "-d", NAME, "-p", "P", "--masks", str(folders.masks)]) == 2
        assert "has a in part, as where preprocessing was interrupted" in capsys.readouterr().err
    assert not (folders.raw / "anatomyTr").exists()

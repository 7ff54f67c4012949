"""A real CT, 122 x 101 x 30 voxels of 3 mm, with TotalSegmentator's own masks."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import binary_dilation, binary_erosion
from totalsegmentator.map_to_binary import class_map

from nnunetv2_mastpro.anatomy.preprocessed import preprocess_map
from nnunetv2_mastpro.cli import main

NAME = "Dataset654_Real"
LUNG = ["upper_lobe_left", "lower_lobe_left", "upper_lobe_right", "middle_lobe_right", "lower_lobe_right"]
ORGANS = {  # tumour type -> structures of TotalSegmentator
    "liver_tumor": ["liver"],
    "kidney_tumor": ["kidney_right", "kidney_left"],
    "lung_tumor": [f"lung_{lobe}" for lobe in LUNG],
    "pancreas_tumor": ["pancreas"],
    "colon_tumor": ["colon"],
}
NUMBER = {name: number for number, name in class_map["total"].items()}
DATASET_JSON = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, **{label: value for value, label in enumerate(ORGANS, 1)}},
    "numTraining": 0,
    "file_ending": ".nii.gz",
}


@pytest.fixture(scope="module")
def multilabel(real_scan):
    return sitk.ReadImage(real_scan / "total_multilabel.nii.gz")


@pytest.fixture(scope="module")
def organs(multilabel):
    """label -> bool (Z, Y, X), straight from the file."""
    values = sitk.GetArrayFromImage(multilabel)
    return {label: np.isin(values, [NUMBER[name] for name in names]) for label, names in ORGANS.items()}


def masks_as_single_files(multilabel, folder):
    (folder / "scan").mkdir()
    for name in (name for names in ORGANS.values() for name in names):
        sitk.WriteImage(multilabel == NUMBER[name], str(folder / "scan" / f"{name}.nii.gz"))


@pytest.fixture
def make_map(real_scan, workspace, multilabel, tmp_path, monkeypatch):
    """`make_map(kind)`: runs the command on masks of this kind; the map as an image."""

    def make(kind):
        for name, value in workspace.env.items():
            monkeypatch.setenv(name, value)
        for folder in (workspace.raw / NAME, tmp_path / "images", tmp_path / "masks"):
            folder.mkdir()
        (workspace.raw / NAME / "dataset.json").write_text(json.dumps(DATASET_JSON))
        shutil.copy(real_scan / "ct.nii.gz", tmp_path / "images" / "scan_0000.nii.gz")
        if kind == "as given":
            shutil.copy(real_scan / "total_multilabel.nii.gz", tmp_path / "masks" / "scan.nii.gz")
        elif kind == "without extended header":
            sitk.WriteImage(multilabel, str(tmp_path / "masks" / "scan.nii.gz"))
        else:
            masks_as_single_files(multilabel, tmp_path / "masks")
        paths = {"-i": tmp_path / "images", "-o": tmp_path / "maps", "--masks": tmp_path / "masks"}
        assert main(["anatomy", "-d", NAME, *(str(part) for pair in paths.items() for part in pair)]) == 0
        return sitk.ReadImage(tmp_path / "maps" / "scan.nii.gz")

    return make


@pytest.mark.parametrize("kind", ["as given", "without extended header", "single files"])
def test_the_map_holds_the_organs_exactly(make_map, organs, real_scan, kind):
    made = make_map(kind)
    values = sitk.GetArrayFromImage(made)
    for value, (label, organ) in enumerate(organs.items(), 1):
        assert organ.any(), label
        np.testing.assert_array_equal(values == value, organ)
    np.testing.assert_array_equal(values > 0, np.logical_or.reduce([*organs.values()]))
    image = sitk.ReadImage(real_scan / "ct.nii.gz")
    np.testing.assert_allclose(made.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(made.GetDirection(), image.GetDirection(), atol=1e-3)


def plans(spacing_mm):
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": spacing_mm,
        "normalization_schemes": ["NoNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
    }
    content = {
        "plans_name": "Plans",
        "dataset_name": NAME,
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "image_reader_writer": "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"used": configuration},
    }
    manager = PlansManager(content)
    return manager, manager.get_configuration("used")


@pytest.mark.parametrize("spacing_mm", [[2.0, 2.0, 2.0], [3.5, 2.5, 1.7], [4.0, 4.0, 4.0]])
def test_volumes_survive_preprocessing_but_for_the_surface(organs, real_scan, spacing_mm):
    """To another spacing and back as nnU-Net's export goes: each voxel that differs touches the organ's surface."""
    manager, configuration = plans(spacing_mm)
    image = str(real_scan / "ct.nii.gz")
    data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
        [image], None, manager, configuration, DATASET_JSON
    )
    values = sum(value * organ.astype(np.uint8) for value, organ in enumerate(organs.values(), 1))
    there = preprocess_map(values, properties, data.shape[1:], manager, configuration)
    assert there.shape != properties["shape_after_cropping_and_before_resampling"]
    inside = configuration.resampling_fn_seg(
        there[None], properties["shape_after_cropping_and_before_resampling"], spacing_mm, [3.0, 3.0, 3.0]
    )[0]
    back = np.zeros(properties["shape_before_cropping"], np.int8)
    back[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])] = inside
    back = back.transpose(manager.transpose_backward)
    layer = np.ones((3, 3, 3), bool)
    for value, (label, organ) in enumerate(organs.items(), 1):
        inner = binary_erosion(organ, layer, border_value=1)
        outer = binary_dilation(organ, layer)
        found = back == value
        np.testing.assert_array_equal(found & inner, inner, err_msg=label)
        assert found.any(), label
        assert not (found & ~outer).any(), label
        assert abs(int(found.sum()) - int(organ.sum())) <= int((organ & ~inner).sum()), label

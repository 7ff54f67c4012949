"""TotalSegmentator's own output for a real CT becomes host-organ maps, on the CT and in the training geometry."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, binary_erosion

NAME = "Dataset902_Organs"
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {
        "background": 0,
        "liver_tumor": 1,
        "kidney_tumor": 2,
        "lung_tumor": 3,
        "pancreas_tumor": 4,
        "colon_tumor": 5,
    },
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
NUMBERS = {1: [5], 2: [2, 3], 3: [10, 11, 12, 13, 14], 4: [7], 5: [20]}  # value -> numbers of the task "total"
VOXEL_ML = 0.027


@pytest.fixture(scope="module")
def real():
    data = os.environ.get("MASTPRO_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(data).resolve() / "totalsegmentator"
    if not (folder / "ct.nii.gz").is_file():
        pytest.skip(f"no real CT in {folder}; MASTPRO_TEST_DATA names the folder that has it")
    return folder


@pytest.fixture
def folders(real, tmp_path, monkeypatch):
    """A data set of the CT, not copied."""
    for kind in ("raw", "preprocessed"):
        (tmp_path / kind / NAME / "imagesTr").mkdir(parents=True)
        (tmp_path / kind / NAME / "labelsTr").mkdir()
        (tmp_path / kind / NAME / "dataset.json").write_text(json.dumps(DATASET))
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    (tmp_path / "raw" / NAME / "imagesTr" / "ct_0000.nii.gz").symlink_to(real / "ct.nii.gz")
    (tmp_path / "raw" / NAME / "labelsTr" / "ct.nii.gz").symlink_to(real / "total_multilabel.nii.gz")
    return tmp_path


@pytest.fixture
def organs(real):
    """(Z, Y, X) as nibabel reads the multi-label file; SimpleITK is not asked."""
    return np.asarray(nibabel.load(real / "total_multilabel.nii.gz").dataobj).transpose()


@pytest.fixture(params=["multi-label", "binary"])
def masks(request, folders, real, organs):
    folder = folders / "masks"
    folder.mkdir()
    if request.param == "multi-label":
        (folder / "ct.nii.gz").symlink_to(real / "total_multilabel.nii.gz")
        return folder
    from totalsegmentator.map_to_binary import class_map

    (folder / "ct").mkdir()
    affine = nibabel.load(real / "total_multilabel.nii.gz").affine
    for number in np.unique(organs[organs > 0]).tolist():  # as TotalSegmentator without --ml
        values = (organs == number).astype(np.uint8).transpose()
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / "ct" / f"{class_map['total'][number]}.nii.gz")
    return folder


def expected_map(organs):
    return sum(value * np.isin(organs, numbers) for value, numbers in NUMBERS.items())


def test_maps_for_prediction_hold_the_organs_exactly(real, folders, masks, organs, capsys):
    from nnunetv2_mastpro.cli import main

    images, maps = folders / "raw" / NAME / "imagesTr", folders / "maps"
    assert main(["anatomy", "-d", NAME, "-i", str(images), "-o", str(maps), "--masks", str(masks)]) == 0
    assert [path.name for path in maps.iterdir()] == ["ct.nii.gz"]
    found, image = sitk.ReadImage(maps / "ct.nii.gz"), sitk.ReadImage(real / "ct.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected_map(organs))
    np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(found.GetDirection(), image.GetDirection(), atol=1e-6)
    table = capsys.readouterr().out
    for numbers in NUMBERS.values():
        assert f"{np.isin(organs, numbers).sum() * VOXEL_ML:.1f}" in table


@pytest.mark.parametrize("spacing_mm", [[3.0, 3.0, 3.0], [4.5, 4.0, 4.0], [5.0, 2.5, 2.5], [2.0, 2.0, 2.0]])
def test_volumes_survive_preprocessing_within_a_layer_of_voxels(folders, masks, organs, spacing_mm):
    """There and back by nnU-Net's own resampling, no organ leaves its outline by more than a layer of voxels."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_mastpro.cli import main

    content = plans(spacing_mm)
    (folders / "preprocessed" / NAME / "P.json").write_text(json.dumps(content))
    manager = PlansManager(content)
    configuration = manager.get_configuration("3d")
    data_folder = folders / "preprocessed" / NAME / "data"
    data_folder.mkdir()
    image = folders / "raw" / NAME / "imagesTr" / "ct_0000.nii.gz"
    run_case = configuration.preprocessor_class(verbose=False).run_case
    data, seg, properties = run_case([str(image)], None, manager, configuration, DATASET)
    with pytest.warns(UserWarning, match="empty chunks"):  # of nnU-Net's, told no patch size
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(data_folder / "ct"))

    assert main(["anatomy", "-d", NAME, "-p", "P", "--masks", str(masks)]) == 0

    made = nnUNetDatasetBlosc2(str(data_folder), ["ct"], f"{data_folder}_anatomy").load_case("ct")[2]
    assert made.shape == data.shape[1:]
    spacings = (spacing_mm, properties["spacing"])
    back = configuration.resampling_fn_seg(
        np.asarray(made)[None].astype(np.int16), properties["shape_after_cropping_and_before_resampling"], *spacings
    )[0]
    box = tuple(slice(*edges) for edges in properties["bbox_used_for_cropping"])
    voxel_mm3, original = np.prod(properties["spacing"]) * np.prod(back.shape) / np.prod(made.shape), organs[box]
    layer = np.ones([2 * int(np.ceil(new / old)) + 1 for new, old in zip(*spacings, strict=True)])
    for value, numbers in NUMBERS.items():
        organ = np.isin(original, numbers)
        outer, inner = binary_dilation(organ, layer), binary_erosion(organ, layer)
        assert not ((back == value) & ~outer).any()
        assert not (inner & (back != value)).any()
        volume_mm3 = (np.asarray(made) == value).sum() * voxel_mm3
        low, high = (mask.sum() * np.prod(properties["spacing"]) for mask in (inner, outer))
        assert low <= volume_mm3 <= high
        if spacing_mm == [3.0, 3.0, 3.0]:
            np.testing.assert_array_equal(back == value, organ)


def plans(spacing_mm):
    kwargs = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "data",
        "preprocessor_name": "DefaultPreprocessor",
        "previous_stage": "anatomy",
        "spacing": spacing_mm,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 1, **kwargs},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **kwargs},
        "architecture": {},
    }
    intensities = {"mean": 0.0, "std": 300.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    return {
        "dataset_name": NAME,
        "plans_name": "P",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {"3d": configuration},
    }

"""Plans as nnU-Net 2.8.1 makes them for one CT channel, cascade included, small; and the folders they lie in."""

import json

import pytest

NAME = "Dataset777_Test"
CONTENT = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver_tumor": 1, "kidney_tumor": 2, "thing": 3},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


def configuration(identifier, spacing):
    kwargs = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "batch_dice": True,
        "patch_size": [64, 64, 64],
        "spacing": spacing,
        "median_image_size_in_voxels": [100.0, 120.0, 90.0],
        "normalization_schemes": ["CTNormalization"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


@pytest.fixture
def plans():
    return {
        "dataset_name": NAME,
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": configuration("nnUNetPlans_2d", [1.0, 1.0]),
            "3d_lowres": configuration("nnUNetPlans_3d_lowres", [3.0, 2.0, 2.0]) | {"next_stage": "3d_cascade_fullres"},
            "3d_fullres": configuration("nnUNetPlans_3d_fullres", [1.5, 1.0, 1.0]),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            "3d_fullres_bs4": {"inherits_from": "3d_fullres", "batch_size": 4},
            "cascade_bs4": {"inherits_from": "3d_cascade_fullres", "batch_size": 4},
        },
    }


@pytest.fixture
def write_dataset(tmp_path, monkeypatch, plans):
    """`write_dataset(content)`: the data set's raw and preprocessed folders with plans; gives the latter."""

    def write(content=CONTENT):
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(name, str(tmp_path / name))
            folder = tmp_path / name / NAME
            folder.mkdir(parents=True)
            if name != "nnUNet_results":
                (folder / "dataset.json").write_text(json.dumps(content))
        folder = tmp_path / "nnUNet_preprocessed" / NAME
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        return folder

    return write

"""Overlays over nnU-Net's plans."""

import copy
import json
import re

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.overlay import apply_overlay, known_overlays, load_overlay, write_plans

UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESENC = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def make_plans(network=UNET):
    kwargs = {
        "n_stages": 3,
        "features_per_stage": [32, 64, 128],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    if network == RESENC:
        kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    return {
        "dataset_name": "Dataset001_X",
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": {"data_identifier": "nnUNetPlans_2d", "batch_size": 9},
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "batch_size": 2,
                "patch_size": [64, 64, 64],
                "spacing": [1.5, 1.0, 1.0],
                "median_image_size_in_voxels": [100.0, 120.0, 90.0],
                "batch_dice": True,
                "normalization_schemes": ["CTNormalization"],
                "architecture": {
                    "network_class_name": network,
                    "arch_kwargs": kwargs,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            },
        },
    }


def fullres(**values):
    return {"configurations": {"3d_fullres": values}}


def test_objects_are_merged_and_the_rest_is_replaced():
    plans = make_plans()
    before = copy.deepcopy(plans)
    merged = apply_overlay(plans, fullres(patch_size=[32, 32, 32], architecture={"arch_kwargs": {"conv_bias": False}}))
    expected = copy.deepcopy(before)
    expected["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
    expected["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["conv_bias"] = False
    assert merged == expected
    assert plans == before


def test_data_identifier_changes_with_the_spacing_only():
    plans = {**make_plans(), "plans_name": "mine"}
    same = apply_overlay(plans, fullres(spacing=[1.5, 1.0, 1.0], batch_size=4))
    assert same["configurations"]["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"
    other = apply_overlay(plans, fullres(spacing=[3.0, 3.0, 3.0]))["configurations"]
    assert re.fullmatch("mine_3d_fullres_[0-9a-f]{8}", other["3d_fullres"]["data_identifier"])
    assert other["3d_fullres"]["median_image_size_in_voxels"] == [50.0, 40.0, 30.0]
    assert other["2d"]["data_identifier"] == "nnUNetPlans_2d"


def test_another_network_class_replaces_its_arguments():
    small = load_overlay("demo")["configurations"]["3d_fullres"]
    merged = apply_overlay(make_plans(RESENC), {"configurations": {"3d_fullres": small}})
    assert merged["configurations"]["3d_fullres"]["architecture"] == small["architecture"]


@pytest.mark.parametrize(
    ("overlay", "match"),
    [
        (fullres(patch_sise=[1, 1, 1]), r"3d_fullres\.patch_sise.*did you mean 'patch_size'"),
        ({"configurations": {"3d_fulres": {}}}, "did you mean '3d_fullres'"),
        (fullres(architecture={"arch_kwargs": {"n_stage": 3}}), "did you mean 'n_stages'"),
        (fullres(patch_size=[30, 32, 32]), r"\[30, 32, 32\] is not divisible.*\[4, 4, 4\].*3d_fullres"),
        (fullres(patch_size=[4, 4, 4]), "one voxel at the bottleneck"),
        (fullres(patch_size=[32, 32]), "differ in their number of axes"),
        (fullres(architecture={"arch_kwargs": {"n_stages": 4}}), "features_per_stage.*3 entries for n_stages=4"),
        ({"mastpro": {"netwrk": {}}}, "unknown key mastpro.netwrk"),
    ],
)
def test_what_plans_or_network_refuse_is_an_error(overlay, match):
    with pytest.raises(MASTProError, match=match):
        apply_overlay(make_plans(), overlay)


def test_our_own_block_is_merged():
    merged = apply_overlay(make_plans(), {"mastpro": {"network": {"rank": 4}}})
    assert merged["mastpro"] == {"network": {"rank": 4}}


def test_our_own_block_is_merged_by_section():
    plans = make_plans() | {"mastpro": {"network": {"rank": 2, "top_k_generic": 1}, "training": {"learning_rate": 0.1}}}
    merged = apply_overlay(plans, {"mastpro": {"network": {"rank": 4}}})
    expected = {"network": {"rank": 4, "top_k_generic": 1}, "training": {"learning_rate": 0.1}}
    assert merged["mastpro"] == expected


def test_plans_are_written_under_their_own_name(tmp_path):
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(make_plans()))
    path = write_plans(tmp_path, "nnUNetPlans", "sts_small", "small")
    written = json.loads(path.read_text())
    assert path == tmp_path / "small.json"
    assert written["plans_name"] == "small"
    configuration = written["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [3.0, 3.0, 3.0]
    assert configuration["patch_size"] == [48, 48, 48]
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [12, 24, 48, 96]
    assert configuration["data_identifier"].startswith("small_3d_fullres_")
    assert "description" not in written
    assert json.loads((tmp_path / "nnUNetPlans.json").read_text()) == make_plans()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("nnUNetPlans", "tiny", "new"), "no plans overlay is called 'tiny'; known: demo, demo_patches, demo_swin"),
        (("absent", "demo", "new"), "absent.json does not exist; run nnUNetv2_plan_and_preprocess"),
        (("nnUNetPlans", "demo", "nnUNetPlans"), "give another name"),
    ],
)
def test_writing_refuses(tmp_path, arguments, match):
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(make_plans()))
    with pytest.raises(MASTProError, match=match):
        write_plans(tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["nnUNetPlans.json"]


def test_interrupted_writing_leaves_no_half_file(tmp_path, monkeypatch):
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(make_plans()))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunetv2_mastpro.files.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_plans(tmp_path, "nnUNetPlans", "demo", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["nnUNetPlans.json"]


@pytest.mark.parametrize("name", known_overlays())
def test_shipped_overlays_build_with_nnunet(name):
    """Through nnU-Net's own plans reader and network builder."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    merged = apply_overlay({**make_plans(), "image_reader_writer": "SimpleITKIO"}, load_overlay(name))
    configuration = PlansManager(merged).get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        4,
        deep_supervision=False,
    )
    kwargs = configuration.network_arch_init_kwargs
    if "swin" in name:
        assert network.out.conv.conv.in_channels == kwargs["feature_size"]
    else:
        assert list(network.encoder.output_channels) == kwargs["features_per_stage"]


def test_swinunetr_is_the_papers_set_up():
    """Sec. 3.1 and 3.2."""
    merged = apply_overlay({**make_plans(), "image_reader_writer": "SimpleITKIO"}, load_overlay("swinunetr"))
    configuration, training = merged["configurations"]["3d_fullres"], merged["mastpro"]["training"]
    assert merged["image_reader_writer"] == "SimpleITKIOWithReorient"
    assert (configuration["spacing"], configuration["patch_size"]) == ([1.5] * 3, [96] * 3)
    assert (configuration["batch_size"], configuration["architecture"]["arch_kwargs"]["feature_size"]) == (4, 48)
    assert (training["learning_rate"], training["peft_learning_rate"]) == (5e-5, 5e-5)
    assert (training["foreground_share"], training["augmentation"]) == (0.5, "both")


def test_another_reader_means_other_preprocessed_data():
    plans = {**make_plans(), "image_reader_writer": "SimpleITKIO", "plans_name": "mine"}
    merged = apply_overlay(plans, {"image_reader_writer": "SimpleITKIOWithReorient"})
    before, after = (made["configurations"]["3d_fullres"]["data_identifier"] for made in (plans, merged))
    assert before == "nnUNetPlans_3d_fullres"
    assert after.startswith("mine_3d_fullres_")
    same = apply_overlay(plans, {"image_reader_writer": "SimpleITKIO"})
    assert same["configurations"]["3d_fullres"]["data_identifier"] == before


def test_plans_that_are_overwritten_do_not_find_the_data_of_the_old_ones(tmp_path):
    """nnU-Net would train on them without a word."""
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps({**make_plans(), "image_reader_writer": "SimpleITKIO"}))

    def identifier(overlay):
        path = write_plans(tmp_path, "nnUNetPlans", overlay, "mine", overwrite=True)
        return json.loads(path.read_text())["configurations"]["3d_fullres"]["data_identifier"]

    first = identifier("sts_small")
    assert identifier("swinunetr_small") != first
    assert identifier("sts_small") == first  # whose data are still there

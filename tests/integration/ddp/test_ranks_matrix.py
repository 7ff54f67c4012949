"""Several ranks in other ways of training: organ masks, added types, compiled, half precision, controls, SwinUNETR."""

import json

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.anatomy.preprocessed import write_training_maps
from nnunetv2_mastpro.training.setup import resolve

from .conftest import (
    LONGER,
    ONE_TYPE_EACH,
    PARTIAL,
    SECOND,
    SWIN,
    WHOLE,
    assert_alike,
    assert_same_loss_and_gradients,
    compared,
    what,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def maps(lab, plan, case_names):
    """Plans with organ masks, which are the labels."""
    name = plan("Maps", configuration={"previous_stage": "anatomy"}, training=dict.fromkeys(ONE_TYPE_EACH, 0.5))
    folder = lab.workspace.preprocessed / PARTIAL
    plans, content = (json.loads((folder / file).read_text()) for file in (f"{name}.json", "dataset.json"))
    manager = PlansManager(plans)
    write_training_maps(
        folder / "nnUNetPlans_2d",
        manager,
        manager.get_configuration("2d"),
        resolve(plans, content)[0].resolved.hosts,
        {case: folder / "gt_segmentations" / f"{case}.nii.gz" for case in case_names},
    )
    return name


@pytest.fixture(scope="module")
def matrix(on_ranks, plan, case_names, fold, maps):
    train, checkpoint = case_names[:-2], "checkpoint_final.pth"
    each = [[train[0], train[3]], [train[1], train[4]]]
    added = {"added": ["posterior"]}
    plan("Base", prompts=added, training=ONE_TYPE_EACH)
    plan("Added", prompts=added, training={**ONE_TYPE_EACH, "new_types": ["posterior"]})
    plan("Shares", prompts=added, training={**ONE_TYPE_EACH, "new_types": ["posterior"]})
    plan("Token", network={"routing": "token", "router": "joint"}, training=ONE_TYPE_EACH)
    plan("Three", batch_size=2)
    plan("Apart", configuration={"batch_dice": False}, training=ONE_TYPE_EACH)
    for batch_dice in (True, False):
        plan(f"Whole{batch_dice}", WHOLE, configuration={"batch_dice": batch_dice}, training=ONE_TYPE_EACH)
    with_maps = {"what": what(maps, LONGER), "cases": each}
    token = {"cases": each, "epochs": 1}
    from_base = {"pretrained": str(fold("Base") / checkpoint)}
    from_token = {**token, "pretrained": str(fold("Token") / checkpoint)}
    four = [train[0], train[1], train[2], train[5]]
    return on_ranks(
        [
            {"name": "maps", "what": what(maps), "cases": each},
            {"name": "maps_peft", **with_maps, "epochs": 1, "pretrained": str(fold(maps) / checkpoint)},
            {"name": "maps_peft_continued", **with_maps, "epochs": 2, "c": True},
            {"name": "base", "what": what("Base"), "cases": each},
            {"name": "base_continued", "what": what("Base"), "epochs": 2, "c": True, "cases": each},
            {"name": "added", "what": what("Added"), "cases": each, **from_base},
            {"name": "added_continued", "what": what("Added"), "epochs": 2, "c": True, "cases": each},
            {"name": "token", "what": what("Token"), "cases": each},
            {"name": "bfloat16", "what": what("Token", LONGER), **token, "bfloat16": True},
            {"name": "compiled", "what": what("Token", SECOND), **token, "compile": "aot_eager"},
            {"name": "compiled_peft", "what": what("Token", SECOND), **from_token, "compile": "aot_eager"},
            {"name": "control", "what": what("Small", "nnUNetTrainerStockPartial_1epoch"), "cases": each},
            {"name": "universal", "what": what("Small", "nnUNetTrainerUniversal_1epoch"), "cases": each},
            {"name": "three", "what": what("Three", configuration="3d_fullres"), "cases": each},
            *compared("sample_dice", "Apart", four),
            *compared("whole_batch_dice", "WholeTrue", four, dataset=WHOLE),
            *compared("whole_sample_dice", "WholeFalse", four, dataset=WHOLE),
            *[{**job, **from_base} for job in compared("added_shares", "Shares", four)],
        ]
    )


MATRIX = ["maps", "maps_peft", "maps_peft_continued", "base", "base_continued", "added", "added_continued", "token"]
MATRIX += ["bfloat16", "compiled", "compiled_peft", "control", "universal", "three"]


@pytest.mark.parametrize("name", MATRIX)
def test_ranks_end_alike_in_other_ways_of_training(matrix, name):
    assert_alike(matrix[name])


def test_the_universal_models_sentences_are_not_sent(matrix):
    assert [rank["sends_buffers"] for rank in matrix["universal"]] == [False, False]


@pytest.mark.parametrize("name", ["whole_batch_dice", "whole_sample_dice"])
def test_nnunets_own_loss_does_the_same(matrix, name):
    """Everything is annotated, so the loss is stock nnU-Net's: its gradients have the same scale."""
    assert_same_loss_and_gradients(matrix[f"{name}_alone"], matrix[name])


def test_two_ranks_of_two_are_one_of_four_without_batch_dice(matrix):
    """Where samples annotate one class or two."""
    assert_same_loss_and_gradients(matrix["sample_dice_alone"], matrix["sample_dice"])


def test_new_types_alone_are_trained_on_every_rank(matrix):
    for name in ("added", "added_continued"):
        for rank in matrix[name]:
            own = [name for name in rank["trained"] if not name.startswith("added_updates.0.")]
            assert all(name.endswith((".specific.1", ".down.2", ".up.2", "offsets.0")) for name in own)
            assert "offsets.0" in own
            assert len(own) < len(rank["trained"])


def test_new_types_are_learnt_on_two_ranks_as_on_one(matrix):
    """Of the voxels of all samples, though samples differ in what is new."""
    assert_same_loss_and_gradients(matrix["added_shares_alone"], matrix["added_shares"])


def test_compiled_or_in_half_precision_it_is_the_same_training(matrix):
    for plain, compiled, halved in zip(matrix["token"], matrix["compiled"], matrix["bfloat16"], strict=True):
        assert plain["loss"] == pytest.approx(compiled["loss"], rel=1e-4)
        assert plain["loss"] == pytest.approx(halved["loss"], rel=0.05)


def test_swinunetr(on_ranks, plan, case_names, fold):
    """From scratch, PEFT, and four samples in one process as in two; with checkpointed blocks: minutes on 2 cores."""
    configuration = {"architecture": SWIN, "patch_size": [64, 64, 64], "batch_dice": False}
    plan("Swin", batch_size=2, configuration=configuration, training=ONE_TYPE_EACH)
    plan("SwinFour", configuration=configuration, training=ONE_TYPE_EACH)
    shared = {"cases": [[case_names[0]], [case_names[1]]], "epochs": 1}
    three = {"configuration": "3d_fullres"}
    checkpoint = str(fold("Swin", **three) / "checkpoint_final.pth")
    jobs = [
        {"name": "scratch", "what": what("Swin", **three), **shared},
        {"name": "peft", "what": what("Swin", LONGER, **three), **shared, "pretrained": checkpoint},
        *compared("four", "SwinFour", [*case_names[:3], case_names[5]], **three),
    ]
    found = on_ranks(jobs)
    assert_same_loss_and_gradients(found.pop("four_alone"), found["four"], rounding=5e-3)  # through twenty layers
    for ranks in found.values():
        assert_alike(ranks)

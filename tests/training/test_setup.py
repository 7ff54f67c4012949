"""What is settled, and refused, before a training starts."""

import json
import warnings

import pytest
from torch.testing import assert_close

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.encoder import embed
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.training.setup import check_patch, check_same_classes, check_same_run, resolve

REGIONS = {"background": 0, "liver": [1, 2], "liver_tumor": 2}


def test_resolve_describes_every_class(plans, dataset_json):
    config, embeddings = resolve(plans, dataset_json)
    prompts = resolve_prompts(dataset_json, plans["dataset_name"])
    assert [entry.label for entry in config.resolved.classes] == ["liver", "liver_tumor", "kidney_tumor"]
    assert [entry.is_tumor for entry in config.resolved.classes] == [False, True, True]
    assert [(e.label, e.sentence, e.is_tumor, e.host_structures) for e in config.resolved.classes] == [
        (p.label, p.sentence, p.is_tumor, p.host_structures) for p in prompts
    ]
    assert config.resolved.has_background
    assert config.resolved.embedding_dim == 384
    assert_close(embeddings.vectors, embed([prompt.sentence for prompt in prompts]).vectors, rtol=0, atol=0)
    assert embeddings.origins == ("shipped",) * 3


@pytest.mark.parametrize(("labels", "has_background"), [(REGIONS, False), ({"background": 0, "liver": [1]}, True)])
def test_regions_have_no_background(plans, dataset_json, labels, has_background):
    dataset_json["labels"] = labels
    assert resolve(plans, dataset_json)[0].resolved.has_background == has_background


def test_resolve_keeps_the_users_values_and_writes_resolved_anew(plans, dataset_json):
    plans["mastpro"] |= {"training": {"balance_weight": 0.5}, "resolved": {"stale": True}}
    config, _ = resolve(plans, dataset_json)
    assert config.network.rank == plans["mastpro"]["network"]["rank"]
    assert config.training.balance_weight == 0.5
    assert len(config.resolved.classes) == 3


def test_the_block_survives_json(plans, dataset_json):
    config, _ = resolve(plans, dataset_json)
    assert MASTProConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"top_k_generic": 4}, "top_k_generic=4 keeps all 4 generic experts; lower mastpro.network.top_k_generic"),
        ({"specific_experts": 1, "top_k_specific": 1, "labels": 1}, "top_k_specific=1 keeps all 1 specific experts"),
    ],
)
def test_dense_routing_warns(plans, dataset_json, network, said):
    if network.pop("labels", None):
        del dataset_json["labels"]["kidney_tumor"]
    plans["mastpro"]["network"] |= network
    with pytest.warns(UserWarning, match=f"routing is dense: {said}"):
        resolve(plans, dataset_json)


@pytest.mark.parametrize("labels", [{"background": 0, "liver": 1}, {"background": 0, "liver": 1, "liver_tumor": 2}])
def test_sparse_routing_does_not_warn(plans, dataset_json, labels):
    dataset_json["labels"] = labels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve(plans, dataset_json)


def configuration(patch_size, strides):
    return {"patch_size": patch_size, "architecture": {"arch_kwargs": {"strides": strides}}}


@pytest.mark.parametrize(
    ("patch_size", "strides", "said"),
    [
        ([16, 18], [[1, 1], [2, 2], [2, 2]], r"\[16, 18\] is not divisible .* \[4, 4\] in axis 1; make it a multiple"),
        ([9, 16, 16], [[1, 1, 1], [2, 2, 2]], r"\[9, 16, 16\] is not divisible .* in axis 0; make it a multiple"),
        ([4, 4], [[1, 1], [2, 2], [2, 2]], r"\[4, 4\] leaves one voxel at the bottleneck .*; double one axis"),
    ],
)
def test_patch_that_the_network_refuses(patch_size, strides, said):
    with pytest.raises(MASTProError, match=f"^patch_size {said}.* in the plans$"):
        check_patch(configuration(patch_size, strides))


@pytest.mark.parametrize("patch_size", [[8, 4], [16, 20]])
def test_patch_that_it_takes(patch_size):
    check_patch(configuration(patch_size, [[1, 1], [2, 2], [2, 2]]))


@pytest.fixture
def run_folder(tmp_path, plans, dataset_json):
    """Results of a run of these plans, and its block."""
    block = resolve(plans, dataset_json)[0].to_dict()
    fold = tmp_path / "fold_0"
    fold.mkdir()
    (fold / "checkpoint_best.pth").touch()
    (tmp_path / "plans.json").write_text(json.dumps({"mastpro": block}))
    return tmp_path, block


def test_the_same_run_may_go_on(run_folder):
    folder, block = run_folder
    check_same_run(str(folder), block)


@pytest.mark.parametrize("changed", [["network"], ["training", "resolved"]])
def test_another_run_is_refused(run_folder, changed):
    folder, block = run_folder
    other = {**block, **{key: {"other": 1} for key in changed}}
    with pytest.raises(
        MASTProError, match=f"{folder} holds a run whose mastpro block differs in {', '.join(changed)};"
    ):
        check_same_run(str(folder), other)


def test_a_run_without_a_block_is_refused(run_folder):
    folder, block = run_folder
    (folder / "plans.json").write_text("{}")
    with pytest.raises(MASTProError, match="move its folder away to train anew"):
        check_same_run(str(folder), block)


@pytest.mark.parametrize("missing", ["plans.json", "fold_0/checkpoint_best.pth"])
def test_a_folder_without_a_run_is_free(run_folder, missing):
    folder, block = run_folder
    (folder / missing).unlink()
    check_same_run(str(folder), {**block, "network": {}})


def checkpoint_of(*labels):
    return {"init_args": {"plans": {"mastpro": {"resolved": {"classes": [{"label": label} for label in labels]}}}}}


def resolved_of(*labels):
    return checkpoint_of(*labels)["init_args"]["plans"]["mastpro"]["resolved"]


def test_the_same_classes():
    check_same_classes(checkpoint_of("liver", "lung"), resolved_of("liver", "lung"), "x.pth")


@pytest.mark.parametrize("theirs", [("lung", "liver"), ("liver",), ("liver", "lung", "colon"), ("liver", "lungs")])
def test_other_classes_are_refused(theirs):
    said = rf"x.pth has the classes {', '.join(theirs)}, the data set liver, lung; use the checkpoint with its own"
    with pytest.raises(MASTProError, match=said):
        check_same_classes(checkpoint_of(*theirs), resolved_of("liver", "lung"), "x.pth")


@pytest.mark.parametrize("plans_of_another_trainer", [{}, {"mastpro": {}}])
def test_a_stock_checkpoint_is_refused(plans_of_another_trainer):
    with pytest.raises(MASTProError, match="x.pth is not a MAST-Pro checkpoint; train with -tr nnUNetTrainerMASTPro"):
        check_same_classes({"init_args": {"plans": plans_of_another_trainer}}, resolved_of("liver"), "x.pth")

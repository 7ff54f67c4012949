"""What is settled, and refused, before a training starts."""

import copy
import json
import warnings

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import MASTProConfig, NetworkConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.encoder import embed
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.training.setup import (
    check_network,
    check_same_classes,
    check_same_embeddings,
    check_same_run,
    find_changed_prompts,
    resolve,
)

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


@pytest.mark.parametrize(("top_k", "specific"), [(5, 2), (1, 0)])
def test_more_experts_kept_than_the_types_have(plans, dataset_json, top_k, specific):
    """Two types: k_t runs over the experts of all."""
    plans["mastpro"]["network"] |= {"top_k_specific": top_k, "specific_experts": specific}
    said = f"top_k_specific={top_k} exceeds the {2 * specific} experts of 2 tumour types; lower mastpro.network.top_k_s"
    with pytest.raises(MASTProError, match=said):
        resolve(plans, dataset_json)


def test_as_many_experts_kept_as_the_types_have_but_one(plans, dataset_json):
    plans["mastpro"]["network"] |= {"top_k_specific": 3, "specific_experts": 2}
    assert resolve(plans, dataset_json)[0].network.top_k_specific == 3


@pytest.mark.parametrize("block", [[], None, "x", 3])
def test_a_block_that_is_no_object(plans, dataset_json, block):
    with pytest.raises(MASTProError, match="mastpro in the plans is .*, not a JSON object"):
        resolve({**plans, "mastpro": block}, dataset_json)


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
        ([16, 16], [[1, 1, 1], [2, 2, 2]], r"\[16, 16\] and strides .* differ in their number of axes; give one each"),
        ([4, 4], [[1, 1], [2, 2], [2, 2]], r"\[4, 4\] leaves one voxel at the bottleneck .*; double one axis"),
    ],
)
def test_patch_that_the_network_refuses(patch_size, strides, said):
    with pytest.raises(MASTProError, match=rf"^patch_size {said}.* \(in the plans\)$"):
        check_network(configuration(patch_size, strides), NetworkConfig())


@pytest.mark.parametrize("patch_size", [[8, 4], [16, 20]])
def test_patch_that_it_takes(patch_size):
    check_network(configuration(patch_size, [[1, 1], [2, 2], [2, 2]]), NetworkConfig())


@pytest.mark.parametrize(
    ("stages", "said"),
    [({"encoder_stages": (3,)}, "encoder has stages 0 to 2"), ({"decoder_stages": (2,)}, "decoder has stages 0 to 1")],
)
def test_stages_that_the_network_lacks(stages, said):
    planned = configuration([16, 16], [[1, 1], [2, 2], [2, 2]])
    planned["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 8]
    check_network(planned, NetworkConfig(encoder_stages=(2,), decoder_stages=(1,)))
    with pytest.raises(MASTProError, match=said):
        check_network(planned, NetworkConfig(**stages))


def test_a_frozen_swin_encoder_of_masks_beside_a_unet():
    with pytest.raises(MASTProError, match="or make plans by mastpro plan --anatomy --overlay swinunetr"):
        check_network(configuration([16, 16], [[1, 1], [2, 2], [2, 2]]), NetworkConfig(anatomy_encoder="swin"))


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
    check_same_run(folder, block)


def test_another_run_is_refused(run_folder):
    folder, block = run_folder
    other = copy.deepcopy(block)
    other["network"]["rank"], other["training"]["learning_rate"] = 3, 0.5
    first = other["resolved"]["classes"][0]
    first["sentence"] = "A stone."
    with pytest.raises(MASTProError) as caught:
        check_same_run(folder, other)
    told = str(caught.value)
    assert told.startswith(f"{folder} holds a run with other prompts or settings: network.rank was ")
    assert "training.learning_rate was " in told
    assert f"sentence of {first['label']} was " in told
    assert told.count(" was ") == 3
    other = copy.deepcopy(block)
    other["resolved"]["classes"].pop()
    with pytest.raises(MASTProError, match="settings: classes was '.*', is '"):
        check_same_run(folder, other)


def test_a_run_without_a_block_is_refused(run_folder):
    folder, block = run_folder
    (folder / "plans.json").write_text("{}")
    with pytest.raises(MASTProError, match="move its folder away to train anew"):
        check_same_run(folder, block)


@pytest.mark.parametrize("missing", ["plans.json", "fold_0/checkpoint_best.pth"])
def test_a_folder_without_a_run_is_free(run_folder, missing):
    folder, block = run_folder
    (folder / missing).unlink()
    check_same_run(folder, {**block, "network": {}})


def test_a_plans_file_that_is_being_written(run_folder, monkeypatch):
    """By the training of another fold."""
    folder, block = run_folder
    whole = (folder / "plans.json").read_text()
    (folder / "plans.json").write_text(whole[:20])
    monkeypatch.setattr("time.sleep", lambda seconds: (folder / "plans.json").write_text(whole))
    check_same_run(folder, block)
    (folder / "plans.json").write_text(whole[:20])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(MASTProError, match="plans.json is not valid JSON; move its folder away"):
        check_same_run(folder, block)


def test_embeddings_of_a_changed_encoder():
    own = torch.eye(3)
    check_same_embeddings(own + 1e-5, own, "x.pth")
    with pytest.raises(MASTProError, match="x.pth was trained with other embeddings of the same sentences"):
        check_same_embeddings(own + 0.1, own, "x.pth")


def test_pretrained_prompts():
    own, labels = torch.eye(3), ["liver", "lung", "colon"]
    assert find_changed_prompts(own, own, labels) == []
    other = torch.stack([own[0], torch.full((3,), 0.5), own[2]])
    assert find_changed_prompts(other, own, labels) == ["lung"]
    with pytest.raises(MASTProError, match="-pretrained_weights has the class colon in the place of lung"):
        find_changed_prompts(own[[0, 2, 1]], own, labels)


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


def test_an_older_run_without_the_newer_keys_is_the_same(tmp_path, plans, dataset_json):
    config, _ = resolve(plans, dataset_json)
    block = config.to_dict()
    older = json.loads(json.dumps(block))
    del older["prediction"], older["resolved"]["hosts"], older["network"]["anatomy_features"]
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_best.pth").touch()
    (tmp_path / "plans.json").write_text(json.dumps({"mastpro": older}))
    check_same_run(tmp_path, block)
    check_same_run(tmp_path, {**block, "prediction": {"skip_empty": True, "tasks": None}})
    older["network"]["rank"] = 3
    (tmp_path / "plans.json").write_text(json.dumps({"mastpro": older}))
    with pytest.raises(MASTProError, match="network.rank was 3, is "):
        check_same_run(tmp_path, block)

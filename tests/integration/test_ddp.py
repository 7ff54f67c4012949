"""nnU-Net's -num_gpus path as two processes on a CPU: its own run_ddp and trainer, see ddp_worker.py.

Cases annotate one class, the other, or both. Jobs of one list run one after the other in the same two processes.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.testing import assert_close

from nnunetv2_mastpro.anatomy.preprocessed import write_training_maps
from nnunetv2_mastpro.tasks import read_cases
from nnunetv2_mastpro.training.sampling import histogram
from nnunetv2_mastpro.training.setup import resolve

WORKER = Path(__file__).with_name("ddp_worker.py")
PARTIAL, WHOLE = "Dataset706_HippocampusRanks", "Dataset707_HippocampusRanksWhole"
LABELS = ("anterior", "posterior")
ANNOTATED = (["anterior"], ["posterior"], ["anterior", "posterior"])  # in turn
STEPS = 2
TRAINER = "nnUNetTrainerMASTPro_1epoch"
LONGER, SECOND = "nnUNetTrainerMASTPro_5epochs", "nnUNetTrainerMASTPro_10epochs"  # for results folders of their own
ONE_TYPE_EACH = {"host_task_share": 0.0, "annotated_task_share": 1.0}  # the types that a sample annotates are selected
SWIN = {
    "network_class_name": "nnunetv2_mastpro.network.swin.PlannedSwinUNETR",
    "arch_kwargs": {"feature_size": 12, "use_checkpoint": True},
    "_kw_requires_import": [],
}


@pytest.fixture(scope="module")
def case_names(lab, kinds):
    """Both data sets, copied; six training cases, then two of validation."""
    source = lab.preprocessed(kinds["small"].dataset)
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "gt_segmentations").glob("*.nii.gz"))
    for dataset in (PARTIAL, WHOLE):
        folder = lab.workspace.preprocessed / dataset
        shutil.copytree(source, folder)
        content = json.loads((folder / "dataset.json").read_text())
        for label, host in zip(LABELS, ("skull", "brain"), strict=True):
            content["mastpro"]["prompts"][label] = {"is_tumor": True, "host_structures": [host]}
        if dataset == PARTIAL:
            content["mastpro"]["cases"] = {
                name: {"source": f"source {number % 2}", "annotated": ANNOTATED[number % 3]}
                for number, name in enumerate(names)
            }
        (folder / "dataset.json").write_text(json.dumps(content))
        (folder / "splits_final.json").write_text(json.dumps([{"train": names[:-2], "val": names[-2:]}]))
    return names


@pytest.fixture(scope="module")
def plan(lab, case_names):
    """`plan(name, dataset=PARTIAL, batch_size=4, configuration={}, **mastpro)`: 2D and 3D plans for the ranks."""

    def make(name, dataset=PARTIAL, batch_size=4, configuration=None, **mastpro):
        def change(plans):
            for part in plans["configurations"].values():
                part.update(batch_size=batch_size, **(configuration or {}))
            return {**plans, "dataset_name": dataset, "mastpro": mastpro}

        lab.write_plans(dataset, "Small", name, change)
        return name

    return make


@pytest.fixture(scope="module")
def on_ranks(lab, tmp_path_factory):
    """`on_ranks(jobs)`: name of a job -> its record of each rank."""

    def run(jobs):
        folder = tmp_path_factory.mktemp("ranks")
        for job in jobs:
            if "batch" in job:
                job["batch"] = str(folder / job["batch"])
        (folder / "jobs.json").write_text(json.dumps(jobs))
        steps = {"MASTPRO_EPOCH_ITERATIONS": str(STEPS), "MASTPRO_SEED": "0"}
        env = {**lab.workspace.env, **steps, "OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0"}
        argv = [sys.executable, str(WORKER), str(folder / "jobs.json")]
        logs = [folder / f"log_{rank}.txt" for rank in range(2)]
        processes = []
        for rank, log in enumerate(logs):
            with log.open("w") as stream:
                pipes = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
                processes.append(subprocess.Popen([*argv, str(rank)], env=env, cwd=folder, **pipes))
        try:
            while any(process.poll() is None for process in processes) and not any(p.poll() for p in processes):
                time.sleep(0.1)
            time.sleep(1)  # for the other's last words
        finally:
            for process in processes:
                process.kill()
                process.wait()
        told = "\n".join(f"--- rank {rank}\n{log.read_text()[-3000:]}" for rank, log in enumerate(logs))
        assert [process.returncode for process in processes] == [0, 0], told
        return {
            job["name"]: [
                torch.load(folder / f"{job['name']}_{rank}.pt", weights_only=False)
                for rank in range(job.get("world", 2))
            ]
            for job in jobs
        }

    return run


@pytest.fixture(scope="module")
def fold(lab):
    """`fold(plans, trainer)`: the folder of a training."""

    def find(plans, trainer=TRAINER, dataset=PARTIAL, configuration="2d"):
        return lab.workspace.results / dataset / f"{trainer}__{plans}__{configuration}" / "fold_0"

    return find


def what(plans, trainer=TRAINER, dataset=PARTIAL, configuration="2d"):
    return [dataset, configuration, 0, trainer, plans]


def compared(name, plans, cases, **rest):
    """One process with four samples, then two with two of them each."""
    alone = {"name": f"{name}_alone", "what": what(plans, **rest), "world": 1, "cases": [cases]}
    shared = {"name": name, "what": what(plans, LONGER, **rest), "epochs": 1, "batch": f"{name}_alone_0.pt"}
    return [alone, shared]


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.equal(second[name]), name


def assert_alike(ranks):
    """Weights and log of both ranks, after steps that moved what is trained, with a gradient for every parameter."""
    first, second = ranks
    assert_equal_states(first["start"], second["start"])
    assert_equal_states(first["end"], second["end"])
    moved = {name for name, tensor in first["end"].items() if not tensor.equal(first["start"][name])}
    assert moved - {"trained"} <= {*first["trained"]}
    assert len(moved) > 0.9 * len(first["trained"])
    for rank in ranks:
        assert rank["without_gradient"] == set()
        assert len(rank["loss"]) == STEPS
    logged = [{key: value for key, value in rank["log"].items() if "timestamps" not in key} for rank in ranks]
    assert repr(logged[0]) == repr(logged[1])  # nan is equal here


def assert_same_loss_and_gradients(alone, shared):
    """nnU-Net gives the coarsest stage a weight of 1e-6 under DDP, not 0."""
    (alone,) = alone
    assert sum(rank["loss"][0] for rank in shared) / 2 == pytest.approx(alone["loss"][0], rel=1e-5)
    assert shared[0]["loss"][0] != shared[1]["loss"][0]
    assert_equal_states(shared[0]["start"], alone["start"])
    for name, expected in alone["grads"].items():
        for rank in shared:
            assert_close(rank["grads"][name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-7)


@pytest.fixture(scope="module")
def quick(on_ranks, plan, case_names, fold):
    train, checkpoint = case_names[:-2], "checkpoint_final.pth"
    each = [
        [train[0], train[3]],
        [train[1], train[4]],
    ]  # the first rank's annotate the one class, the other's the other
    plan("Ranks")
    plan("Masked", training=ONE_TYPE_EACH)
    plan("Uneven", batch_size=3)
    for batch_dice in (True, False):
        plan(f"Compared{batch_dice}", configuration={"batch_dice": batch_dice}, training=ONE_TYPE_EACH)
    longer = {"what": what("Masked", LONGER), "cases": each}
    return on_ranks(
        [
            {"name": "scratch", "what": what("Ranks"), "validate": True},
            {"name": "masked", "what": what("Masked"), "cases": each},
            {"name": "peft", **longer, "epochs": 1, "pretrained": str(fold("Masked") / checkpoint)},
            {"name": "peft_continued", **longer, "epochs": 2, "c": True},
            {"name": "uneven", "what": what("Uneven")},
            *compared("batch_dice", "ComparedTrue", [train[0], train[1], train[2], train[5]]),
            *compared("sample_dice", "ComparedFalse", [train[0], train[1], train[2], train[5]]),
        ]
    )


@pytest.mark.parametrize("name", ["scratch", "masked", "peft", "peft_continued", "uneven"])
def test_ranks_end_alike(quick, name):
    assert_alike(quick[name])


def test_experts_that_one_rank_masks_learn_from_the_other(quick, case_names):
    """The first rank's samples annotate the one type alone, the other's the other."""
    for place, rank in enumerate(quick["masked"]):
        assert rank["keys"] == [[case_names[place], case_names[place + 3]]] * STEPS
    names = {name for name in quick["masked"][0]["trained"] if "experts." in name and ".specific." in name}
    assert {name[-1] for name in names} == {"0", "1"}
    assert not any(names & zero for rank in quick["masked"] for zero in rank["zero"][1:])


@pytest.mark.parametrize("name", ["batch_dice", "sample_dice"])
def test_two_ranks_of_two_are_one_of_four(quick, name):
    """Loss (mean over ranks) and gradients, where samples annotate one class or two; with batch Dice over all four."""
    assert_same_loss_and_gradients(quick[f"{name}_alone"], quick[name])


@pytest.mark.parametrize("name", ["scratch", "peft"])
def test_no_buffers_are_sent(quick, name):
    """Before and after DDP is wrapped anew."""
    assert [rank["sends_buffers"] for rank in quick[name]] == [False, False]


def test_fine_tuning_starts_from_the_checkpoint_on_every_rank(quick, fold):
    saved = torch.load(fold("Masked") / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for rank in quick["peft"]:
        assert_equal_states(rank["start"], saved)
        assert not any(name.startswith("backbone.") for name in rank["trained"])
        assert any(name.startswith("experts.") for name in rank["trained"])


def test_a_continued_run_starts_where_it_was_on_every_rank(quick, fold):
    saved = torch.load(fold("Masked", LONGER) / "checkpoint_final.pth", weights_only=False)
    for before, after in zip(quick["peft"], quick["peft_continued"], strict=True):
        assert_equal_states(after["start"], before["end"])
        assert after["trained"] == before["trained"]
    assert_equal_states(saved["network_weights"], quick["peft_continued"][0]["end"])
    assert saved["current_epoch"] == 2


def test_ranks_draw_for_themselves(quick):
    first, second = (rank["keys"] for rank in quick["scratch"])
    assert first != second
    assert [rank["seed"] for rank in quick["scratch"]] == [0, 1]  # alike, the first draws are alike


def test_every_ranks_samples_are_counted_once(lab, quick, fold, case_names):
    keys = [case for rank in quick["scratch"] for step in rank["keys"] for case in step]
    assert len(keys) == 4 * STEPS
    assert json.loads((fold("Ranks") / "expert_usage.json").read_text())["patches"]["all"] == len(keys)
    (log,) = fold("Ranks").glob("training_log_*.txt")
    text = log.read_text()
    content = json.loads((lab.workspace.preprocessed / PARTIAL / "dataset.json").read_text())
    cases = read_cases(content, LABELS)
    sources = {case: cases.source_of(case) for case in case_names}
    types = {case: list(LABELS) for case in case_names}  # each has both, annotated or not
    assert histogram(Counter(keys), types, sources).partition(";")[0] in text
    for line in ("Epoch 0 ", "Samples drawn", "Experts never kept", "Pseudo dice", "Training done"):
        assert text.count(line) == 1, line


def test_validation_is_shared_out_and_its_summary_corrected(lab, quick, fold, case_names):
    content = json.loads((lab.workspace.preprocessed / PARTIAL / "dataset.json").read_text())
    cases = read_cases(content, LABELS)
    folder = fold("Ranks") / "validation"
    summaries = [json.loads((folder / name).read_text()) for name in ("summary.json", "summary_nnunet.json")]
    for summary in summaries:
        files = {Path(entry["prediction_file"]).name for entry in summary["metric_per_case"]}
        assert files == {f"{name}.nii.gz" for name in case_names[-2:]}
    left_out = summaries[0]["mastpro"]["per_class"]
    for label in LABELS:
        assert left_out[label]["left_out"] == sum(label not in cases.annotated[name] for name in case_names[-2:])
    assert sum(entry["left_out"] for entry in left_out.values()) > 0
    (log,) = fold("Ranks").glob("training_log_*.txt")
    assert log.read_text().count("Mean validation Dice over what each case annotates") == 1


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
        lambda case: sitk.GetArrayFromImage(sitk.ReadImage(folder / "gt_segmentations" / f"{case}.nii.gz")),
    )
    return name


@pytest.fixture(scope="module")
def matrix(on_ranks, plan, case_names, fold, maps):
    train, checkpoint = case_names[:-2], "checkpoint_final.pth"
    each = [[train[0], train[3]], [train[1], train[4]]]
    added = {"added": ["posterior"]}
    plan("Base", prompts=added, training=ONE_TYPE_EACH)
    plan("Added", prompts=added, training={**ONE_TYPE_EACH, "new_types": ["posterior"]})
    plan("Token", network={"routing": "token", "router": "joint"}, training=ONE_TYPE_EACH)
    for batch_dice in (True, False):
        plan(f"Whole{batch_dice}", WHOLE, configuration={"batch_dice": batch_dice}, training=ONE_TYPE_EACH)
    with_maps = {"what": what(maps, LONGER), "cases": each}
    token = {"cases": each, "epochs": 1}
    from_token = {**token, "pretrained": str(fold("Token") / checkpoint)}
    four = [train[0], train[1], train[2], train[5]]
    return on_ranks(
        [
            {"name": "maps", "what": what(maps), "cases": each},
            {"name": "maps_peft", **with_maps, "epochs": 1, "pretrained": str(fold(maps) / checkpoint)},
            {"name": "maps_peft_continued", **with_maps, "epochs": 2, "c": True},
            {"name": "base", "what": what("Base"), "cases": each},
            {"name": "base_continued", "what": what("Base"), "epochs": 2, "c": True, "cases": each},
            {"name": "added", "what": what("Added"), "cases": each, "pretrained": str(fold("Base") / checkpoint)},
            {"name": "added_continued", "what": what("Added"), "epochs": 2, "c": True, "cases": each},
            {"name": "token", "what": what("Token"), "cases": each},
            {"name": "bfloat16", "what": what("Token", LONGER), **token, "bfloat16": True},
            {"name": "compiled", "what": what("Token", SECOND), **token, "compile": "aot_eager"},
            {"name": "compiled_peft", "what": what("Token", SECOND), **from_token, "compile": "aot_eager"},
            {"name": "control", "what": what("Small", "nnUNetTrainerStockPartial_1epoch"), "cases": each},
            {"name": "universal", "what": what("Small", "nnUNetTrainerUniversal_1epoch"), "cases": each},
            {"name": "three", "what": what("Small", configuration="3d_fullres"), "cases": each},
            *compared("whole_batch_dice", "WholeTrue", four, dataset=WHOLE),
            *compared("whole_sample_dice", "WholeFalse", four, dataset=WHOLE),
        ]
    )


MATRIX = ["maps", "maps_peft", "maps_peft_continued", "base", "base_continued", "added", "added_continued", "token"]
MATRIX += ["bfloat16", "compiled", "compiled_peft", "control", "universal", "three"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_ranks_end_alike_in_other_ways_of_training(matrix, name):
    assert_alike(matrix[name])


@pytest.mark.slow
def test_the_universal_models_sentences_are_not_sent(matrix):
    assert [rank["sends_buffers"] for rank in matrix["universal"]] == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole_batch_dice", "whole_sample_dice"])
def test_nnunets_own_loss_does_the_same(matrix, name):
    """Everything is annotated, so the loss is stock nnU-Net's: its gradients have the same scale."""
    assert_same_loss_and_gradients(matrix[f"{name}_alone"], matrix[name])


@pytest.mark.slow
def test_new_types_alone_are_trained_on_every_rank(matrix):
    for name in ("added", "added_continued"):
        for rank in matrix[name]:
            assert all(name.endswith((".specific.1", ".down.2", ".up.2", "offsets.0")) for name in rank["trained"])
            assert "offsets.0" in rank["trained"]


@pytest.mark.slow
def test_compiled_or_in_half_precision_it_is_the_same_training(matrix):
    for plain, compiled, halved in zip(matrix["token"], matrix["compiled"], matrix["bfloat16"], strict=True):
        assert plain["loss"] == pytest.approx(compiled["loss"], rel=1e-4)
        assert plain["loss"] == pytest.approx(halved["loss"], rel=0.05)


@pytest.mark.slow
def test_swinunetr(on_ranks, plan, case_names, fold):
    """From scratch, then PEFT, with checkpointed blocks: minutes on 2 cores."""
    configuration = {"architecture": SWIN, "patch_size": [64, 64, 64]}
    plan("Swin", batch_size=2, configuration=configuration, training=ONE_TYPE_EACH)
    shared = {"cases": [[case_names[0]], [case_names[1]]], "epochs": 1}
    three = {"configuration": "3d_fullres"}
    checkpoint = str(fold("Swin", **three) / "checkpoint_final.pth")
    jobs = [
        {"name": "scratch", "what": what("Swin", **three), **shared},
        {"name": "peft", "what": what("Swin", LONGER, **three), **shared, "pretrained": checkpoint},
    ]
    for ranks in on_ranks(jobs).values():
        assert_alike(ranks)

"""nnU-Net's -num_gpus path as two processes on a CPU: its own run_ddp and trainer, see worker.py.

Cases annotate one class, the other, or both. Jobs of one list run one after the other in the same two processes.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

WORKER = Path(__file__).with_name("worker.py")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


def assert_same_loss_and_gradients(alone, shared, rounding=1e-4):
    """nnU-Net gives the coarsest stage a weight of 1e-6 under DDP, not 0. `rounding`: share of the largest gradient."""
    (alone,) = alone
    assert sum(rank["loss"][0] for rank in shared) / 2 == pytest.approx(alone["loss"][0], rel=1e-5)
    assert shared[0]["loss"][0] != shared[1]["loss"][0]
    assert_equal_states(shared[0]["start"], alone["start"])
    for name, expected in alone["grads"].items():
        for rank in shared:
            assert_close(rank["grads"][name], expected, rtol=1e-3, atol=rounding * float(expected.abs().max()) + 1e-7)

"""One process of nnU-Net's own `-num_gpus` path, on a CPU: `python worker.py JOBS.json RANK`.

nnU-Net hard-codes NCCL, the device and DDP's device_ids. These are put aside; everything else is its run_ddp and the
trainer. Each job trains and leaves a record per process beside JOBS.json: NAME_RANK.pt. Keys of a job:
name, what: dataset, configuration, fold, trainer, plans; world: number of processes (2)
c, pretrained: as nnU-Net's options; validate: its final validation, too; epochs; env
cases: those of each rank's batches, instead of draws; batch: file of one batch, which ranks share out
bfloat16: autocast; compile: backend of torch.compile
"""

import json
import os
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(seconds=300)  # a process that waits longer for the other has lost it
SMALL_BUCKET_BYTES = 10_000  # so that torch.compile splits the graph as it does for networks of a usual size


def main(file: Path, rank: int) -> None:
    torch.set_num_threads(1)
    for number, job in enumerate(json.loads(file.read_text())):
        world = job.get("world", 2)
        if rank < world:
            put_aside(file.parent / f"rendezvous_{number}")
            torch.save(train(job, rank, world), file.parent / f"{job['name']}_{rank}.pt")


def put_aside(rendezvous: Path) -> None:
    """What nnU-Net hard-codes."""
    from nnunetv2.run import load_pretrained_weights, run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    def meet(rank: int, world_size: int) -> None:
        place = {"init_method": rendezvous.as_uri(), "rank": rank, "world_size": world_size}
        dist.init_process_group("gloo", timeout=PATIENCE, **place)

    run_training.setup_ddp = meet
    torch.cuda.set_device = lambda device: None
    trainer_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    load_pretrained_weights.dist = SimpleNamespace(is_initialized=lambda: False)  # else it loads to CUDA


def train(job: dict, rank: int, world: int) -> dict:
    """nnU-Net's run_ddp, or, for one process, what -num_gpus 1 runs; gives the record."""
    from nnunetv2.run import run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    record = {"loss": [], "keys": [], "without_gradient": set(), "zero": []}
    os.environ.update(job.get("env", {}))
    trainer = on_cpu(recursive_find_trainer_class_by_name(job["what"][3]), job, record)
    run_training.recursive_find_trainer_class_by_name = lambda name: trainer
    compile_by, buckets = torch.compile, dist._DEFAULT_FIRST_BUCKET_BYTES
    if "compile" in job:
        torch._dynamo.reset()
        dist._DEFAULT_FIRST_BUCKET_BYTES = SMALL_BUCKET_BYTES
        trainer_module.torch.compile = lambda module: compile_by(module, backend=job["compile"])
    if world == 1:
        given = {"pretrained_weights": job.get("pretrained")}
        run_training.run_training(*job["what"], **given, device=torch.device("cpu"))
    else:
        options = (False, job.get("c", False), False, job.get("pretrained"), False, False)
        run_training.run_ddp(rank, *job["what"], *options, world)
    torch.compile, dist._DEFAULT_FIRST_BUCKET_BYTES = compile_by, buckets
    return record


def on_cpu(trainer: type, job: dict, record: dict) -> type:
    """The trainer on the CPU; what it does in training is recorded."""

    class OnCPU(trainer):
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.device, self.grad_scaler = torch.device("cpu"), None
            self.num_epochs = job.get("epochs", self.num_epochs)
            if not job.get("validate"):
                self.logger.plot_progress_png = lambda folder: None  # seconds

        def _do_i_compile(self):
            return "compile" in job

        def on_train_start(self):
            super().on_train_start()
            record.update(
                seed=torch.initial_seed(),
                sends_buffers=getattr(self.network, "broadcast_buffers", None),
                start=state_of(self),
                trained=[name for name, _ in trained_of(self, aliases=True)],
            )
            if "cases" in job:
                loader = self.dataloader_train.data_loader
                loader.get_indices = lambda: job["cases"][self.local_rank][: loader.batch_size]

        def train_step(self, batch):
            record.setdefault("batch", batch)
            batch = share_of(torch.load(job["batch"], weights_only=False)["batch"], self) if "batch" in job else batch
            with torch.autocast("cpu", torch.bfloat16) if job.get("bfloat16") else nullcontext():
                result = super().train_step(batch)
            grads = {name: parameter.grad for name, parameter in trained_of(self)}
            record["loss"].append(float(result["loss"]))
            record["keys"].append([str(key) for key in batch["keys"]])
            record["without_gradient"] |= {name for name, grad in grads.items() if grad is None}
            record["zero"].append({name for name, grad in grads.items() if grad is not None and not grad.any()})
            record.setdefault("grads", {name: grad.clone() for name, grad in grads.items() if grad is not None})
            return result

        def on_epoch_end(self):
            super().on_epoch_end()
            record.update(end=state_of(self), log=self.logger.get_checkpoint())

        def perform_actual_validation(self, save_probabilities=False):
            if job.get("validate"):
                super().perform_actual_validation(save_probabilities)

    OnCPU.__name__ = trainer.__name__  # nnU-Net names folders by it
    return OnCPU


def bare(trainer) -> torch.nn.Module:
    """Not the trainer's bare_network: controls have none."""
    network = getattr(trainer.network, "module", trainer.network)
    return getattr(network, "_orig_mod", network)


def state_of(trainer) -> dict:
    return {name: tensor.clone() for name, tensor in bare(trainer).state_dict().items()}


def trained_of(trainer, aliases: bool = False) -> list[tuple]:
    """Names and parameters; with `aliases` under all the names that the state has for them."""
    named = bare(trainer).named_parameters(remove_duplicate=not aliases)
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def share_of(batch: dict, trainer) -> dict:
    """The rank's samples of a batch for all."""
    mine = slice(trainer.local_rank * trainer.batch_size, (trainer.local_rank + 1) * trainer.batch_size)
    target = batch["target"]
    target = [stage[mine] for stage in target] if isinstance(target, list) else target[mine]
    return {"data": batch["data"][mine], "target": target, "keys": batch["keys"][mine]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

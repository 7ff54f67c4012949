"""One process of nnU-Net's own `-num_gpus` path, on a CPU: `python ddp_worker.py JOBS.json RANK`.

nnU-Net hard-codes NCCL, the device and DDP's device_ids; these are put aside, everything else is its run_ddp and the
trainer. Each job trains and leaves, per process, a record in the folder of JOBS.json: NAME_RANK.pt.
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

PATIENCE = timedelta(seconds=120)  # a process that waits longer for the other has lost it


def patch_nnunet(world: int, rendezvous: Path) -> None:
    from nnunetv2.run import load_pretrained_weights, run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    def meet(rank: int, world_size: int) -> None:
        dist.init_process_group(
            "gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=world_size, timeout=PATIENCE
        )

    run_training.setup_ddp = meet if world > 1 else lambda rank, world_size: None
    run_training.cleanup_ddp = dist.destroy_process_group if world > 1 else lambda: None
    torch.cuda.set_device = lambda device: None
    trainer_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    load_pretrained_weights.dist = SimpleNamespace(is_initialized=lambda: False)  # else: map_location cuda


def on_cpu(trainer: type, job: dict, record: dict) -> type:
    """The trainer on the CPU; what it does in training is recorded."""

    class OnCPU(trainer):
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.device, self.grad_scaler = torch.device("cpu"), None
            self.num_epochs = job.get("epochs", self.num_epochs)

        def _do_i_compile(self):
            return "compile" in job

        def on_train_start(self):
            super().on_train_start()
            record.update(start=state_of(self), trained=trained_of(self))
            if "cases" in job:
                self.dataloader_train.data_loader.indices = job["cases"][self.local_rank]

        def train_step(self, batch):
            with torch.autocast("cpu", torch.bfloat16) if job.get("bfloat16") else nullcontext():
                result = super().train_step(batch)
            grads = {name: p.grad for name, p in self.bare_network.named_parameters() if p.requires_grad}
            record["loss"].append(float(result["loss"]))
            record["keys"].append([str(key) for key in batch["keys"]])
            record["without_gradient"] |= {name for name, grad in grads.items() if grad is None}
            record["zero"].append({name for name, grad in grads.items() if grad is not None and not grad.any()})
            return result

        def on_epoch_end(self):
            super().on_epoch_end()
            record.update(end=state_of(self), log=dict(self.logger.get_checkpoint()), types=self.types)

        def perform_actual_validation(self, save_probabilities=False):
            if job.get("validate"):
                super().perform_actual_validation(save_probabilities)

    OnCPU.__name__ = trainer.__name__  # nnU-Net names folders by it
    return OnCPU


def state_of(trainer) -> dict:
    return {name: tensor.clone() for name, tensor in trainer.bare_network.state_dict().items()}


def trained_of(trainer) -> set[str]:
    return {name for name, parameter in trainer.bare_network.named_parameters() if parameter.requires_grad}


def train(job: dict, rank: int, world: int) -> dict:
    """nnU-Net's run_ddp; a record of it."""
    from nnunetv2.run import run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    record = {"loss": [], "keys": [], "zero": [], "without_gradient": set()}
    os.environ.update(job.get("env", {}))
    run_training.recursive_find_trainer_class_by_name = lambda name: on_cpu(
        recursive_find_trainer_class_by_name(name), job, record
    )
    if "compile" in job:
        torch._dynamo.reset()
        compiler = torch.compile
        trainer_module.torch.compile = lambda module: compiler(module, backend=job["compile"])
    try:
        run_training.run_ddp(
            rank, *job["what"], False, job.get("c", False), False, job.get("pretrained"), False, False, world
        )
    finally:
        if "compile" in job:
            torch.compile = compiler
    return record


def main(file: Path, rank: int) -> None:
    torch.set_num_threads(1)
    content = json.loads(file.read_text())
    for number, job in enumerate(content["jobs"]):
        patch_nnunet(content["world"], file.parent / f"rendezvous_{number}")
        torch.save(train(job, rank, content["world"]), file.parent / f"{job['name']}_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

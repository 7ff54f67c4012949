"""Time and memory of the MAST-Pro network as ratios to the plain nnU-Net network, in one run.

    python benchmarks/cost.py [--overlays demo sts_small] [--repeats 7]

For each plans overlay: nnU-Net's own training step (trainer, loss, optimizer and clipping as in a training; data
already loaded), its own sliding window without mirroring, and peak memory. Plain and MAST-Pro networks take turns, so
that a drift of the machine is shared; both use AdamW. Times are medians, ratios the median of the pairs with their
range. Memory is what five training steps, or one sliding window, add at most to the resident size of a process of its
own, network and optimizer included, the imported libraries not.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
CONFIGURATION, DATASET = "3d_fullres", "Dataset500_PanTumorPhantom"
LABELS = {"demo": ("liver_tumor", "kidney_tumor", "lung_tumor"), "sts_small": ("soft_tissue_sarcoma",)}


def make_plans(overlay: str) -> dict:
    """What nnU-Net would have planned, as far as a trainer reads it, under the overlay."""
    from nnunetv2_mastpro.planning.overlay import load_overlay

    shared = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": [5.0, 5.0, 5.0],
        "median_image_size_in_voxels": [40.0, 40.0, 56.0],
        "batch_dice": False,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: {**shared, **load_overlay(overlay)["configurations"][CONFIGURATION]}},
    }


def make_trainer(kind: str, overlay: str, labels: tuple[str, ...] = (), prompts: dict | None = None):
    """An initialized trainer on the CPU: "plain" or "mastpro". `labels`: those of the overlay if none are given."""
    import torch

    from nnunetv2_mastpro.training.controls import nnUNetTrainerStockAdamW
    from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

    plans = {**make_plans(overlay), "continue_training": False}
    dataset = {
        "channel_names": {"0": "CT"},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "labels": {"background": 0, **{label: i for i, label in enumerate(labels or LABELS[overlay], 1)}},
        "mastpro": {"prompts": prompts or {}},
    }
    torch.manual_seed(0)
    made = (nnUNetTrainerStockAdamW if kind == "plain" else nnUNetTrainerMASTPro)(
        plans, CONFIGURATION, 0, dataset, torch.device("cpu")
    )
    with contextlib.redirect_stdout(io.StringIO()):
        made.initialize()
        made.on_train_epoch_start()
    return made


def make_batch(trainer) -> dict:
    """Noise, and labels at the resolution of each supervised stage."""
    import torch

    manager = trainer.configuration_manager
    scales = trainer._get_deep_supervision_scales()
    sizes = [[round(side * factor) for side, factor in zip(manager.patch_size, scale, strict=True)] for scale in scales]
    labels = len(trainer.dataset_json["labels"])
    return {
        "keys": [f"case_{number}" for number in range(manager.batch_size)],
        "data": torch.randn(manager.batch_size, 1, *manager.patch_size),
        "target": [torch.randint(0, labels, (manager.batch_size, 1, *size)) for size in sizes],
    }


def make_predictor(trainer):
    """nnU-Net's own, on the trainer's network; gives a function that predicts a volume of 1.5 patches a side."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    volume = torch.randn(1, *(side * 3 // 2 for side in trainer.configuration_manager.patch_size))

    trainer.network.to(memory_format=torch.contiguous_format)  # as nnU-Net's prediction builds it
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()

    def predict() -> None:
        predictor.predict_sliding_window_return_logits(volume)

    return predict


def seconds(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def time_pairs(overlay: str, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(plain, MAST-Pro) seconds per repeat, of a training step and of a sliding window; the first pair warms up."""
    trainers = [make_trainer(kind, overlay) for kind in ("plain", "mastpro")]
    batches = [make_batch(trainer) for trainer in trainers]
    found = {"training step": [], "prediction": []}
    for trainer in trainers:
        trainer.network.train()
    for _ in range(repeats + 1):
        pair = [seconds(lambda t=t, b=b: t.train_step(b)) for t, b in zip(trainers, batches, strict=True)]
        found["training step"].append(tuple(pair))
    predictors = [make_predictor(trainer) for trainer in trainers]
    for _ in range(repeats + 1):
        found["prediction"].append(tuple(seconds(predict) for predict in predictors))
    return {name: pairs[1:] for name, pairs in found.items()}


def peak_growth_kib(action) -> int:
    """KiB by which the process's resident size grew at most while `action` ran, as Linux counts it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = read_status("VmRSS")
    action()
    return read_status("VmHWM") - before


def read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def train_for_memory(trainer) -> None:
    """A few steps, after which the optimizer's state is there."""
    batch = make_batch(trainer)
    trainer.network.train()
    for _ in range(5):
        trainer.train_step(batch)


def measure_memory(kind: str, overlay: str, what: str) -> int:
    """In this process: network, optimizer and work together."""
    make_trainer(kind, "demo" if overlay != "demo" else "sts_small")  # imports and first-use buffers are not counted

    def train() -> None:
        train_for_memory(make_trainer(kind, overlay))

    def predict() -> None:
        make_predictor(make_trainer(kind, overlay))()

    return peak_growth_kib(train if what == "training step" else predict)


def memory_pair(overlay: str, what: str) -> tuple[float, float]:
    """(plain, MAST-Pro) peak MiB, each of a process of its own."""
    peaks = []
    for kind in ("plain", "mastpro"):
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", kind, overlay, what], check=True, capture_output=True, text=True
        )
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    return tuple(peaks)


def row(overlay: str, what: str, pairs: list[tuple[float, float]], unit: str) -> str:
    ratios = sorted(ours / plain for plain, ours in pairs)
    plain, ours = (median(pair[i] for pair in pairs) for i in (0, 1))
    return (
        f"| {overlay} | {what} | {plain:.3g} {unit} | {ours:.3g} {unit} | {median(ratios):.2f} "
        f"| {ratios[0]:.2f} to {ratios[-1]:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlays", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            os.environ[name] = str(Path(folder, name))
        data = Path(folder, "nnUNet_preprocessed", DATASET, "nnUNetPlans_3d_fullres")
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()  # nnU-Net tells by the ending how cases are stored
        if args.memory_of:
            print(measure_memory(*args.memory_of))
            return
        print("| plans | what | plain | MAST-Pro | ratio | range |\n| --- | --- | --- | --- | --- | --- |")
        for overlay in args.overlays:
            for what, pairs in time_pairs(overlay, args.repeats).items():
                print(row(overlay, what, pairs, "s"), flush=True)
            for what in ("training step", "prediction"):
                pairs = [memory_pair(overlay, what) for _ in range(3)]
                print(row(overlay, f"peak memory, {what}", pairs, "MiB"), flush=True)
    import torch

    threads = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    print(json.dumps(threads))


if __name__ == "__main__":
    main()

"""Two stages on the phantom: PEFT on new tumour types against full fine-tuning and training from scratch.

    python benchmarks/two_stage.py -o OUT [--seeds 0 1 2] [--modes peft full scratch] [--peft-rates 1e-3]

Stage 1 trains the whole network (nnUNetTrainerMASTProPretrain) on liver and kidney tumours. `mastpro weights` takes it
over to a data set of lung and colon tumours, of other patients, whose plans are those of stage 1 by nnU-Net's own
nnUNetv2_move_plans_between_datasets. Stage 2 trains there, each way with equal steps: PEFT (the backbone stays), all of
the network from the same weights, all of it from scratch. Unseen cases are predicted by stock commands, and once with
the weights as they came. Writes results.json and prints a Markdown table. Started again with the same OUT it goes on.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from nnunetv2_mastpro.commands.env import appended
from nnunetv2_mastpro.demo.dataset import FILE_ENDING, PhantomSet, write_dataset
from nnunetv2_mastpro.demo.pipeline import GRID, OVERLAY, WORKERS
from nnunetv2_mastpro.demo.results import read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.resources import trainers_dir
from nnunetv2_mastpro.steps import State, Step, read_training_log, run_steps

FIRST, SECOND = ("liver_tumor", "kidney_tumor"), ("lung_tumor", "colon_tumor")  # types of the two stages
NUM_FIRST, NUM_SECOND, NUM_TEST = 24, 18, 8
SETS = (
    PhantomSet("Dataset501_StageOne", FIRST, FIRST, tuple(range(NUM_FIRST))),
    PhantomSet(
        "Dataset502_StageTwo",
        SECOND,
        SECOND,
        tuple(range(1000, 1000 + NUM_SECOND)),
        tuple(range(2000, 2000 + NUM_TEST)),
    ),
)
PLANS, MOVED = "Small", "SmallOfStageOne"
EPOCHS, FIRST_STEPS, SECOND_STEPS = 10, 60, 40  # training steps an epoch
FULL = f"nnUNetTrainerMASTProPretrain_{EPOCHS}epochs"
TRAINERS = {"peft": f"nnUNetTrainerMASTPro_{EPOCHS}epochs", "full": FULL, "scratch": FULL, "untuned": FULL}


def environment(data: Path, results: Path, steps: int, seed: int) -> dict[str, str]:
    """Variables of the commands: data sets of `data`, results of their own."""
    return {
        **os.environ,
        "nnUNet_raw": str(data / "nnUNet_raw"),
        "nnUNet_preprocessed": str(data / "nnUNet_preprocessed"),
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": appended(os.environ.get("nnUNet_extTrainer", ""), str(trainers_dir())),
        "nnUNet_n_proc_DA": str(WORKERS),
        "nnUNet_def_n_proc": str(WORKERS),
        "MASTPRO_EPOCH_ITERATIONS": str(steps),
        "MASTPRO_SEED": str(seed),
    }


def results_of(folder: Path, dataset: str, trainer: str, plans: str) -> Path:
    return folder / dataset / f"{trainer}__{plans}__3d_fullres"


def first_stage(data: Path) -> list[Step]:
    """Data, plans and the pretrained network; start.pth is what stage 2 starts from."""
    raw, preprocessed = data / "nnUNet_raw", data / "nnUNet_preprocessed"
    one, two = (phantoms.name for phantoms in SETS)
    model = results_of(data / "nnUNet_results", one, FULL, PLANS)
    number = {name: name[len("Dataset") :].partition("_")[0] for name in (one, two)}

    def write(show) -> None:
        raw.mkdir(parents=True, exist_ok=True)
        done = iter(range(1, sum(map(len, SETS)) + 1))
        for phantoms in SETS:
            write_dataset(raw, phantoms, GRID, WORKERS, lambda: show(next(done), "cases"))

    configuration = ("-c", "3d_fullres", "-np", str(WORKERS))
    return [
        Step("phantom", "Write both data sets", (raw / one, raw / two), function=write, total=sum(map(len, SETS))),
        Step(
            "plan",
            "Plan and preprocess stage 1",
            (preprocessed / one / "nnUNetPlans_3d_fullres",),
            ("nnUNetv2_plan_and_preprocess", "-d", number[one], *configuration),
        ),
        Step(
            "overlay",
            "A network and patch for a CPU",
            (preprocessed / one / f"{PLANS}.json",),
            ("mastpro", "plan", "-d", number[one], "--overlay", OVERLAY, "-n", PLANS),
        ),
        Step(
            "fingerprint",
            "Look at the data of stage 2",
            (preprocessed / two / "dataset.json",),
            ("nnUNetv2_plan_and_preprocess", "-d", number[two], "--no_pp", "-npfp", str(WORKERS)),
        ),
        Step(
            "move",
            "Give stage 2 the plans of stage 1",
            (preprocessed / two / f"{MOVED}.json",),
            ("nnUNetv2_move_plans_between_datasets", "-s", number[one], "-t", number[two], "-sp", PLANS, "-tp", MOVED),
        ),
        Step(
            "preprocess",
            "Preprocess stage 2",
            (preprocessed / two / f"{MOVED}_nnUNetPlans_3d_fullres",),
            ("nnUNetv2_preprocess", "-d", number[two], "-plans_name", MOVED, *configuration),
        ),
        training("Stage 1", "first", number[one], PLANS, FULL, model),
        Step(
            "weights",
            "Take the network over to the types of stage 2",
            (data / "start.pth",),
            ("mastpro", "weights", "--from", str(model / "fold_0" / "checkpoint_final.pth"), "-d", number[two])
            + ("-p", MOVED, "-c", "3d_fullres", "-o", str(data / "start.pth")),
        ),
    ]


def training(title: str, name: str, dataset: str, plans: str, trainer: str, model: Path, *options: str) -> Step:
    return Step(
        f"train_{name}",
        f"Train: {title}",
        (model,),
        ("nnUNetv2_train", dataset, "3d_fullres", "0", "-p", plans, "-tr", trainer, "-device", "cpu", *options),
        total=EPOCHS,
        follow=lambda: read_training_log(model / "fold_0"),
    )


def second_stage(data: Path, folder: Path, mode: str, rate: float | None) -> list[Step]:
    """Train in one way, predict the unseen cases, evaluate."""
    dataset, plans, trainer = SETS[1].name, MOVED, TRAINERS[mode]
    raw, preprocessed = data / "nnUNet_raw" / dataset, data / "nnUNet_preprocessed" / dataset
    steps, weights = [], ("-pretrained_weights", str(data / "start.pth")) if mode in ("peft", "full") else ()
    if rate is not None:
        plans = f"{MOVED}_{rate:g}"
        file = preprocessed / f"{plans}.json"
        steps.append(Step("rate", f"Plans with peft_learning_rate {rate:g}", (file,), function=with_rate(file, rate)))
    model = results_of(folder / "nnUNet_results", dataset, trainer, plans)
    if mode == "untuned":
        steps.append(Step("place", "The weights as they came", (model,), function=placed(data / "start.pth", model)))
    else:
        steps.append(training(mode, mode, dataset, plans, trainer, model, *weights))
    found, summary = folder / "predictions", folder / "summary.json"
    network = ("-d", dataset, "-p", plans, "-tr", trainer, "-c", "3d_fullres", "-f", "0")
    return [
        *steps,
        Step(
            "predict",
            "Predict the unseen cases",
            (found,),
            ("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(found), *network, "-device", "cpu")
            + ("--disable_tta", "-npp", "1", "-nps", "1"),
            total=NUM_TEST,
            follow=lambda: (len(list(found.glob(f"*{FILE_ENDING}"))), "cases"),
        ),
        Step(
            "evaluate",
            "Evaluate",
            (summary,),
            ("nnUNetv2_evaluate_folder", str(raw / "labelsTs"), str(found), "-djfile", str(found / "dataset.json"))
            + ("-pfile", str(found / "plans.json"), "-o", str(summary), "-np", "1"),
        ),
    ]


def with_rate(file: Path, rate: float):
    """A step that copies the moved plans with another rate for PEFT."""

    def write(show) -> None:
        plans = json.loads(file.with_name(f"{MOVED}.json").read_text())
        plans["plans_name"] = file.stem
        plans.setdefault("mastpro", {}).setdefault("training", {})["peft_learning_rate"] = rate
        file.write_text(json.dumps(plans, indent=2))

    return write


def placed(weights: Path, model: Path):
    """A step that makes a results folder of weights that nothing has trained."""

    def write(show) -> None:
        import torch

        init_args = torch.load(weights, map_location="cpu", weights_only=False)["init_args"]
        (model / "fold_0").mkdir(parents=True)
        for name in ("plans", "dataset_json"):
            file = model / {"plans": "plans.json", "dataset_json": "dataset.json"}[name]
            file.write_text(json.dumps(init_args[name], indent=2))
        shutil.copyfile(weights, model / "fold_0" / "checkpoint_final.pth")

    return write


def run(data: Path, out: Path, mode: str, rate: float | None, seed: int) -> dict:
    """Dice per type and mean, and seconds a training step (median epoch)."""
    name = mode if rate is None else f"{mode}_{rate:g}"
    folder = out / (name if mode == "untuned" else f"{name}_seed_{seed}")
    state = State(folder, settings() | {"mode": mode, "rate": rate, "seed": seed}, kind="stage")
    steps = second_stage(data, folder, mode, rate)
    run_steps(steps, state, folder / "logs", environment(data, folder / "nnUNet_results", SECOND_STEPS, seed))
    logs = [file.read_text() for file in folder.glob("nnUNet_results/*/*/fold_0/training_log_*.txt")]
    epochs_s = [float(value) for text in logs for value in re.findall(r"Epoch time: ([\d.]+) s", text)]
    return {
        "mode": mode,
        "rate": rate,
        "seed": seed,
        "dice": read_dice(folder / "summary.json", SECOND),
        "seconds_per_step": median(epochs_s) / SECOND_STEPS if epochs_s else None,
    }


def settings() -> dict:
    return {
        "types": [list(FIRST), list(SECOND)],
        "cases": [NUM_FIRST, NUM_SECOND, NUM_TEST],
        "steps": [EPOCHS, FIRST_STEPS, SECOND_STEPS],
    }


def table(rows: list[Mapping]) -> str:
    lines = [["stage 2", "seed", *SECOND, "mean Dice", "s a step"], ["---"] * (len(SECOND) + 4)]
    for row in rows:
        name = row["mode"] if row["rate"] is None else f"{row['mode']}, {row['rate']:g}"
        step = "" if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.2f}"
        dice = [f"{row['dice'][key]:.3f}" for key in (*SECOND, "mean")]
        lines.append([name, "" if row["mode"] == "untuned" else str(row["seed"]), *dice, step])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", choices=["peft", "full", "scratch"], default=["peft", "full", "scratch"])
    parser.add_argument("--peft-rates", type=float, nargs="+", default=[1e-3])
    args = parser.parse_args()
    out = args.output.resolve()
    data = out / "stage_one"
    try:
        state = State(data, settings(), kind="stage")
        run_steps(first_stage(data), state, data / "logs", environment(data, data / "nnUNet_results", FIRST_STEPS, 0))
        rows = [run(data, out, "untuned", None, 0)]
        for seed in args.seeds:
            for mode in args.modes:
                for rate in args.peft_rates if mode == "peft" else [None]:
                    rows.append(run(data, out, mode, rate, seed))
                    (out / "results.json").write_text(json.dumps(rows, indent=2))
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{table(rows)}\n\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

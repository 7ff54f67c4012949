"""Stock nnU-Net and MAST-Pro on real CT of soft-tissue sarcoma: equal steps, one split, several seeds.

    python benchmarks/real_sts.py DATA -o OUT [--seeds 0 1] [--trainers nnUNetTrainerStock nnUNetTrainerMASTPro]

DATA is a nnU-Net dataset folder with 28 patients, one CT each. Of the sorted case names every third, eight in all, is a
test case and never trained on; the other 20 are trained on. Runs stock commands on `plans/sts_small.json` (3 mm, patch
48^3, batch 2), without mirroring at prediction. Two training cases serve nnU-Net's validation, which decides nothing
here. Writes results.json and prints a Markdown table. Started again with the same OUT it skips what is finished.
"""

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path
from statistics import mean, median

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.overlay import write_plans
from nnunetv2_mastpro.resources import trainers_dir
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps

DATASET_ID, DATASET = "502", "Dataset502_SoftTissueSarcoma"
PLANS, OVERLAY, CONFIGURATION = "nnUNetPlansSts", "sts_small", "3d_fullres"
NUM_CASES, NUM_TEST, NUM_VALIDATION = 28, 8, 2
VARIANTS = {1: "_1epoch", 5: "_5epochs", 10: "_10epochs", 50: "_50epochs"}


def split(cases: list[str]) -> tuple[list[str], list[str]]:
    """Training and test cases; one patient each, so no patient is on both sides."""
    test = sorted(cases)[::3][:NUM_TEST]
    return [case for case in sorted(cases) if case not in test], test


def read_cases(data: Path) -> list[str]:
    if not (data / "dataset.json").is_file():
        raise MASTProError(f"{data} has no dataset.json; give the nnU-Net dataset folder of the soft-tissue sarcomas")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labelsTr").glob("*.nii.gz"))
    if len(cases) != NUM_CASES:
        raise MASTProError(f"{data}/labelsTr has {len(cases)} cases, not {NUM_CASES}; give the whole data set")
    return cases


def link_dataset(data: Path, raw: Path) -> None:
    """The data set in nnU-Net's form: links to the images, test cases in imagesTs and labelsTs."""
    train, test = split(read_cases(data))
    for names, part in ((train, "Tr"), (test, "Ts")):
        for kind, suffix in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
            folder = raw / f"{kind}{part}"
            folder.mkdir(parents=True)
            for name in names:
                (folder / f"{name}{suffix}").symlink_to((data / f"{kind}Tr" / f"{name}{suffix}").resolve())
    description = json.loads((data / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "numTraining": len(train)}, indent=2))


def preparation(data: Path, out: Path) -> list[Step]:
    raw, preprocessed = out / "nnUNet_raw" / DATASET, out / "nnUNet_preprocessed" / DATASET

    def lay_over(show) -> None:
        write_plans(preprocessed, "nnUNetPlans", OVERLAY, PLANS)
        train, _ = split(read_cases(data))
        splits = [{"train": train, "val": train[-NUM_VALIDATION:]}]
        (preprocessed / "splits_final.json").write_text(json.dumps(splits, indent=2))

    return [
        Step("link", "Link the data set", (raw,), function=lambda show: link_dataset(data, raw)),
        Step(
            "plan",
            "Fingerprint and plan",
            (preprocessed,),
            ("nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "--no_pp", "-npfp", "2"),
        ),
        Step(
            "overlay",
            f"Lay plans/{OVERLAY}.json over the plans, and write the split",
            (preprocessed / f"{PLANS}.json",),
            function=lay_over,
        ),
        Step(
            "preprocess",
            "Preprocess",
            (preprocessed / "gt_segmentations",),  # nnU-Net writes it last
            ("nnUNetv2_preprocess", "-d", DATASET_ID, "-plans_name", PLANS, "-c", CONFIGURATION, "-np", "2"),
        ),
    ]


def run_steps_of(out: Path, trainer: str, seed: int) -> list[Step]:
    raw, run = out / "nnUNet_raw" / DATASET, out / f"seed_{seed}"
    results = run / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}"
    predictions, summary = run / f"{trainer}_predictions", run / f"{trainer}_summary.json"
    shared = ("-p", PLANS, "-tr", trainer, "-device", "cpu")
    return [
        Step(
            f"train_{trainer}_{seed}",
            f"Train {trainer}, seed {seed}",
            (results,),
            ("nnUNetv2_train", DATASET_ID, CONFIGURATION, "0", *shared),
        ),
        Step(
            f"predict_{trainer}_{seed}",
            "Predict the test cases",
            (predictions,),
            (
                "nnUNetv2_predict",
                "-i",
                str(raw / "imagesTs"),
                "-o",
                str(predictions),
                "-d",
                DATASET_ID,
                "-c",
                CONFIGURATION,
                "-f",
                "0",
                *shared,
                "--disable_tta",
                "-npp",
                "1",
                "-nps",
                "1",
            ),
        ),
        Step(
            f"evaluate_{trainer}_{seed}",
            "Evaluate",
            (summary,),
            (
                "nnUNetv2_evaluate_folder",
                str(raw / "labelsTs"),
                str(predictions),
                "-djfile",
                str(predictions / "dataset.json"),
                "-pfile",
                str(predictions / "plans.json"),
                "-o",
                str(summary),
                "-np",
                "1",
            ),
        ),
    ]


def seconds_per_step(fold: Path, steps: int) -> float:
    """A training step with its share of nnU-Net's online validation, of the median epoch. `steps`: per epoch."""
    log = max(fold.glob("training_log_*.txt")).read_text()
    return median(float(value) for value in re.findall(r"Epoch time: ([\d.]+) s", log)) / steps


def read_run(out: Path, trainer: str, seed: int, steps: int) -> dict:
    """Dice per test case, and seconds a training step."""
    run = out / f"seed_{seed}"
    summary = json.loads((run / f"{trainer}_summary.json").read_text())
    fold = run / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}" / "fold_0"
    dice = {
        Path(case["reference_file"]).name.removesuffix(".nii.gz"): case["metrics"]["1"]["Dice"]
        for case in summary["metric_per_case"]
    }
    return {
        "trainer": trainer,
        "seed": seed,
        "dice": dice,
        "mean_dice": mean(dice.values()),
        "seconds_per_step": seconds_per_step(fold, steps),
    }


def table(runs: list[dict]) -> str:
    cases = list(runs[0]["dice"])
    head = ["trainer", "seed", *cases, "mean", "s a step"]
    rows = [
        [
            run["trainer"],
            str(run["seed"]),
            *(f"{run['dice'][case]:.2f}" for case in cases),
            f"{run['mean_dice']:.3f}",
            f"{run['seconds_per_step']:.2f}",
        ]
        for run in runs
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trainers", nargs="+", default=["nnUNetTrainerStock", "nnUNetTrainerMASTPro"])
    parser.add_argument("--epochs", type=int, choices=sorted(VARIANTS), default=10)
    parser.add_argument("--steps", type=int, default=60, help="per epoch")
    args = parser.parse_args()
    out = args.output.resolve()
    try:
        read_cases(args.data)
        state = State(out, {"data": str(args.data.resolve()), "epochs": args.epochs, "steps": args.steps})
        environ = {
            **os.environ,
            "nnUNet_raw": str(out / "nnUNet_raw"),
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_preprocessed": str(out / "nnUNet_preprocessed"),
            "nnUNet_results": str(out / "seed_0"),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "2",
            "MASTPRO_EPOCH_ITERATIONS": str(args.steps),
        }
        run_steps(preparation(args.data.resolve(), out), state, out / "logs", environ)
        runs = []
        for seed in args.seeds:
            for name in args.trainers:  # in turn, so that a drift of the machine is shared
                trainer = name + VARIANTS[args.epochs]
                own = {**environ, "nnUNet_results": str(out / f"seed_{seed}"), "MASTPRO_SEED": str(seed)}
                run_steps(run_steps_of(out, trainer, seed), state, out / "logs", own)
                runs.append(read_run(out, trainer, seed, args.steps))
    except MASTProError as error:
        sys.exit(f"{error}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"
    (out / "results.json").write_text(json.dumps({"machine": machine, "runs": runs}, indent=2))
    print(f"\n{table(runs)}\n\n{machine}; {args.epochs * args.steps} steps; {out / 'results.json'}")


if __name__ == "__main__":
    main()

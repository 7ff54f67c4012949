"""Choices of the plans' "mastpro" block against each other on the demo's phantom: equal data, steps and seed.

    python benchmarks/variants.py DEMO -o OUT [--variants default token joint] [--seeds 0]

DEMO is a folder that `mastpro demo` wrote; its data set and plans are used. Each variant is trained for 600 steps,
predicts the demo's test cases and is evaluated by stock commands. Writes results.json and prints a Markdown table.
Started again with the same OUT it skips what is finished.
"""

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from statistics import median

from cells import DESIGNS

from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.demo.results import read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps

LENGTH = DESIGNS[3]  # the tables'
VARIANTS = {
    "default": {},
    "token": {"network": {"routing": "token"}},
    "joint": {"network": {"router": "joint"}},
    "rate_1e-3": {"training": {"learning_rate": 1e-3}},
    "rate_5e-3": {"training": {"learning_rate": 5e-3}},
    "prompt_share_1": {"training": {"prompt_share": 1.0}},
}


def preparation(demo: design.Layout, own: design.Layout, block: dict) -> Step:
    """The demo's data set, with the variant's block over that of the plans."""

    def copy(show) -> None:
        for theirs, ours in zip(demo.data, own.data, strict=True):
            shutil.copytree(theirs, ours)
        file = own.preprocessed / f"{design.ANATOMY_PLANS}.json"
        plans = json.loads(file.read_text())
        for section, values in block.items():
            plans["mastpro"][section].update(values)
        file.write_text(json.dumps(plans, indent=2))

    return Step(
        "copy",
        f"Copy the demo's data set; mastpro block {json.dumps(block)}",
        own.data,
        function=copy,
    )


def run_variant(demo: design.Layout, folder: Path, block: dict, seed: int) -> dict:
    """Dice per type and their mean, and seconds a training step (median epoch)."""
    own = design.Layout(folder)
    state = State(folder, {**pipeline.settings(seed, LENGTH), "block": block})
    environ = {**os.environ, **pipeline.variables(own, seed, LENGTH)}
    run_steps(
        [preparation(demo, own, block), *pipeline.model_steps(own, design.MASTPRO, LENGTH)], state, own.logs, environ
    )
    log = max((own.results(design.MASTPRO) / "fold_0").glob("training_log_*.txt")).read_text()
    epoch_s = median(float(value) for value in re.findall(r"Epoch time: ([\d.]+) s", log))
    return {
        "dice": read_dice(own.summary(design.MASTPRO), design.TYPES),
        "seconds_per_step": epoch_s / LENGTH.steps_per_epoch,
    }


def table(runs: list[dict]) -> str:
    types = list(runs[0]["dice"])
    rows = [["variant", "seed", *types, "s a step"], ["---"] * (len(types) + 3)]
    rows += [
        [
            run["variant"],
            str(run["seed"]),
            *(f"{run['dice'][name]:.3f}" for name in types),
            f"{run['seconds_per_step']:.2f}",
        ]
        for run in runs
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default", "token", "joint"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    demo, out = design.Layout(args.demo.resolve()), args.output.resolve()
    try:
        if not (demo.preprocessed / f"{design.ANATOMY_PLANS}.json").is_file():
            raise MASTProError(f"{args.demo} holds no demo's plans; run mastpro demo -o {args.demo} first")
        runs = []
        for seed in args.seeds:
            for name in args.variants:
                found = run_variant(demo, out / f"{name}_seed_{seed}", VARIANTS[name], seed)
                runs.append({"variant": name, "seed": seed, **found})
                (out / "results.json").write_text(json.dumps(runs, indent=2))
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{table(runs)}\n\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

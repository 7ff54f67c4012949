"""One network over sources that each annotate some types: MAST-Pro, stock nnU-Net, and stock with partial labels.

    python benchmarks/pan_tumour.py DEMO -o OUT [--seeds 0 1 2] [--models mastpro stock partial text]

DEMO is a folder that `mastpro demo` wrote; its merged sources, plans and length are used. Stock nnU-Net takes what a
source does not annotate for background, as the merged labels have it; the control has the plugin's partial-label loss
and draws of cases, and the stock network. All have the same optimizer, steps and network sizes. Each model is trained
and predicts the unseen cases, in which everything is annotated, by stock commands; MAST-Pro once more for each type,
with that type alone selected by MASTPRO_TASKS. Writes results.json and prints a Markdown table with the differences
between models and their 95 % interval over seeds and cases, paired. Started again with the same OUT it goes on.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from variants import run_variant

from nnunetv2_mastpro.demo import pipeline
from nnunetv2_mastpro.demo.results import read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.statistics import by_unit, interval
from nnunetv2_mastpro.steps import State, run_steps

EPOCHS = f"{pipeline.EPOCHS}epochs"
MODELS = {
    "mastpro": pipeline.MASTPRO,
    "text": pipeline.TEXT_ONLY,
    "stock": pipeline.BASELINE,
    "partial": pipeline.Model("partial", "stock, partial labels", f"nnUNetTrainerStockPartial_{EPOCHS}"),
}
SELECTED = "MAST-Pro, true type selected"


def run_selected(layout: pipeline.Layout, seed: int) -> dict[str, dict]:
    """Dice of each type, and per case, where MAST-Pro looks for that type alone."""
    dice, cases = {}, {}
    for value, name in enumerate(pipeline.TYPES, 1):
        model = replace(pipeline.MASTPRO, key=f"selected_{name}", title=f"MAST-Pro, {name} selected")
        state = State(layout.folder, {**pipeline.settings(seed), "block": {}})
        environ = {**os.environ, **pipeline.variables(layout, seed), "MASTPRO_TASKS": name}
        run_steps(pipeline.prediction_steps(layout, model, layout.maps), state, layout.logs, environ)
        dice[name] = read_dice(layout.summary(model), pipeline.TYPES)[name]
        cases |= {key: found for key, found in per_case(layout.summary(model)).items() if key.endswith(f" {value}")}
    return {"dice": {**dice, "mean": float(np.nanmean(list(dice.values())))}, "cases": cases}


def per_case(summary: Path) -> dict[str, float]:
    """Dice by case and label value, where the reference has the type."""
    return {
        f"{Path(case['reference_file']).name} {value}": metrics["Dice"]
        for case in json.loads(summary.read_text())["metric_per_case"]
        for value, metrics in case["metrics"].items()
        if metrics["n_ref"]
    }


def difference(rows: list[dict], first: str, second: str) -> str:
    """Mean difference of Dice over seeds, cases and types, with its 95 % interval from resampling cases, paired."""
    cases, changes = [], []
    for row in rows:
        other = next((r for r in rows if r["model"] == second and r["seed"] == row["seed"]), None)
        if row["model"] == first and other is not None:
            cases += [key.split()[0] for key in row["cases"]]
            changes += [(dice - other["cases"][key], 1) for key, dice in row["cases"].items()]
    if not changes:
        return ""
    mean, low, high = interval(by_unit(cases, changes))
    return f"{first} minus {second}: {mean:+.3f} ({low:+.3f} to {high:+.3f})"


def table(rows: list[dict]) -> str:
    types = list(rows[0]["dice"])
    lines = [["model", "seed", *types], ["---"] * (len(types) + 2)]
    for row in sorted(rows, key=lambda row: (row["model"], row["seed"])):
        lines.append([row["model"], str(row["seed"]), *(f"{row['dice'][name]:.3f}" for name in types)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["mastpro", "stock", "partial"])
    args = parser.parse_args()
    demo, out = pipeline.Layout(args.demo.resolve()), args.output.resolve()
    rows = []
    try:
        if not (demo.preprocessed / f"{pipeline.ANATOMY_PLANS}.json").is_file():
            raise MASTProError(f"{args.demo} holds no demo's plans; run mastpro demo -o {args.demo} first")
        for seed in args.seeds:
            for key in args.models:
                model, layout = MODELS[key], pipeline.Layout(out / f"{key}_seed_{seed}")
                found = run_variant(demo, layout.folder, {}, seed, model)
                rows.append({"model": model.title, "seed": seed, **found, "cases": per_case(layout.summary(model))})
                if key == "mastpro":
                    rows.append({"model": SELECTED, "seed": seed, **run_selected(layout, seed)})
                (out / "results.json").write_text(json.dumps(rows, indent=2))
    except MASTProError as error:
        sys.exit(f"{error}")
    titles = list(dict.fromkeys(row["model"] for row in rows))
    differences = [difference(rows, titles[0], other) for other in titles[1:]]
    print(f"\n{table(rows)}\n\nMean difference of Dice, 95 % interval over cases:\n" + "\n".join(differences))
    print(f"\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

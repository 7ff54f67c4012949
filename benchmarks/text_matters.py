"""What the text does in the demo's trained model: prompts exchanged and blanked, then predicted again.

    python benchmarks/text_matters.py DEMO -o OUT

DEMO is a folder that `mastpro demo` wrote. A copy of its model gets other embeddings in the checkpoint, and stock
`nnUNetv2_predict_from_modelfolder` predicts the demo's test cases with it. For two exchanged types the table gives the
Dice of each prediction against its own truth and against the other's. Writes results.json and prints Markdown.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps

TYPES = design.TYPES


def changed_model(model: Path, folder: Path, order: list[int] | None) -> None:
    """A copy of the model whose embeddings are permuted by `order`, or zero where it is None."""
    (folder / "fold_0").mkdir(parents=True)
    for name in ("dataset.json", "plans.json"):
        shutil.copy(model / name, folder)
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    embeddings = checkpoint["network_weights"]["embeddings"]
    changed = torch.zeros_like(embeddings) if order is None else embeddings[order]
    checkpoint["network_weights"]["embeddings"] = changed
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def steps(demo: design.Layout, out: Path, name: str, order: list[int] | None) -> list[Step]:
    model, predictions = out / f"model_{name}", out / f"predictions_{name}"
    return [
        Step(
            f"model_{name}",
            f"Change the embeddings: {name}",
            (model,),
            function=lambda show: changed_model(demo.results(design.MASTPRO), model, order),
        ),
        Step(
            f"predict_{name}",
            "Predict the test cases",
            (predictions,),
            (
                "nnUNetv2_predict_from_modelfolder",
                "-i",
                str(demo.unseen / "imagesTs"),
                "-o",
                str(predictions),
                "-m",
                str(model),
                "-prev_stage_predictions",
                str(demo.maps),
                "-f",
                "0",
                "-device",
                "cpu",
                "--disable_tta",
                "-npp",
                "1",
                "-nps",
                "1",
            ),
        ),
    ]


def dice(truths: Path, predictions: Path, truth_label: int, label: int) -> float:
    """Mean over the cases that have `truth_label` of the Dice of `label` in the prediction against it."""
    values = []
    for file in sorted(truths.glob(f"*{pipeline.FILE_ENDING}")):
        truth, found = (
            sitk.GetArrayFromImage(sitk.ReadImage(folder / file.name)) == value
            for folder, value in ((truths, truth_label), (predictions, label))
        )
        if truth.any():
            values.append(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    return float(np.mean(values))


def dice_by_type(truths: Path, predictions: Path, labels: Mapping[str, int]) -> dict[str, float]:
    """`dice` of the demo's types that a model has; `labels`: what its predictions call them."""
    return {
        kind: dice(truths, predictions, value, labels[kind]) for value, kind in enumerate(TYPES, 1) if kind in labels
    }


def measure(demo: design.Layout, out: Path, state: State) -> list[dict]:
    kept = list(range(len(TYPES)))
    orders: dict[str, list[int] | None] = {"as_trained": kept, "blanked": None}
    for first, second in itertools.combinations(kept, 2):
        order = list(kept)
        order[first], order[second] = second, first
        orders[f"exchanged_{TYPES[first]}_{TYPES[second]}"] = order
    environ = {**os.environ, **pipeline.variables(demo, 0)}
    runs = []
    for name, order in orders.items():
        run_steps(steps(demo, out, name, order), state, out / "logs", environ)
        other = kept if order is None else order
        for index, label in enumerate(TYPES):
            own, theirs = (
                dice(demo.unseen / "labelsTs", out / f"predictions_{name}", value + 1, index + 1)
                for value in (index, other[index])
            )
            runs.append(
                {
                    "change": name,
                    "output": label,
                    "dice_own_truth": own,
                    "other": TYPES[other[index]] if other[index] != index else None,
                    "dice_others_truth": theirs,
                }
            )
    return runs


def table(runs: list[dict]) -> str:
    rows = [["embeddings", "output", "Dice, its own truth", "Dice, the truth of the exchanged type"], ["---"] * 4]
    rows += [
        [
            run["change"].replace("_", " "),
            run["output"],
            f"{run['dice_own_truth']:.3f}",
            f"{run['dice_others_truth']:.3f} ({run['other']})" if run["other"] else "",
        ]
        for run in runs
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    demo, out = design.Layout(args.demo.resolve()), args.output.resolve()
    try:
        if not (demo.results(design.MASTPRO) / "fold_0" / "checkpoint_final.pth").is_file():
            raise MASTProError(f"{args.demo} holds no trained demo; run mastpro demo -o {args.demo} first")
        runs = measure(demo, out, State(out, {"demo": str(demo.folder)}))
    except MASTProError as error:
        sys.exit(f"{error}")
    (out / "results.json").write_text(json.dumps(runs, indent=2))
    print(f"\n{table(runs)}\n\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

"""A type added to a trained model, and types added apart and unpacked together, on the demo's sources.

    python benchmarks/added_type.py DEMO -o OUT [--seeds 0 1 2] [--old 2] [--epochs 10]

DEMO is a folder that `mastpro demo` wrote. Its first sources are merged, and MAST-Pro, on text, is trained on them for
600 steps. Each of the other sources is added to that model with `mastpro add-tumour`, apart from the others; their
packs are unpacked into the first model. All predict the demo's unseen cases, in which everything is annotated, with all
types selected. From the Dice of each type one reads what old types lose, and what types lose beside each other. Writes
results.json and prints Markdown. Started again with the same OUT it goes on.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from cells import DESIGNS
from text_matters import dice_by_type

from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps

BASE = 520
LENGTH = DESIGNS[3]  # the tables'
PLANS, NEW_PLANS = "BasePlans", "AddedPlans"


def steps(demo: design.Layout, out: Path, old: int, epochs: int) -> tuple[list[Step], dict[str, Path]]:
    """All of a seed's, and the models by name."""
    raw, preprocessed, results = (out / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"))
    base = f"Dataset{BASE}_Base"
    model = results / base / f"{design.TEXT_ONLY.trainer}__{PLANS}__3d_fullres"
    models = {"base": model}
    identifiers = [str(design.DATASET_ID + 1 + number) for number in range(old)]
    workers = str(design.WORKERS)

    def link_sources(show) -> None:
        raw.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(design.SOURCES):
            source = design.source_name(number, name)
            (raw / source).symlink_to(demo.raw.parent / source)

    found = [
        Step("sources", "Link the demo's sources", (raw,), function=link_sources),
        Step(
            "merge",
            f"Merge the first {old}",
            (raw / base, preprocessed / base),
            ("mastpro", "merge", "-d", *identifiers, "-o", str(BASE), "-n", "Base")
            + ("--folds", str(design.FOLDS), "-np", workers),
        ),
        Step(
            "plan",
            "Plan and preprocess",
            (preprocessed / base / design.DATA_IDENTIFIER,),
            ("nnUNetv2_plan_and_preprocess", "-d", str(BASE), "-c", "3d_fullres", "-npfp", workers, "-np", workers),
        ),
        Step(
            "overlay",
            "The demo's network and patch",
            (preprocessed / base / f"{PLANS}.json",),
            ("mastpro", "plan", "-d", str(BASE), "--overlay", design.OVERLAY, "-n", PLANS),
        ),
        Step(
            "train",
            "Train the first model",
            (model,),
            ("nnUNetv2_train", str(BASE), "3d_fullres", "0", "-p", PLANS, "-tr", design.TEXT_ONLY.trainer)
            + ("-device", "cpu"),
        ),
    ]
    packs = []
    for number in range(old, len(design.TYPES)):
        kind, identifier = design.TYPES[number], BASE + 1 + number
        name, trainer = f"Dataset{identifier}_With{kind}", f"nnUNetTrainerMASTPro_{epochs}epochs"
        grown = results / name / f"{trainer}__{NEW_PLANS}__3d_fullres"
        models[f"base + {kind}"] = grown
        packs.append(out / f"{kind}.safetensors")
        found += [
            Step(
                f"relabel_{kind}",
                f"{kind} with the model's classes before it",
                (raw / name, preprocessed / name),
                ("mastpro", "merge", "-d", str(design.DATASET_ID + 1 + number), "-o", str(identifier))
                + ("-n", f"With{kind}", "--model", str(model), "--folds", str(design.FOLDS), "-np", workers),
            ),
            Step(
                f"add_{kind}",
                f"Add {kind}",
                (grown,),
                ("mastpro", "add-tumour", "-m", str(model), "-d", str(identifier), "-n", NEW_PLANS)
                + ("--trainer", trainer, "-device", "cpu", "-np", workers),
            ),
            Step(
                f"pack_{kind}",
                "Pack it",
                (packs[-1],),
                ("mastpro", "pack", "-m", str(grown), "--type", kind, "-o", str(packs[-1])),
            ),
        ]
    models["base + all, unpacked"] = out / "unpacked"
    found.append(
        Step(
            "unpack",
            "Unpack the packs together",
            (out / "unpacked",),
            ("mastpro", "unpack", "-m", str(model), *map(str, packs), "-o", str(out / "unpacked")),
        )
    )
    for number, (name, folder) in enumerate(models.items()):
        predictions = out / f"predictions_{number}"
        found.append(
            Step(
                f"predict_{number}",
                f"Predict the unseen cases: {name}",
                (predictions,),
                ("nnUNetv2_predict_from_modelfolder", "-i", str(demo.unseen / "imagesTs"), "-o", str(predictions))
                + ("-m", str(folder), "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"),
            )
        )
    return found, models


def run_seed(demo: design.Layout, out: Path, seed: int, old: int, epochs: int) -> list[dict]:
    state = State(out, {**pipeline.settings(seed, LENGTH), "old": old, "epochs": epochs})
    environ = {**os.environ, **pipeline.variables(design.Layout(out), seed, LENGTH)}
    found, models = steps(demo, out, old, epochs)
    run_steps(found, state, out / "logs", environ)
    rows = []
    for number, (name, folder) in enumerate(models.items()):
        labels = json.loads((folder / "dataset.json").read_text())["labels"]
        scores = dice_by_type(demo.unseen / "labelsTs", out / f"predictions_{number}", labels)
        rows.append({"model": name, "seed": seed, "dice": scores})
    return rows


def table(rows: list[dict]) -> str:
    lines = [["model", "seed", *design.TYPES], ["---"] * (len(design.TYPES) + 2)]
    for row in rows:
        cells = (f"{row['dice'][name]:.3f}" if name in row["dice"] else "" for name in design.TYPES)
        lines.append([row["model"], str(row["seed"]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--old", type=int, default=2, help="sources of one type that the first model learns (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of each added type (default: %(default)s)")
    args = parser.parse_args()
    demo, out = design.Layout(args.demo.resolve()), args.output.resolve()
    rows = []
    try:
        if not shutil.which("mastpro") or not demo.unseen.is_dir():
            raise MASTProError(f"{args.demo} holds no demo's data; run mastpro demo -o {args.demo} first")
        for seed in args.seeds:
            rows += run_seed(demo, out / f"seed_{seed}", seed, args.old, args.epochs)
            (out / "results.json").write_text(json.dumps(rows, indent=2))
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{table(rows)}\n\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

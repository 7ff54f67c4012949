"""What becomes of a rare tumour type: draws by three temperatures, and a model of it alone.

    python benchmarks/rare_type.py DEMO -o OUT [--seeds 0 1 2] [--cases 2] [--steps 600]

DEMO is a folder that `mastpro demo` wrote. Its sources without lung tumours, 21 cases, are merged with 2 cases of the
source of lung tumours, about one in ten. MAST-Pro, on text, is trained on them with the sampling temperature 0.5 (the
default), 1 (every case alike) and 0 (types alike), and on the 2 cases alone, --steps each. All predict the demo's
unseen cases, in which everything is annotated. Writes results.json and prints Markdown. Started again with the same OUT
it goes on.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

from cells import DESIGNS, EPOCHS
from text_matters import dice_by_type

from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps

RARE = design.LUNG
COMMON = [number for number, annotated in enumerate(design.SOURCES.values()) if RARE not in annotated]
SOURCE = next(number for number, annotated in enumerate(design.SOURCES.values()) if annotated == (RARE,))
FEW, MERGED = "Dataset530_FewLung", "Dataset531_RareLung"
PLANS = "RarePlans"
ARMS = {  # name -> data set, sampling temperature
    "rare type drawn more often (0.5)": (MERGED, 0.5),
    "every case alike (1)": (MERGED, 1.0),
    "the rare type alone": (FEW, 0.5),
    "types drawn alike (0)": (MERGED, 0.0),
}


def identifier(name: str) -> str:
    return name.removeprefix("Dataset").split("_")[0]


def take_cases(demo: design.Layout, raw: Path, cases: int) -> None:
    """Links the common sources, and the first cases of the rare type's as a data set of its own."""
    raw.mkdir(parents=True, exist_ok=True)
    for number in COMMON:
        source = design.source_name(number, list(design.SOURCES)[number])
        (raw / source).symlink_to(demo.raw.parent / source)
    source = demo.raw.parent / design.source_name(SOURCE, list(design.SOURCES)[SOURCE])
    names = sorted(path.name.removesuffix(pipeline.FILE_ENDING) for path in (source / "labelsTr").iterdir())[:cases]
    for folder, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        (raw / FEW / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / folder / f"{name}{ending}{pipeline.FILE_ENDING}", raw / FEW / folder)
    content = json.loads((source / "dataset.json").read_text()) | {"numTraining": len(names), "name": FEW}
    (raw / FEW / "dataset.json").write_text(json.dumps(content, indent=4))


def preparation(demo: design.Layout, layout: design.Layout, cases: int) -> list[Step]:
    raw, preprocessed, workers = layout.raw.parent, layout.preprocessed.parent, str(design.WORKERS)
    merged = [str(design.DATASET_ID + 1 + number) for number in COMMON] + [identifier(FEW)]
    found = [
        Step("sources", f"Take {cases} cases of {RARE}", (raw,), function=lambda show: take_cases(demo, raw, cases)),
        Step(
            "merge",
            "Merge",
            (raw / MERGED, preprocessed / MERGED),
            ("mastpro", "merge", "-d", *merged, "-o", identifier(MERGED), "-n", MERGED.split("_")[1])
            + ("--folds", str(design.FOLDS), "-np", workers),
        ),
    ]
    for name in (MERGED, FEW):
        dataset = ("-d", identifier(name))
        command = ("nnUNetv2_plan_and_preprocess", *dataset, "-c", "3d_fullres", "-npfp", workers, "-np", workers)
        made = preprocessed / name / design.DATA_IDENTIFIER
        found.append(Step(f"preprocess_{name}", "Plan and preprocess", (made,), command))
        for temperature in sorted({arm[1] for arm in ARMS.values() if arm[0] == name}):
            found += plans_steps(preprocessed / name, dataset, temperature)
    return found


def plans_steps(folder: Path, dataset: tuple[str, str], temperature: float) -> list[Step]:
    """The demo's network and patch, with this sampling temperature."""
    name = plans_name(temperature)
    file = folder / f"{name}.json"

    def change(show) -> None:
        plans = json.loads((folder / f"Before{name}.json").read_text())
        plans["mastpro"]["training"]["sampling_temperature"] = temperature
        write_atomically({file: json.dumps({**plans, "plans_name": name}, indent=4).encode()})

    overlay = ("mastpro", "plan", *dataset, "--overlay", design.OVERLAY, "-n", f"Before{name}")
    return [
        Step(f"overlay_{folder.name}_{name}", "The demo's network", (folder / f"Before{name}.json",), overlay),
        Step(f"plans_{folder.name}_{name}", f"Sampling temperature {temperature}", (file,), function=change),
    ]


def plans_name(temperature: float) -> str:
    return f"{PLANS}{round(100 * temperature)}"


def run_seed(demo: design.Layout, layout: design.Layout, seed: int, cases: int, length: design.Design) -> list[dict]:
    state = State(layout.folder, {**pipeline.settings(seed, length), "cases": cases})
    environ, rows = {**os.environ, **pipeline.variables(layout, seed, length)}, []
    for number, (arm, (name, temperature)) in enumerate(ARMS.items()):
        trainer, plans = design.TEXT_ONLY.trainer, plans_name(temperature)
        model = layout.folder / "nnUNet_results" / name / f"{trainer}__{plans}__3d_fullres"
        predictions = layout.folder / f"predictions_{number}"
        train = ("nnUNetv2_train", identifier(name), "3d_fullres", "all", "-p", plans, "-tr", trainer)
        predict = ("nnUNetv2_predict_from_modelfolder", "-i", str(demo.unseen / "imagesTs"), "-o", str(predictions))
        predict += ("-m", str(model), "-f", "all", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1")
        steps = [
            Step(f"train_{number}", f"Train: {arm}", (model,), (*train, "-device", "cpu")),
            Step(f"predict_{number}", f"Predict the unseen cases: {arm}", (predictions,), predict),
        ]
        run_steps(steps, state, layout.logs, environ)
        labels = json.loads((model / "dataset.json").read_text())["labels"]
        scores = dice_by_type(demo.unseen / "labelsTs", predictions, labels)
        rows.append({"arm": arm, "seed": seed, "dice": scores})
    return rows


def table(rows: list[dict]) -> str:
    """Dice by type: each seed's, and the mean."""
    lines = [["cases", *design.TYPES], ["---"] * (len(design.TYPES) + 1)]
    for arm in ARMS:
        cells = []
        for kind in design.TYPES:
            found = [row["dice"][kind] for row in rows if row["arm"] == arm and kind in row["dice"]]
            cells.append(f"{', '.join(f'{value:.3f}' for value in found)} ({mean(found):.3f})" if found else "")
        lines.append([arm, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", type=int, default=2, help="of the rare type (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of each training (default: %(default)s)")
    args = parser.parse_args()
    length = replace(DESIGNS[3], steps_per_epoch=max(1, args.steps // EPOCHS))
    demo, out = design.Layout(args.demo.resolve()), args.output.resolve()
    data, rows = design.Layout(out / "data"), []
    try:
        if not shutil.which("mastpro") or not demo.unseen.is_dir():
            raise MASTProError(f"{args.demo} holds no demo's data; run mastpro demo -o {args.demo} first")
        state = State(data.folder, {**pipeline.settings(0), "cases": args.cases})
        environ = {**os.environ, **pipeline.variables(data, 0)}
        run_steps(preparation(demo, data, args.cases), state, data.logs, environ)
        for seed in args.seeds:
            rows += run_seed(demo, design.Layout(out / f"seed_{seed}", data.folder), seed, args.cases, length)
            (out / "results.json").write_text(json.dumps(rows, indent=2))
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{table(rows)}\n\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

"""What host-organ maps change on the demo's phantom: Dice, false positives, maps withheld, patches skipped.

    python benchmarks/anatomy.py DEMO -o OUT [--seeds 0 1 2]

DEMO is a folder that `mastpro demo` wrote; its data set, plans and length are used. For each seed MAST-Pro is trained
with the maps and without, by stock commands and for equal steps; the first model also predicts with empty maps, and
`mastpro postprocess` treats the second's predictions. Then a test case, extended along z by repeating its first and
last slice, is predicted with and without skipping of empty patches. Writes results.json and prints Markdown tables.
Started again with the same OUT it skips what is finished.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from variants import run_variant

from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.demo.results import read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.steps import State, Step, run_steps

WITHHELD = replace(design.MASTPRO, key="withheld", title="MAST-Pro, maps withheld")
POSTPROCESSED = replace(design.TEXT_ONLY, key="postprocessed", title="MAST-Pro, text only, postprocessed")
TIMES_AS_TALL = 5
DILATE_MM = 10


def false_positive_ml(summary: Path) -> float:
    """Per case: what is predicted as any tumour type and is none of that type."""
    cases = json.loads(summary.read_text())["metric_per_case"]
    voxel_ml = np.prod(design.GRID.spacing_mm) / 1000
    return float(voxel_ml * np.mean([sum(metrics["FP"] for metrics in case["metrics"].values()) for case in cases]))


def run_seed(demo: design.Layout, out: Path, seed: int) -> list[dict]:
    """Both trainings, and the further predictions of their models."""
    with_maps, without = out / f"anatomy_seed_{seed}", out / f"text_seed_{seed}"
    run_variant(demo, with_maps, {}, seed, design.MASTPRO)
    run_variant(demo, without, {}, seed, design.TEXT_ONLY)
    own, text = design.Layout(with_maps), design.Layout(without)
    empty = own.folder / "empty_maps"
    withheld = [
        Step(
            "empty_maps",
            "Empty maps",
            (empty,),
            (
                *("mastpro", "anatomy", "-d", str(design.DATASET_ID)),
                *("-i", str(own.unseen / "imagesTs"), "-o", str(empty), "--without-masks"),
            ),
        ),
        *pipeline.prediction_steps(own, WITHHELD, empty),
    ]
    treated = text.predictions(POSTPROCESSED)
    postprocessed = [
        Step(
            "postprocess",
            "Remove components that do not touch their host organ",
            (treated,),
            (
                "mastpro",
                "postprocess",
                *("-i", str(text.predictions(design.TEXT_ONLY)), "-o", str(treated)),
                *("--maps", str(text.maps), "-np", "1"),
            ),
        ),
        pipeline.prediction_steps(text, POSTPROCESSED, empty)[-1],  # evaluation
    ]
    rows = []
    for layout, steps, models in (
        (own, withheld, (design.MASTPRO, WITHHELD)),
        (text, postprocessed, (design.TEXT_ONLY, POSTPROCESSED)),
    ):
        state = State(layout.folder, {**pipeline.settings(seed), "block": {}})
        run_steps(steps, state, layout.logs, {**os.environ, **pipeline.variables(layout, seed)})
        for model in models:
            summary = layout.summary(model)
            found = {"dice": read_dice(summary, design.TYPES), "false_positive_ml": false_positive_ml(summary)}
            rows.append({"model": model.title, "seed": seed, **found})
    return rows


def extended(volume: np.ndarray, mode: str) -> np.ndarray:
    """(1, Z, Y, X) with more slices on both ends."""
    height = volume.shape[1]
    before = height * (TIMES_AS_TALL - 1) // 2
    return np.pad(volume, ((0, 0), (before, height * TIMES_AS_TALL - height - before), (0, 0), (0, 0)), mode=mode)


def skipping(layout: design.Layout, scratch: Path) -> list[dict]:
    """Seconds and Dice of a tall volume, with and without skipping, with the maps as they are and dilated.

    In a process of its own: nnU-Net reads its folders from the environment when it is imported.
    """
    dilated = scratch / "dilated_maps"
    shutil.rmtree(dilated, ignore_errors=True)
    environ = {**os.environ, **pipeline.variables(layout, 0)}
    command = [str(Path(sys.executable).parent / "mastpro"), "anatomy", "-d", str(design.DATASET_ID)]
    command += ["-i", str(layout.unseen / "imagesTs"), "-o", str(dilated), "--masks", str(layout.organs)]
    subprocess.run([*command, "--dilate-mm", str(DILATE_MM)], env=environ, check=True)
    job = [sys.executable, __file__, str(layout.folder), "-o", str(scratch), "--skip-only", str(dilated)]
    answer = subprocess.run(job, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def measure_skipping(layout: design.Layout, dilated: Path) -> list[dict]:
    """As `skipping`, in this process."""
    import torch
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    reader, rows = SimpleITKIO(), []
    case = sorted(path.name for path in (layout.unseen / "labelsTs").glob(f"*{pipeline.FILE_ENDING}"))[0]
    name = case.removesuffix(pipeline.FILE_ENDING)
    image, properties = reader.read_images([str(layout.unseen / "imagesTs" / f"{name}_0000{pipeline.FILE_ENDING}")])
    truth, _ = reader.read_seg(str(layout.unseen / "labelsTs" / case))
    image, truth = extended(image, "edge"), extended(truth, "constant")[0]
    base = None
    for maps, skip in ((layout.maps, "0"), (layout.maps, "1"), (dilated, "1")):
        os.environ["MASTPRO_SKIP_EMPTY"] = skip
        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(layout.results(design.MASTPRO)), ("0",))
        organs = extended(reader.read_seg(str(maps / case))[0], "constant")
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            found = predictor.predict_single_npy_array(image, dict(properties), organs)
            seconds.append(time.perf_counter() - started)
        base = found if base is None else base
        dice = {
            label: 2 * ((found == value) & (truth == value)).sum() / ((found == value).sum() + (truth == value).sum())
            for value, label in enumerate(design.TYPES, 1)
            if (truth == value).any()
        }
        rows.append(
            {
                "maps": "as they are" if maps != dilated else f"dilated by {DILATE_MM} mm",
                "skipping": skip == "1",
                "seconds": min(seconds),
                "dice": float(np.mean(list(dice.values()))),
                "lost_voxels": int(((base == truth) & (found != truth) & (truth > 0)).sum()),
                "tumour_voxels": int((truth > 0).sum()),
            }
        )
    return rows


def tables(rows: list[dict], skips: list[dict]) -> str:
    types = list(rows[0]["dice"])
    lines = [["model", "seed", *types, "false-positive ml a case"], ["---"] * (len(types) + 3)]
    for row in sorted(rows, key=lambda row: row["model"]):
        dice = (f"{row['dice'][name]:.3f}" for name in types)
        lines.append([row["model"], str(row["seed"]), *dice, f"{row['false_positive_ml']:.2f}"])
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    lines = [["maps", "skipping", "seconds", "of the time", "Dice", "tumour voxels lost"], ["---"] * 6]
    for row in skips:
        share = f"{row['seconds'] / skips[0]['seconds']:.2f}"
        lost = f"{row['lost_voxels']} of {row['tumour_voxels']}"
        what = "yes" if row["skipping"] else "no"
        lines.append([row["maps"], what, f"{row['seconds']:.1f}", share, f"{row['dice']:.3f}", lost])
    return shown + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--skip-only", type=Path, metavar="DILATED_MAPS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    demo, out = design.Layout(args.demo.resolve()), args.output.resolve()
    if args.skip_only is not None:
        print(json.dumps(measure_skipping(demo, args.skip_only)))
        return
    try:
        if not (demo.preprocessed / f"{design.ANATOMY_PLANS}.json").is_file():
            raise MASTProError(f"{args.demo} holds no demo's plans; run mastpro demo -o {args.demo} first")
        out.mkdir(parents=True, exist_ok=True)
        rows = [row for seed in args.seeds for row in run_seed(demo, out, seed)]
        skips = skipping(design.Layout(out / f"anatomy_seed_{args.seeds[0]}"), out)
    except MASTProError as error:
        sys.exit(f"{error}")
    (out / "results.json").write_text(json.dumps({"models": rows, "skipping": skips}, indent=2))
    print(f"\n{tables(rows, skips)}\n\n{out / 'results.json'}")


if __name__ == "__main__":
    main()

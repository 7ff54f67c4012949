"""What host-organ maps change on Table 1's phantom: Dice, false positives, maps withheld, patches skipped.

    python -m benchmarks.anatomy -o OUT [--seeds 0 1 2]

OUT is that of table1 and table2 with --types 3: MAST-Pro with the maps and without (their rows `mastpro` and
`tp_experts`) is taken from there, and trained where it is not there yet. The first model also predicts with empty maps,
and `mastpro postprocess` treats the second's predictions. Then a test case, extended along z by repeating its first and
last slice, is predicted with and without skipping of empty patches, with the maps as they are and dilated. Writes
OUT/anatomy.json and prints Markdown tables. Started again with the same OUT it skips what is finished.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.cells import MASTPRO, model_of, rows_of
from benchmarks.runs import Phantom
from nnunetv2_mastpro.demo import design, pipeline
from nnunetv2_mastpro.demo.results import read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.steps import Step, run_steps

WITH_MAPS = model_of(MASTPRO)
TEXT_ONLY = replace(model_of(rows_of("table2", ["tp_experts"])[0]), title="MAST-Pro, text only")
WITHHELD = replace(WITH_MAPS, key="withheld", title="MAST-Pro, maps withheld")
POSTPROCESSED = replace(TEXT_ONLY, key="postprocessed", title="MAST-Pro, text only, postprocessed")
TIMES_AS_TALL = 5
DILATE_MM = 10


def false_positive_ml(summary: Path) -> float:
    """Per case: what is predicted as any tumour type and is none of that type."""
    cases = json.loads(summary.read_text())["metric_per_case"]
    voxel_ml = np.prod(design.GRID.spacing_mm) / 1000
    return float(voxel_ml * np.mean([sum(metrics["FP"] for metrics in case["metrics"].values()) for case in cases]))


def run_seed(phantom: Phantom, seed: int) -> list[dict]:
    """Both trainings, where they are not there, and the further predictions of their models."""
    rows, chosen = [], phantom.design()
    for model, more, further in ((WITH_MAPS, WITHHELD, withheld), (TEXT_ONLY, POSTPROCESSED, postprocessed)):
        layout, state = phantom.trained(rows_of("table2", [model.key])[0], model.key, seed)
        steps = [*pipeline.model_steps(layout, model, chosen), *further(layout, chosen)]
        run_steps(steps, state, layout.logs, {**os.environ, **pipeline.variables(layout, seed, chosen)})
        for shown in (model, more):
            summary = layout.summary(shown)
            found = {"dice": read_dice(summary, design.TYPES), "false_positive_ml": false_positive_ml(summary)}
            rows.append({"model": shown.title, "seed": seed, **found})
    return rows


def withheld(layout: design.Layout, chosen: design.Design) -> list[Step]:
    """Prediction with maps that tell nothing."""
    empty = layout.folder / "empty_maps"
    command = ("mastpro", "anatomy", "-d", str(design.DATASET_ID), "-i", str(layout.unseen / "imagesTs"))
    making = Step("empty_maps", "Empty maps", (empty,), (*command, "-o", str(empty), "--without-masks"))
    return [making, *pipeline.prediction_steps(layout, WITHHELD, empty, chosen)]


def postprocessed(layout: design.Layout, chosen: design.Design) -> list[Step]:
    """What is left of the predictions when `mastpro postprocess` has treated them."""
    treated = layout.predictions(POSTPROCESSED)
    command = ("mastpro", "postprocess", "-i", str(layout.predictions(TEXT_ONLY)), "-o", str(treated))
    treating = Step(
        "postprocess",
        "Remove components that do not touch their host organ",
        (treated,),
        (*command, "--maps", str(layout.maps), "-np", "1"),
    )
    return [treating, pipeline.prediction_steps(layout, POSTPROCESSED, layout.maps, chosen)[-1]]  # evaluation


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
    folders = [str(layout.folder), str(layout.home), str(dilated)]
    job = [sys.executable, "-m", "benchmarks.anatomy", "-o", str(scratch), "--skip-only", *folders]
    root = Path(__file__).parents[1]
    answer = subprocess.run(job, env=environ, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
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
    for maps, skip in product((layout.maps, dilated), "01"):
        os.environ["MASTPRO_SKIP_EMPTY"] = skip
        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(layout.results(WITH_MAPS)), ("0",))
        organs = extended(reader.read_seg(str(maps / case))[0], "constant")
        seconds, touched = [], []
        predictor.network.register_forward_pre_hook(
            lambda _, given, touched=touched: touched.append(bool(given[0][:, len(image) :].any()))
        )
        for _ in range(3):
            started = time.perf_counter()
            found = predictor.predict_single_npy_array(image, dict(properties), organs)
            seconds.append(time.perf_counter() - started)
        base = found if skip == "0" else base
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
                "touched_share": float(np.mean(touched)),
                "dice": float(np.mean(list(dice.values()))),
                "lost_voxels": int(((base == truth) & (found != truth) & (truth > 0)).sum()),
                "tumour_voxels": int((truth > 0).sum()),
            }
        )
    return rows


def tables(rows: list[dict], skips: list[dict]) -> str:
    types = list(rows[0]["dice"])
    lines = [
        ["model", "seed", *(name.replace("mean", "mean Dice") for name in types), "false-positive ml a case"],
        ["---"] * (len(types) + 3),
    ]
    for row in sorted(rows, key=lambda row: row["model"]):
        dice = (f"{row['dice'][name]:.3f}" for name in types)
        lines.append([row["model"], str(row["seed"]), *dice, f"{row['false_positive_ml']:.2f}"])
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    titles = ["maps", "patches with a host", "skipping", "seconds", "of the time", "Dice", "tumour voxels lost"]
    lines = [titles, ["---"] * len(titles)]
    for row in skips:
        share, touched = f"{row['seconds'] / skips[0]['seconds']:.2f}", f"{row['touched_share']:.2f}"
        lost = f"{row['lost_voxels']} of {row['tumour_voxels']}"
        what = "yes" if row["skipping"] else "no"
        lines.append([row["maps"], touched, what, f"{row['seconds']:.1f}", share, f"{row['dice']:.3f}", lost])
    return shown + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--skip-only", type=Path, nargs=3, help=argparse.SUPPRESS)  # model's folder, data, maps
    args = parser.parse_args()
    if args.skip_only is not None:
        folder, home, dilated = args.skip_only
        print(json.dumps(measure_skipping(design.Layout(folder, home), dilated)))
        return
    phantom = Phantom(args.output.resolve(), types=3)
    try:
        rows = [row for seed in args.seeds for row in run_seed(phantom, seed)]
        layout, _ = phantom.trained(MASTPRO, MASTPRO.key, args.seeds[0])
        skips = skipping(layout, phantom.out)
    except MASTProError as error:
        sys.exit(f"{error}")
    target = phantom.out / "anatomy.json"
    target.write_text(json.dumps({"models": rows, "skipping": skips}, indent=2))
    print(f"\n{tables(rows, skips)}\n\n{target}")


if __name__ == "__main__":
    main()

"""Two stages on the phantom: PEFT on new tumour types against full fine-tuning and training from scratch.

    python benchmarks/two_stage.py -o OUT [--seeds 0 1 2] [--modes peft full scratch] [--peft-rates 3e-3]
        [--first liver_tumor kidney_tumor] [--second lung_tumor colon_tumor] [--network '{"rank": 16}']
        [--second-network '{"backbone_rank": 16}']

Stage 1 trains the whole network (nnUNetTrainerMASTProPretrain) on the first tumour types. `mastpro weights` takes it
over to a data set of the second types, of other patients, whose plans are those of stage 1 by nnU-Net's own
nnUNetv2_move_plans_between_datasets. Stage 2 trains there, each way with equal steps: PEFT (the backbone stays), all of
the network from the same weights, all of it from scratch. Unseen cases are predicted by stock commands, and once with
the weights as they came. --network changes mastpro.network of the plans of both stages, --second-network that of
stage 2 alone: `mastpro weights` takes over what both have. Prints a Markdown table of all that OUT holds. Started
again with the same OUT it goes on; other --seeds, --modes, --peft-rates and --second-network are added to it.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from stages import FIRST_STEPS, SECOND_STEPS, Design, environment, first_stage, second_stage

from nnunetv2_mastpro.demo.phantom import TUMOR_TYPES
from nnunetv2_mastpro.demo.results import read_dice
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import run_steps


def run(design: Design, data: Path, out: Path, mode: str, rate: float | None, seed: int) -> None:
    """Writes result.json: Dice per type and mean, and seconds a training step (median epoch)."""
    name = mode if rate is None else f"{mode}_{rate:g}"
    if design.second_network:
        name += "_" + re.sub(r"[\W_]+", "", json.dumps(design.second_network, sort_keys=True))
    folder = out / (name if mode == "untuned" else f"{name}_seed_{seed}")
    told = {"mode": mode, "rate": rate, "seed": seed, "second_network": dict(design.second_network)}
    state = State(folder, design.settings() | told, kind="stage")
    steps = second_stage(data, folder, design, mode, rate)
    run_steps(steps, state, folder / "logs", environment(data, folder / "nnUNet_results", SECOND_STEPS, seed))
    logs = [file.read_text() for file in folder.glob("nnUNet_results/*/*/fold_0/training_log_*.txt")]
    epochs_s = [float(value) for text in logs for value in re.findall(r"Epoch time: ([\d.]+) s", text)]
    result = {
        "mode": mode,
        "second_network": dict(design.second_network),
        "rate": rate,
        "seed": seed,
        "dice": read_dice(folder / "summary.json", design.second),
        "seconds_per_step": median(epochs_s) / SECOND_STEPS if epochs_s else None,
    }
    write_atomically({folder / "result.json": json.dumps(result, indent=2).encode()})


def table(rows: list[Mapping]) -> str:
    types = list(rows[0]["dice"])  # and their mean
    lines = [["stage 2", "seed", *types, "s a step"], ["---"] * (len(types) + 3)]
    for row in rows:
        name = row["mode"] if row["rate"] is None else f"{row['mode']}, {row['rate']:g}"
        name += f", {row['second_network']}" if row["second_network"] else ""
        step = "" if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.2f}"
        dice = [f"{row['dice'][key]:.3f}" for key in types]
        lines.append([name, "" if row["mode"] == "untuned" else str(row["seed"]), *dice, step])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", choices=["peft", "full", "scratch"], default=["peft", "full", "scratch"])
    parser.add_argument("--peft-rates", type=float, nargs="+", default=[3e-3])
    parser.add_argument("--first", nargs="+", choices=TUMOR_TYPES, default=["liver_tumor", "kidney_tumor"])
    parser.add_argument("--second", nargs="+", choices=TUMOR_TYPES, default=["lung_tumor", "colon_tumor"])
    parser.add_argument("--network", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--second-network", type=json.loads, default={}, metavar="JSON")
    args = parser.parse_args()
    design = Design(tuple(args.first), tuple(args.second), args.network, args.second_network)
    out = args.output.resolve()
    data = out / "stage_one"
    try:
        state, results = State(data, design.settings(), kind="stage"), data / "nnUNet_results"
        run_steps(first_stage(data, design), state, data / "logs", environment(data, results, FIRST_STEPS, 0))
        ways = [("untuned", None, 0)]
        for seed in args.seeds:
            for mode in args.modes:
                ways += [(mode, rate, seed) for rate in (args.peft_rates if mode == "peft" else [None])]
        for way in ways:
            run(design, data, out, *way)
        rows = [json.loads(file.read_text()) for file in sorted(out.glob("*/result.json"))]
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()

"""What table1 and table2 share: options, cells one at a time, what they write."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.cells import EPOCHS, ROWS, SECONDS_PER_STEP, Row, rows_of
from benchmarks.runs import Datasets, Phantom, Sarcoma
from benchmarks.summary import setting_of, write_summary
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically

CORES = 2  # of the budget


def parse(table: str, description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{table}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="folder of data, trainings, cells and tables; go on with it")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--cells", nargs="+", metavar="ROW", help=f"default: {' '.join(row.key for row in ROWS[table])}")
    add("--backbone", choices=("unet", "swin"), default="unet", help="of the whole table (default: %(default)s)")
    add("--types", type=int, choices=(3, 5), default=5, help="tumour types of the phantom; 3 is the demo's set-up")
    add("--steps", type=int, help="of each training (default: 2000 with five types, 600 with three and on --sts)")
    add("--cases", type=int, help="of each source (default: 16 with five types, 7 with three)")
    add("--alone", action="store_true", help="each source of the five types annotates one (default: two)")
    add("--patches", action="store_true", help="train on patches of half a volume, as the demo does")
    add("--sts", type=Path, metavar="DATA", help="real CT of sarcoma instead of the phantom")
    add("--datasets", nargs="+", metavar="ID", help="your own nnU-Net data sets, preprocessed, instead of the phantom")
    add("--folds", type=int, nargs="+", default=[0], help="of --datasets, in place of seeds (default: 0)")
    add("-c", "--configuration", default="3d_fullres", help="of --datasets (default: %(default)s)")
    add("-p", "--plans", default="nnUNetPlans", help="of --datasets, for rows without organ masks")
    add("--anatomy-plans", default="MASTProPlans", help="of --datasets, for rows with them (mastpro plan --anatomy)")
    add("--epochs", type=int, choices=(1, 5, 10, 50, 100, 250), help="of --datasets (default: nnU-Net's 1000)")
    add("--device", default="cuda", help="of --datasets (default: %(default)s)")
    add("--summarise", action="store_true", help="only write the tables of what is finished")
    args = parser.parse_args(argv)
    if args.sts and args.datasets:
        parser.error("--sts and --datasets are two tables; run them one after the other")
    if args.alone and args.types != 5:
        parser.error("--alone is of the five types; leave --types out")
    if args.patches and args.backbone != "unet":
        parser.error("--patches is of the U-Net; leave --backbone out")
    return args


def setting(args: argparse.Namespace, table: str) -> tuple[str, Phantom | Sarcoma | Datasets, list[Row]]:
    """Name of the cells' folder, what runs the cells, and the rows."""
    out = args.output.resolve()
    rows = rows_of(table, args.cells, sts=bool(args.sts))
    if args.datasets:
        rows = [row for row in rows if not (row.complete or row.selected or row.network)]
        if not rows:
            raise MASTProError("none of --cells is of use on data sets of your own; leave --cells out")
        lengths = (args.configuration, args.plans, args.anatomy_plans, args.epochs, args.device)
        return "datasets", Datasets(tuple(args.datasets), *lengths), rows
    if args.sts:
        return "sts", Sarcoma(out, args.sts.resolve(), args.steps or 600), rows
    phantom = Phantom(out, args.types, args.steps, args.cases, args.backbone, alone=args.alone, patches=args.patches)
    return phantom.kind, phantom, rows


def told(runner) -> dict:
    """What a cell's file says of its setting, so that other ones are not mixed in."""
    kept = {
        key: value for key, value in vars(runner).items() if key not in ("out", "data", "device") and value is not False
    }
    if isinstance(runner, Phantom):
        design = runner.design()
        kept |= {"steps": EPOCHS * design.steps_per_epoch, "cases": design.num_training, "unseen": design.num_test}
    return json.loads(json.dumps(kept))


def hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {threads} threads a process"


def commit() -> str:
    """Of this checkout, and whether it has changes."""
    folder = Path(__file__).parent
    say = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    found = subprocess.run(say, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "unknown (no git checkout)"


def tell_command(table: str, argv: Sequence[str], folders: Mapping[Path | None, str]) -> str:
    """As it was typed, with these names for this machine's folders."""
    names = {str(folder): name for folder, name in folders.items() if folder is not None}
    words = (names.get(str(Path(word)), word) for word in argv)
    return f"python -m benchmarks.{table} {' '.join(words)}"


def run_cell(runner, row: Row, seed: int, file: Path, command: str) -> None:
    """Unless its file is there."""
    if file.is_file():
        return
    print(f"\n=== {row.title}, seed {seed}", flush=True)
    found = runner.run(row, seed)
    run = {"commit": commit(), "command": command, "hardware": hardware()}
    run["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {"row": row.key, "title": row.title, "seed": seed, "setting": told(runner), "run": run, **found}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically({file: json.dumps(content, indent=2).encode()})


def tell_budget(args: argparse.Namespace, runner, count: int) -> None:
    """Before any work; of the phantom, whose steps were timed."""
    if isinstance(runner, Phantom) and count:
        steps = told(runner)["steps"]
        hours = count * steps * SECONDS_PER_STEP[args.backbone] / 3600
        cost = f"about {hours:.1f} h on {CORES} idle cores, {CORES * hours:.0f} CPU hours"
        print(
            f"{count} trainings of {steps} steps to go: {cost}, and less than 10 minutes for the data; interrupt it "
            "when you like and run the same again"
        )


def main(table: str, description: str, argv: Sequence[str] | None = None) -> None:
    args = parse(table, description, argv)
    command = tell_command(table, sys.argv[1:] if argv is None else argv, {args.output: "OUT", args.sts: "DATA"})
    try:
        name, runner, rows = setting(args, table)
        seeds, folder = args.folds if args.datasets else args.seeds, args.output.resolve()
        wanted = [(row, seed) for seed in seeds for row in rows]  # so that a night gives whole comparisons
        files = [folder / "cells" / name / f"{row.key}_seed_{seed}.json" for row, seed in wanted]
        if not args.summarise:
            setting_of(folder / "cells" / name, told(runner))
            missing = [row for (row, _), file in zip(wanted, files, strict=True) if not file.is_file()]
            tell_budget(args, runner, sum(not row.selected for row in missing))  # what needs a training
            for (row, seed), file in zip(wanted, files, strict=True):
                run_cell(runner, row, seed, file, command)
                write_summary(table, name, folder)
        path = write_summary(table, name, folder)
        if path is None:
            raise MASTProError(f"{folder}/cells/{name} holds no finished cell; run without --summarise first")
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{path.read_text()}\n{path}, {path.with_suffix('.csv').name}, {path.with_suffix('.png').name}")

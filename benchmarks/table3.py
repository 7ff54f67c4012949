"""Table 3 of the paper: parameters, trainable parameters, memory and time, all on SwinUNETR.

    python -m benchmarks.table3 -o OUT [--cells memory times] [--feature-size 24] [--side 64] [--batch 2] [--repeats 3]
    python -m benchmarks.table3 -o OUT --summarise

Networks are those of peft_cost.py: MONAI's SwinUNETR, the Universal Model's head on it, MAST-Pro with everything
trained and with the backbone frozen. The cell `memory` counts, at the paper's size (feature size 48, 96^3, batch 4, 8
tumour types, bfloat16 autocast), what a training step keeps, on tensors without storage: minutes, and no GPU. The cell
`times` measures steps and the growth of a process at the size that the options give, on this machine; nothing else
should run.
"""

import argparse
import csv
import io
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.differences import markdown_table
from benchmarks.table import commit, hardware, tell_command
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically

PAPER_SIZE = (48, 96, 4)  # feature size, side, batch
PAPER = {  # training parameters (M), memory (MB)
    "MA-SAM": (363.68, 74544.02),
    "SegVol": (449.08, 19898.00),
    "Universal Model": (244.80, 9710.55),
    "ZePT": (495.10, 24705.40),
    "Ours": (21.04, 8961.30),
}
ROWS = {"Universal Model's head": "Universal Model", "MAST-Pro, PEFT": "Ours"}  # network -> the paper's name
HEAD = [
    "network",
    "parameters (M)",
    "trainable (M)",
    "paper, training (M)",
    "kept in a step (MiB)",
    "paper, memory (MB)",
]
TIMES = ["step (s)", "prediction (s)", "growth of a process (MiB)"]
LIMITS = (
    "Kept in a step: parameters, gradients, AdamW's two moments and the activations that backward needs; a GPU needs "
    "more for what convolutions use for a moment, so the column is a lower limit, and its order says more than its "
    "values. The paper does not say which network, patch or precision its column is of. All but MONAI's own SwinUNETR "
    "have fused attention, the Universal Model's head too; the paper's 244.80 M is not this network's number of "
    "parameters."
)


def measure_memory(args: argparse.Namespace) -> dict:
    """By network: parameters, and MiB at the paper's size."""
    from benchmarks.peft_cost import KINDS, estimate, make, sizes_of

    kept = estimate(*PAPER_SIZE, autocast=True)
    return {
        kind: {**sizes_of(make(kind, PAPER_SIZE[0], False)), "kept_mib": sum(kept[kind, False].values())}
        for kind in KINDS
    }


def measure_times(args: argparse.Namespace) -> dict:
    """By network: seconds and MiB at the size of the options."""
    from benchmarks.peft_cost import KINDS, peak_mib, times

    size = (args.feature_size, args.side, args.batch)
    _, spent = times(*size, args.repeats, checkpointed=False)
    return {
        kind: {
            "step_s": spent[kind]["step"],
            "prediction_s": spent[kind]["prediction"],
            "growth_mib": peak_mib(kind, False, *size),
        }
        for kind in KINDS
    }


CELLS = {"memory": measure_memory, "times": measure_times}


def run_cell(name: str, args: argparse.Namespace, command: str) -> None:
    """Unless its file is there. Raises MASTProError where that is of another size, which only `times` depends on."""
    file = args.output / "cells" / "table3" / f"{name}.json"
    size = {"feature_size": args.feature_size, "side": args.side, "batch": args.batch}
    if name == "memory":
        size = dict(zip(size, PAPER_SIZE, strict=True))
    if file.is_file():
        before = json.loads(file.read_text())["size"]
        if before != size:
            raise MASTProError(f"{file} was made at {before}, not {size}; give the same, or -o another folder")
        return
    run = {"commit": commit(), "command": command, "hardware": hardware()}
    found = CELLS[name](args)
    run["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically({file: json.dumps({"run": run, "size": size, "networks": found}, indent=2).encode()})


def write_summary(folder: Path) -> Path | None:
    """table3.md, .csv and .png of the cells that are finished; None without the cell `memory`."""
    files = {name: folder / "cells" / "table3" / f"{name}.json" for name in CELLS}
    cells = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    if "memory" not in cells:
        return None
    spent = cells.get("times", {"networks": {}})
    lines = [HEAD + (TIMES if spent["networks"] else [])]
    for kind, found in cells["memory"]["networks"].items():
        paper = PAPER.get(ROWS.get(kind, ""))
        line = [kind, f"{found['parameters']:.2f}", f"{found['trainable']:.2f}", f"{paper[0]:.2f}" if paper else ""]
        line += [f"{found['kept_mib']:.0f}", f"{paper[1]:.0f}" if paper else ""]
        own = spent["networks"].get(kind)
        lines.append(
            line + ([f"{own['step_s']:.2f}", f"{own['prediction_s']:.2f}", f"{own['growth_mib']:.0f}"] if own else [])
        )
    others = [[name, "", "", f"{count:.2f}", "", f"{memory:.0f}"] for name, (count, memory) in PAPER.items()]
    others = [line + [""] * (len(lines[0]) - len(line)) for line in others if line[0] not in ROWS.values()]
    at = f"Times and growth at {json.dumps(spent['size'])}, float32.\n" if spent["networks"] else ""
    runs = [cell["run"] for cell in cells.values()]
    told = "; ".join(dict.fromkeys(f"commit {run['commit']}; `{run['command']}`; {run['hardware']}" for run in runs))
    text = [
        markdown_table(lines + others),
        "",
        f"{at}{LIMITS}",
        "",
        f"{told}; {max(run['date'] for run in runs)[:10]}.",
        "",
    ]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines + others)
    path = folder / "table3.md"
    content = {path: "\n".join(text).encode(), path.with_suffix(".csv"): stream.getvalue().encode()}
    write_atomically({**content, path.with_suffix(".png"): draw(cells["memory"]["networks"])})
    return path


def draw(networks: dict) -> bytes:
    """Trainable parameters and what a step keeps, by network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(networks)[::-1]
    for axis, (key, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("trainable", "trainable parameters (M)"), ("kept_mib", "kept in a step (MiB)")),
        strict=True,
    ):
        axis.barh(names, [networks[name][key] for name in names], color="#9db8d6")
        axis.set_xlabel(title)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=120, format="png")
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table3", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of cells and tables; go on with it")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--feature-size", type=int, default=24)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--summarise", action="store_true", help="only write the table of what is finished")
    args = parser.parse_args()
    try:
        for name in () if args.summarise else args.cells:
            run_cell(name, args, tell_command("table3", sys.argv[1:], {args.output: "OUT"}))
        path = write_summary(args.output)
        if path is None:
            raise MASTProError(f"{args.output}/cells/table3 holds no cell `memory`; run it first")
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"\n{path.read_text()}\n{path}, {path.with_suffix('.csv').name}, {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()

"""From finished cells to a table: Markdown, CSV and a picture. Whatever is not finished is left out and counted."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cells import EXTRA, PAPER, ROWS, Row
from benchmarks.differences import difference, effects, markdown_table, with_interval
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically

BACKBONE_OF_PAPER = "swin"  # a fixed head on another one is not the paper's "Swin UNETR"
CALIBRATION = (0.55, 0.75)  # what stock nnU-Net with everything annotated is to reach on the phantom
LIMITS = {
    "phantom": "A phantom on two cores can show that a part does what it is made for, that an implementation learns, "
    "and how equal steps compare on geometry and grey values that we drew. It cannot show clinical accuracy, and it "
    "cannot confirm or refute the paper's figures: its tumours follow a few rules, host organs are always where the "
    "generator put them, sentences carry no more than the names of the types, and networks and trainings are a small "
    "part of the paper's. Seeds change weights and draws, not the cases.",
    "sts": "Eight test patients, one class, no organ masks, crops centred on the tumour, a small network on two cores: "
    "rows compare with each other, not with the literature. With one class routers have no types to tell apart and the "
    "text says the same of every case.",
    "datasets": "Folds stand in for seeds. Columns compare with the paper's only where data sets, splits, backbone and "
    "length of training are the paper's; its splits are not published.",
}


def read_cells(folder: Path, rows: Sequence[Row]) -> dict[str, list[dict]]:
    """Row's key -> its finished cells, by seed."""
    found = {row.key: [] for row in rows}
    for row in rows:
        files = folder.glob(f"{row.key}_seed_*.json")
        found[row.key] = sorted((json.loads(file.read_text()) for file in files), key=lambda cell: cell["seed"])
    return {key: cells for key, cells in found.items() if cells}


def setting_of(folder: Path, now: Mapping | None = None) -> dict:
    """What all finished cells of a folder were made with, `now` for what is to come.

    Raises MASTProError where they differ: rows compare at equal steps, on equal data alone.
    """
    for file in sorted(folder.glob("*_seed_*.json")):
        before = json.loads(file.read_text())["setting"]
        now = before if now is None else now
        if before != now:
            keys = [key for key in sorted({*now, *before}) if before.get(key) != now.get(key)]
            changed = ", ".join(f"{key}={before.get(key)!r} (now {now.get(key)!r})" for key in keys)
            raise MASTProError(f"{file} was made with {changed}; give the same, or -o another folder")
    return dict(now or {})


def spread(values: Sequence[float | None], digits: int = 3, with_deviation: bool = True) -> str:
    """Mean and standard deviation over the seeds that have a value; empty where none has."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    deviation = f" ± {np.std(known, ddof=1):.{digits}f}" if with_deviation and len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{deviation}"


def result_table(rows: Sequence[Row], cells: Mapping[str, list[dict]], reference: str, paper: Mapping) -> str:
    """A line per row that has a finished cell, and of what the paper has besides."""
    every = [cell for found in cells.values() for cell in found]
    columns = [name for name in dict.fromkeys(name for cell in every for name in cell["dice"]) if name != "mean"]
    told = ["mean Dice", f"{reference} minus row (95 %)", "false findings", "s a step", "paper, mean DSC"]
    lines = [["row", "seeds", *columns, *told]]
    for row in rows:
        if row.key not in cells:
            continue
        found = cells[row.key]
        told = difference(cells.get(reference, []), found) if row.key != reference else None
        lines.append(
            [
                row.title,
                str(len(found)),
                *(spread([cell["dice"].get(name) for cell in found]) for name in (*columns, "mean")),
                "" if told is None else with_interval(*told),
                spread([cell["false"] for cell in found], 1, with_deviation=False),
                spread([cell.get("seconds_per_step") for cell in found], 2, with_deviation=False),
                f"{paper[row.paper]:.2f} %" if row.paper in paper else "",
            ]
        )
    shown = {row.paper for row in rows if row.key in cells}
    lines += [
        [f"{name} (in the paper)", *[""] * (len(lines[0]) - 2), f"{score:.2f} %"]
        for name, score in paper.items()
        if name not in shown
    ]
    return markdown_table(lines)


def seed_table(rows: Sequence[Row], cells: Mapping[str, list[dict]], word: str) -> str:
    """Mean Dice of every row and seed, `word` being what a seed is called."""
    means = {key: {cell["seed"]: cell["dice"]["mean"] for cell in found} for key, found in cells.items()}
    seeds = sorted({seed for found in means.values() for seed in found})
    lines = [[f"mean Dice by {word}", *map(str, seeds)]]
    for row in rows:
        if row.key in means:
            lines.append([row.title, *(spread([means[row.key].get(seed)]) for seed in seeds)])
    return markdown_table(lines)


def calibration(cells: Mapping[str, list[dict]]) -> str:
    """What the row `complete` says of the phantom; empty without it."""
    if "complete" not in cells:
        return ""
    reached, (low, high) = np.mean([cell["dice"]["mean"] for cell in cells["complete"]]), CALIBRATION
    told = "within" if low <= reached <= high else "outside"
    wanted = f"{told} the wanted {low} to {high}"
    return f"Calibration: stock nnU-Net with everything annotated reaches {reached:.3f}, {wanted}.\n"


def commands(cells: Sequence[dict]) -> str:
    """What made the cells, commands that differ in seeds and rows alone as one where they can be."""
    made: dict[tuple[str, str], list[int]] = {}  # command, row -> seeds
    for cell in cells:
        command = re.sub(r" --(seeds|folds|cells)( (?!-)\S+)+", "", cell["run"]["command"])
        made.setdefault((command, cell["row"]), []).append(cell["seed"])
    together: dict[str, list[str]] = {}
    for (command, row), seeds in made.items():
        option = "folds" if " --datasets " in command else "seeds"
        together.setdefault(f"{command} --{option} {' '.join(map(str, sorted(seeds)))}", []).append(row)
    return ", ".join(f"`{command} --cells {' '.join(rows)}`" for command, rows in together.items())


def provenance(cells: Mapping[str, list[dict]]) -> str:
    """Commit, command, hardware and date of the cells, each once."""
    together = [cell for found in cells.values() for cell in found]
    every = [cell["run"] for cell in together]
    told = {name: "; ".join(dict.fromkeys(run[name] for run in every)) for name in ("commit", "hardware")}
    dates = sorted(run["date"] for run in every)
    seconds = [cell["seconds"] for found in cells.values() for cell in found if cell["seconds"]]
    lasted = f" Training took {sum(seconds) / 3600:.1f} h in all." if seconds else ""
    run = f"Commit {told['commit']}; {commands(together)}; {told['hardware']}"
    return f"{run}; {dates[0][:10]} to {dates[-1][:10]}.{lasted}"


def write_summary(table: str, name: str, folder: Path) -> Path | None:
    """`table`.md, .csv and .png from the cells in folder/cells/name; None where no cell is finished."""
    kind, rows = (name if name in LIMITS else "phantom"), (*ROWS[table], *EXTRA[table])
    if not name.startswith(BACKBONE_OF_PAPER):
        rows = [replace(row, paper=None) if row.paper == "Swin UNETR" else row for row in rows]
    cells = read_cells(folder / "cells" / name, rows)
    if not cells:
        return None
    setting = setting_of(folder / "cells" / name)
    finished = sum(map(len, cells.values()))
    reference, paper = ("tp_experts" if kind == "sts" and table == "table2" else "mastpro"), PAPER[table]
    reference = "text" if kind == "sts" and table == "table1" else reference
    text = "\n".join(
        [
            f"Finished cells: {finished}, all with {', '.join(f'{key} {value}' for key, value in setting.items())}. "
            "Mean over seeds ± standard deviation; differences are paired over cases and over the seeds that both rows "
            "have, with intervals from drawing cases. A step of training has its share of nnU-Net's online "
            "validation.\n",
            result_table(rows, cells, reference, paper),
            "",
            seed_table(rows, cells, "fold" if kind == "datasets" else "seed"),
            "",
            effects(cells) if table == "table2" else calibration(cells),
            f"The paper's column is its mean over eight clinical data sets (its {table.replace('table', 'Table ')}). "
            + LIMITS[kind],
            "",
            provenance(cells),
            "",
        ]
    )
    path = folder / f"{table if name == 'unet' else f'{table}_{name}'}.md"
    write_atomically(
        {
            path: text.encode(),
            path.with_suffix(".csv"): as_csv(rows, cells),
            path.with_suffix(".png"): draw(rows, cells),
        }
    )
    return path


def as_csv(rows: Sequence[Row], cells: Mapping[str, list[dict]]) -> bytes:
    """A line per row, seed and column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "title", "seed", "column", "dice"))
    for row in rows:
        for cell in cells.get(row.key, ()):
            for column, dice in cell["dice"].items():
                writer.writerow((row.key, row.title, cell["seed"], column, f"{dice:.4f}"))
    return stream.getvalue().encode()


def draw(rows: Sequence[Row], cells: Mapping[str, list[dict]]) -> bytes:
    """Mean Dice by row as bars, and each seed as a point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.key in cells][::-1]
    figure = Figure(figsize=(7, 1 + 0.4 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, row in enumerate(shown):
        values = [cell["dice"]["mean"] for cell in cells[row.key]]
        axis.barh(place, np.mean(values), color="#9db8d6")
        axis.plot(values, [place] * len(values), "o", color="#1c3a5e", markersize=4)
    axis.set_yticks(range(len(shown)), [row.title for row in shown], fontsize=8)
    axis.set_xlabel("mean Dice; points are seeds")
    axis.set_xlim(0, 1)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=120, format="png")
    return stream.getvalue()

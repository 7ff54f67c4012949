"""Compare folders of predictions in nnU-Net's format with one reference: paired bootstrap and Wilcoxon test per class.

The first folder of -pred is what the others are compared with. Every class is compared in the cases that annotate it
and in which both predictions have a score; p values are adjusted by Holm within a metric. Writes comparison.json, .csv,
.md and .png. Predictions of systems that train elsewhere: docs/peers.md says how to bring them into this format.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.commands.evaluate import add_shared_arguments, as_json, find_dataset_json, output_folder
from nnunetv2_mastpro.errors import MASTProError

NAME = "comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro compare`."""
    parser.add_argument(
        "-pred", dest="predictions", type=Path, nargs="+", required=True, metavar="FOLDER", help="two or more"
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="for the results")
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the folders (default: as the folders are called)"
    )
    add_shared_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0 on success. Raises MASTProError before a file is written."""
    from nnunetv2_mastpro.evaluation.compare import compare
    from nnunetv2_mastpro.evaluation.plot import draw
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.processes import number_of_processes
    from nnunetv2_mastpro.tasks import with_cases

    workers = number_of_processes(args.num_processes)
    predictions = named(args.predictions, args.names)
    output = output_folder(args.output)
    result = compare(
        args.reference,
        predictions,
        with_cases(find_dataset_json(args.dataset, args.predictions, args.reference), args.cases, args.reference),
        tolerance_mm=args.tolerance_mm,
        workers=workers,
        lesion_overlap=args.lesion_overlap,
        patients=args.patients,
        chill=args.chill,
    )
    table = "\n".join(markdown(result)) + "\n"
    contents = {"json": as_json(result), "csv": as_csv(result), "md": table.encode(), "png": draw(result)}
    output.mkdir(parents=True, exist_ok=True)
    write_atomically({output / f"{NAME}.{ending}": content for ending, content in contents.items()})
    print(f"{table}\nwrote {output / NAME}.json, .csv, .md and .png")
    return 0


def named(folders: Sequence[Path], names: Sequence[str] | None) -> dict[str, Path]:
    """Name -> folder, in the order given. Raises MASTProError unless there are two or more, each with a name."""
    if len(folders) < 2:
        raise MASTProError("-pred names one folder; give two or more to compare, or use mastpro evaluate")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise MASTProError("-pred names a folder twice; name each once")
    if names is not None and len(names) != len(folders):
        raise MASTProError(f"--names has {len(names)} names for {len(folders)} folders; give one for each")
    found = list(names or (folder.resolve().name for folder in folders))
    twice = next((name for place, name in enumerate(found) if name in found[:place]), None)
    if twice is not None:
        raise MASTProError(f'two folders are called "{twice}"; tell them apart with --names')
    return dict(zip(found, folders, strict=True))


def markdown(result: Mapping) -> list[str]:
    """The differences as a table, and what it shows."""
    from nnunetv2_mastpro.evaluation.tables import doubts, too_few_pairs

    first = next(iter(result["predictions"]))
    rows = [("metric", "class", "name", "cases", first, "value", "difference", "interval", "p", "p (Holm)")]
    for row in result["differences"]:
        digits = 2 if row["metric"] in ("HD95_mm", "false_lesions", "false_lesions_ml") else 3
        values = (_number(row[key], digits) for key in ("mean_first", "mean"))
        change = _number(row["difference"], digits, sign=True)
        rows.append(
            (
                row["metric"],
                row["class"] or "mean of classes",
                row["name"],
                f"{row['cases']}" + (f" (+{row['unpaired']} unpaired)" if row["unpaired"] else ""),
                *values,
                change,
                "-" if row["low"] is None else f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}",
                *(_p(row[key]) for key in ("p", "p_holm")),
            )
        )
    rows = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
    percent = f"{100 * result['confidence']:g} %"
    return [
        f"Difference to {first}, with its {percent} bootstrap interval over {result['units']}; NSD at "
        f"{result['tolerance_mm']:g} mm; p of Wilcoxon's signed-rank test. Unpaired: only one of both has the score.",
        "Dice and NSD are better when higher, HD95 and false findings when lower.",
        *too_few_pairs(result),
        *doubts(result),
        "",
        *lines,
    ]


def _number(value: float | None, digits: int, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def as_csv(result: Mapping) -> bytes:
    """The differences, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(result["differences"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["differences"])
    return text.getvalue().encode()

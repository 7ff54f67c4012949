"""Score predictions by class and source: Dice, surface Dice, HD95, lesions, each with a bootstrap interval.

Predictions and labels are folders in nnU-Net's format, whoever made the predictions. What a case does not annotate, by
mastpro.cases of dataset.json, is left out; such a tumour counts as its host organ there. Writes evaluation.json
and evaluation.csv (a line per case and class).

Of a class that neither label nor prediction has, all scores are undefined, as in nnU-Net; where one of both has it,
Dice and NSD are 0 and HD95 is undefined. What is undefined is counted, not averaged.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.datasets import dataset_json_paths, read_json_object, with_name
from nnunetv2_mastpro.errors import MASTProError

REPORT, ROWS = "evaluation.json", "evaluation.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro evaluate`."""
    parser.add_argument("-pred", dest="prediction", type=Path, required=True, metavar="FOLDER", help="predictions")
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="FOLDER", help="for the results (default: the folder of predictions)"
    )
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro compare`, too."""
    parser.add_argument("-ref", dest="reference", type=Path, required=True, metavar="FOLDER", help="true labels")
    parser.add_argument(
        "-d",
        dest="dataset",
        metavar="DATASET",
        help="id, name, or a dataset.json (default: that in the predictions' folder, else beside the labels' folder)",
    )
    add_scoring_arguments(parser)
    parser.add_argument("--chill", action="store_true", help="leave out labels without a prediction")
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """How cases are scored, of `mastpro report`, too."""
    parser.add_argument(
        "--tolerance-mm", type=float, default=2.0, metavar="MM", help="of surface Dice (default: %(default)s)"
    )
    parser.add_argument(
        "--lesion-overlap",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of a lesion's voxels that must be predicted for it to be found (default: any voxel)",
    )
    parser.add_argument(
        "--patients", metavar="REGEX", help="one group in a case's name: intervals draw patients, not cases"
    )
    add_cases_argument(parser)


def add_cases_argument(parser: argparse.ArgumentParser) -> None:
    """Of what scores cases that dataset.json does not name."""
    parser.add_argument(
        "--cases",
        type=Path,
        metavar="FILE",
        help='JSON that says what test cases annotate, as mastpro.cases: {"CASE": {"annotated": ["CLASS"]}}',
    )


def run(args: argparse.Namespace) -> int:
    """0 on success. Raises MASTProError before a file is written."""
    from nnunetv2_mastpro.evaluation.evaluate import evaluate
    from nnunetv2_mastpro.evaluation.tables import describe
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.processes import number_of_processes
    from nnunetv2_mastpro.tasks import with_cases

    workers = number_of_processes(args.num_processes)
    output = output_folder(args.output or args.prediction)
    result = evaluate(
        args.reference,
        args.prediction,
        with_cases(find_dataset_json(args.dataset, [args.prediction], args.reference), args.cases, args.reference),
        tolerance_mm=args.tolerance_mm,
        workers=workers,
        lesion_overlap=args.lesion_overlap,
        patients=args.patients,
        chill=args.chill,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_atomically({output / REPORT: as_json(result), output / ROWS: as_csv(result)})
    print("\n".join([*describe(result), f"wrote {output / REPORT} and {ROWS}"]))
    return 0


def output_folder(folder: Path) -> Path:
    """Raises MASTProError where it is a file, or would lie in one."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise MASTProError(f"{there} is a file; give -o a folder")
    return folder


def find_dataset_json(dataset: str | None, predictions: Sequence[Path], reference: Path) -> dict:
    """What -d names, else the file in a folder of predictions, else beside the reference; with the data set's name.

    Raises MASTProError where there is none, and where one in a folder of predictions has other labels.
    """
    own = [path for path in (folder / "dataset.json" for folder in predictions) if path.is_file()]
    beside = [path for path in [reference.absolute().parent / "dataset.json"] if path.is_file()]
    if dataset is not None:
        named = Path(dataset)
        if named.suffix == ".json" and not named.is_file():
            raise MASTProError(f"-d {named} is no file; give the id or name of a data set, or its dataset.json")
        path = named if named.suffix == ".json" else dataset_json_paths(dataset)[0]
    elif own or beside:
        path = [*own, *beside][0]
    else:
        absent = [folder for folder in (*predictions, reference) if not folder.is_dir()]
        if absent:
            raise MASTProError(f"{absent[0]} is no folder; give those of predictions and reference labels")
        raise MASTProError(
            f"no dataset.json in {' or '.join(map(str, predictions))}, nor beside {reference}; name the data set with "
            "-d: id, name, or a dataset.json"
        )
    content = read_json_object(path)
    for other in own:
        labels = read_json_object(other).get("labels")
        if labels != content.get("labels"):
            raise MASTProError(
                f"{other} has the labels {labels}, {path} has {content.get('labels')}; give -d the data set "
                "that the model was trained on, or leave -d out"
            )
    plans = path.with_name("plans.json")  # beside predictions
    name = read_json_object(plans).get("dataset_name") if plans.is_file() else path.absolute().parent.name
    return with_name(content, str(name))


def as_json(content: Mapping) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def as_csv(result: Mapping) -> bytes:
    """A line per case and class; empty where None, lesions by size left to the JSON file."""
    text = io.StringIO()
    columns = [name for name in result["rows"][0] if name != "bands"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["rows"])
    return text.getvalue().encode()

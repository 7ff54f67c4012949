"""Remove predicted tumours that are farther than a margin from their host organ, by maps of mastpro anatomy.

Per tumour class, connected components (26 neighbours) farther than the margin from the class's host organ become
background, or, where regions are nested, what lies around them. A class without a host structure and a case with an
empty map stay as they are. With -ref, nnU-Net's own Dice before and after, of what each case annotates: a tumour that
was made up in a case without it counts as 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.commands.evaluate import add_cases_argument
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some, table

if TYPE_CHECKING:
    from nnunetv2_mastpro.evaluation.predicted import Model

REPORT = "removed.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro postprocess`."""
    given = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("-i", dest="predictions", required=True, **given, help="what nnUNetv2_predict wrote")
    parser.add_argument("-o", dest="output", required=True, **given, help="another folder, for the cleaned predictions")
    parser.add_argument("--maps", required=True, **given, help="host-organ maps of the cases, by mastpro anatomy")
    parser.add_argument(
        "--margin-mm", type=float, default=10.0, metavar="MM", help="around the host organ (default: %(default)s)"
    )
    parser.add_argument("-ref", dest="reference", **given, help="true labels: Dice and false positives are reported")
    add_cases_argument(parser)
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def run(args: argparse.Namespace) -> int:
    """Checks every case, then cleans every case; 0 on success. Raises MASTProError before a file is written."""
    from nnunetv2_mastpro.evaluation.before_after import describe_scores, evaluate, read_scores
    from nnunetv2_mastpro.evaluation.partial import NNUNETS, SUMMARY, labels_of, rewrite_or_remove
    from nnunetv2_mastpro.evaluation.postprocess import check_case, clean_case
    from nnunetv2_mastpro.evaluation.predicted import COPIED, read_model
    from nnunetv2_mastpro.evaluation.tables import presumed
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.processes import each, number_of_processes
    from nnunetv2_mastpro.tasks import read_cases, with_cases

    workers = number_of_processes(args.num_processes)
    model = read_model(args.predictions)
    jobs = make_jobs(args, model)
    labels = [entry.label for entry in model.resolved.classes]
    cases = read_cases(with_cases(model.dataset_json, args.cases, args.reference), labels)
    for _ in each(check_case, jobs, workers, "check cases"):
        pass
    before = evaluate(args.reference, args.predictions, None, model, workers) if args.reference else None
    args.output.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, SUMMARY, NNUNETS):  # of an earlier run
        (args.output / name).unlink(missing_ok=True)
    results = dict(zip((job.case for job in jobs), each(clean_case, jobs, workers, "clean cases"), strict=True))
    after = evaluate(args.reference, args.output, args.output / SUMMARY, model, workers) if args.reference else None
    if args.reference and cases.annotated:
        rewrite_or_remove(args.output, cases, labels_of(model.plans, model.dataset_json, model.resolved.classes))
    report = make_report(results, jobs[0].tumors, args.margin_mm)
    lines = describe_removed(report)
    if before is not None:
        voxel_ml = {case: ml for case, (_, ml) in results.items()}
        scores = [read_scores(summary, model, voxel_ml, cases) for summary in (before, after)]
        report["false_positive_ml"] = {
            case: {label: [score[case][label]["fp_ml"] for score in scores] for label in scores[0][case]}
            for case in scores[0]
        }
        names = [job.case for job in jobs]
        unsaid = [name for name in names if cases.presumed(name)]
        lines += [*describe_scores(*scores), *presumed(unsaid, len(names))]
    copies = {args.output / name: (args.predictions / name).read_bytes() for name in COPIED}
    write_atomically({**copies, args.output / REPORT: (json.dumps(report, indent=2) + "\n").encode()})
    print("\n".join([*lines, f"wrote {args.output}"]))
    return 0


def make_jobs(args: argparse.Namespace, model: Model) -> list:
    """One per predicted case. Raises MASTProError for folders that are the same and for files that are missing."""
    from nnunetv2_mastpro.anatomy.given import check_hosts
    from nnunetv2_mastpro.evaluation.postprocess import Job, tumor_types
    from nnunetv2_mastpro.label_maps import files_of

    if not (math.isfinite(args.margin_mm) and args.margin_mm >= 0):
        raise MASTProError(f"--margin-mm {args.margin_mm:g} is no distance; give millimetres from 0 on")
    ending = model.dataset_json["file_ending"]
    files = files_of(args.predictions, ending)
    if not files:
        raise MASTProError(f"{args.predictions} has no files that end with {ending}; give a folder of predictions")
    given = (("-i", args.predictions), ("--maps", args.maps), ("-ref", args.reference))
    for option, folder in given[1:]:
        if folder is not None and not folder.is_dir():
            raise MASTProError(f"{option} {folder} is no folder; give one with a file per prediction")
    for option, folder in given:
        if folder is not None and folder.resolve() == args.output.resolve():
            raise MASTProError(f"-o is the folder of {option}, {folder}, and would overwrite it; give another folder")
    for option, folder in given[1:]:
        missing = [file.name for file in files if folder is not None and not (folder / file.name).is_file()]
        if missing:
            raise MASTProError(
                f"{option} {folder} lacks {some(missing)}; give a folder with a file for each of the {len(files)} "
                "predictions"
            )
    check_hosts(args.maps, model.resolved.hosts, "make them anew with mastpro anatomy -m MODEL -i IMAGES -o MAPS")
    others = sorted({file.name for file in files_of(args.output, ending)} - {file.name for file in files})
    if others:
        raise MASTProError(f"-o {args.output} holds other cases, such as {others[0]}; give an empty folder")
    tumors = tumor_types(model.resolved, model.dataset_json)
    reader = model.plans.image_reader_writer_class()
    return [
        Job(
            case=file.name.removesuffix(ending),
            prediction=file,
            host_map=args.maps / file.name,
            reference=args.reference / file.name if args.reference else None,
            output=args.output,
            reader=reader,
            tumors=tumors,
            map_values=tuple(host.value for host in model.resolved.hosts),
            margin_mm=args.margin_mm,
        )
        for file in files
    ]


def make_report(results: dict, tumors: Sequence, margin_mm: float) -> dict:
    """Content of removed.json."""
    return {
        "margin_mm": margin_mm,
        "cases": {
            case: {label: dataclasses.asdict(entry) for label, entry in (removed or {}).items()}
            for case, (removed, _) in results.items()
        },
        "classes_left_alone": [tumor.label for tumor in tumors if not tumor.host_values],
        "cases_left_alone": [case for case, (removed, _) in results.items() if removed is None],
    }


def describe_removed(report: dict) -> list[str]:
    """The table of removed.json, and what was left alone."""
    entries = [(case, label, entry) for case, classes in report["cases"].items() for label, entry in classes.items()]
    rows = [("case", "class", "components", "voxels", "ml")]
    rows += [_row(case, label, [entry]) for case, label, entry in entries if entry["components"]]
    for label in dict.fromkeys(label for _, label, _ in entries):
        rows.append(_row("all", label, [entry for _, other, entry in entries if other == label]))
    absent = [f"{case} ({label})" for case, label, entry in entries if entry["components"] and not entry["host_voxels"]]
    notes = {
        "left alone, no host structure: ": report["classes_left_alone"],
        "left alone, empty map, so the organs are unknown: ": report["cases_left_alone"],
        "removed whole, host organ absent beside others: ": absent,
    }
    shown = ["Removed:", *table(rows)] if len(rows) > 1 else ["Nothing could be removed."]
    return [*shown, *(text + some(names) for text, names in notes.items() if names)]


def _row(case: str, label: str, entries: Sequence[dict]) -> tuple[str, ...]:
    components, voxels, ml = (sum(entry[key] for entry in entries) for key in ("components", "voxels", "ml"))
    return (case, label, str(components), str(voxels), f"{ml:.2f}")

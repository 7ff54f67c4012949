"""One HTML page about a model and its predictions, with metrics, pictures and a 3D viewer.

Opens from disk without network. Cases come by their error, the largest first. Without -ref there is no truth and
nothing is measured; without --maps nothing is measured against host organs. Everything is checked before the page is
written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunetv2_mastpro.commands.evaluate import add_scoring_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro report`."""
    given = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("-m", dest="model", required=True, **given, help="trained model: TRAINER__PLANS__CONFIG")
    parser.add_argument("-i", dest="images", required=True, **given, help="images as nnUNetv2_predict gets them")
    parser.add_argument("-pred", dest="predictions", required=True, **given, help="what nnUNetv2_predict wrote")
    parser.add_argument("-ref", dest="reference", **given, help="true labels of the images")
    add_scoring_arguments(parser)
    parser.add_argument("--maps", **given, help="host-organ maps of the images, by mastpro anatomy")
    parser.add_argument("-o", dest="output", required=True, **given, help="gets index.html")
    parser.add_argument("--pictures", **given, help="gets the rows of pictures as PNG files, for slides and papers")
    parser.add_argument(
        "-f", dest="folds", nargs="+", metavar="FOLD", help="folds (default: every one with a checkpoint)"
    )
    parser.add_argument(
        "--panels", type=int, default=30, metavar="N", help="rows of pictures at most (default: %(default)s)"
    )
    parser.add_argument(
        "--viewer-cases",
        type=int,
        default=10,
        metavar="N",
        help="cases in the 3D viewer at most (default: %(default)s)",
    )
    parser.add_argument(
        "--channel", type=int, metavar="N", help="of the images, in pictures (default: the first CT, else 0)"
    )
    parser.add_argument("--chill", action="store_true", help="leave out images and labels without a prediction")
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def run(args: argparse.Namespace) -> int:
    """0 when the page is there. Raises MASTProError before a file is written."""
    from nnunetv2_mastpro.processes import number_of_processes
    from nnunetv2_mastpro.report.findings import Request
    from nnunetv2_mastpro.report.job import make_report

    path, notes = make_report(
        Request(
            model=args.model,
            images=args.images,
            predictions=args.predictions,
            output=args.output,
            reference=args.reference,
            maps=args.maps,
            folds=args.folds,
            most_panels=args.panels,
            viewer_cases=args.viewer_cases,
            workers=number_of_processes(args.num_processes),
            command=("mastpro", *sys.argv[1:]),
            cases=args.cases,
            pictures=args.pictures,
            tolerance_mm=args.tolerance_mm,
            lesion_overlap=args.lesion_overlap,
            patients=args.patients,
            channel=args.channel,
            chill=args.chill,
        )
    )
    print("\n".join([*notes, f"wrote {path}"]))
    return 0

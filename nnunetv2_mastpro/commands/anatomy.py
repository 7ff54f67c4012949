"""Make host-organ maps from organ masks: for a data set's training and test images, or for images to be predicted.

    mastpro anatomy -d 7 --masks MASKS                        # anatomyTr, anatomyTs and the preprocessed form
    mastpro anatomy -d 7 -i IMAGES -o MAPS --masks MASKS      # for nnUNetv2_predict -prev_stage_predictions MAPS

MASKS holds CASE.nii.gz as `TotalSegmentator --ml` writes it (task total, of MR images total_mr; of another task:
TASK/CASE.nii.gz), or a folder CASE with one binary file per structure. With --run totalsegmentator the masks are made
here and kept, so that a second run goes on where the first ended. Every case gets a map, an empty one where no mask is
given: then the organs are unknown. An organ whose mask is empty is absent, and so is the tumour in it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from nnunetv2_mastpro.planning import DEFAULT_PLANS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro anatomy`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-d", dest="dataset", metavar="DATASET", help="id or name of an nnU-Net dataset")
    what.add_argument("-m", dest="model", type=Path, metavar="FOLDER", help="trained model, with -i and -o")
    parser.add_argument("-i", dest="images", type=Path, metavar="FOLDER", help="images to be predicted")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="where their maps go")
    parser.add_argument(
        "-p",
        dest="plans",
        metavar="PLANS",
        help=f"plans with the anatomy stage, for the preprocessed form (default: {DEFAULT_PLANS})",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--masks", type=Path, metavar="FOLDER", help="organ masks that you have")
    source.add_argument(
        "--run", dest="maker", choices=["totalsegmentator"], help="make the masks; its weights must be there"
    )
    source.add_argument("--without-masks", action="store_true", help="empty maps: predict as if nothing were known")
    parser.add_argument("--fast", action="store_true", help="TotalSegmentator's 3 mm models")
    parser.add_argument(
        "-device",
        "--device",
        default="gpu",
        type=device,
        help="for TotalSegmentator: gpu, gpu:1, cpu, mps (default: gpu)",
    )
    parser.add_argument("--resample", action="store_true", help="put masks of another grid on the image's")
    parser.add_argument(
        "--lacking-is-absent",
        action="store_true",
        help="a structure that --masks has for other cases is not in the scan where its mask is lacking",
    )
    parser.add_argument(
        "--dilate-mm", type=float, default=0.0, metavar="MM", help="grow the organs by this much (default: 0)"
    )
    parser.add_argument(
        "-np",
        dest="num_processes",
        type=int,
        metavar="N",
        help="processes (default: nnU-Net's own); TotalSegmentator gets one image at a time",
    )


def device(value: str) -> str:
    """As TotalSegmentator names it."""
    if not re.fullmatch(r"gpu(:\d+)?|cpu|mps", value):
        raise argparse.ArgumentTypeError(f"{value!r} is none of gpu, gpu:1, cpu and mps")
    return value


def run(args: argparse.Namespace) -> int:
    """Checks names, headers and tables of all cases, then writes; 0 on success. Raises MASTProError."""
    from nnunetv2_mastpro.anatomy.job import make_maps

    return make_maps(args)

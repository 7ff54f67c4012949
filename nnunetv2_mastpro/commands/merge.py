"""Merge nnU-Net data sets into one whose cases each annotate some of the classes.

Images stay where they are, labels are rewritten to the union of the classes, and mastpro.cases of the new dataset.json
says which classes each case annotates. Equal images are found by their voxels. Folds are stratified by source and
tumour types, with no patient or image on both sides. A later run with more sources keeps the values of the classes and
the folds of the cases.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro merge`."""
    parser.add_argument(
        "-d", dest="datasets", nargs="+", required=True, metavar="DATASET", help="sources: ids or names"
    )
    parser.add_argument("-o", dest="output", type=int, metavar="ID", help="id of the merged data set")
    parser.add_argument("-n", dest="name", metavar="NAME", help="its name, without DatasetXXX_")
    parser.add_argument(
        "--map", type=Path, metavar="FILE", help="YAML or JSON: renames, unites, drops and nests classes (--write-map)"
    )
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        metavar="FOLDER",
        help="trained model whose classes come first, with values and prompts, as mastpro add-tumour asks for; what is "
        "new must be tumour types",
    )
    parser.add_argument(
        "--write-map",
        type=Path,
        metavar="FILE",
        help="only draft that file, by labels, knowledge base, and the classes of --model and of an earlier -o",
    )
    parser.add_argument(
        "--duplicates",
        choices=("unite", "keep"),
        default="unite",
        help="cases of one image become one, or stay in one fold (default: %(default)s)",
    )
    parser.add_argument(
        "--folds", type=int, metavar="N", help="in splits_final.json (default: as an earlier merge has, else 5)"
    )
    parser.add_argument(
        "--folds-of",
        metavar="DATASET",
        help="cases that this data set has too, by name, get its folds: for one that pretrains the other's model",
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="merge labelled test cases (imagesTs, labelsTs) too, without those that a source trains on; later merges "
        "into the same -o then do so by themselves",
    )
    parser.add_argument("--prefix", action="store_true", help="put the source's id before case names: D003_liver_7")
    parser.add_argument(
        "--link", action="store_true", help="link the images into imagesTr instead of naming their paths"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="read and check everything, show the table, write nothing"
    )
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def run(args: argparse.Namespace) -> int:
    """0 on success. Raises MASTProError before a file is written."""
    from nnunetv2_mastpro.merging.job import merge
    from nnunetv2_mastpro.processes import number_of_processes

    return merge(args, number_of_processes(args.num_processes))

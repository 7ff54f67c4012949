"""Turn a data set as it was downloaded into an nnU-Net data set: mastpro convert LiTS -i DOWNLOAD -d 4

DOWNLOAD is the unpacked download; its inner folders may be called as they like. Files that nnU-Net reads as they are
(.nii.gz) are linked, others (.nii, DICOM) rewritten. Labels get consecutive values and the names of the knowledge base.
Images and labels must lie on one grid. Run it again after an interruption: finished cases stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro convert`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="data set; --list shows all")
    parser.add_argument("--list", action="store_true", help="show the data sets, their classes and pages, and stop")
    parser.add_argument("-i", dest="input", type=Path, metavar="DOWNLOAD", help="folder with the unpacked download")
    parser.add_argument("-d", dest="identifier", type=int, metavar="ID", help="id of the new data set")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="where it goes (default: nnUNet_raw)")
    parser.add_argument("--copy", action="store_true", help="copy the images that would be linked")
    parser.add_argument(
        "--trust-size",
        action="store_true",
        help="a NIfTI label of its image's size lies on the image's grid, whatever its header says",
    )
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def run(args: argparse.Namespace) -> int:
    """0 on success. Raises MASTProError."""
    from nnunetv2_mastpro.convert.job import convert
    from nnunetv2_mastpro.processes import number_of_processes

    if args.list:
        print("\n".join(listing()))
        return 0
    for given, option in ((args.name, "NAME"), (args.input, "-i DOWNLOAD"), (args.identifier, "-d ID")):
        if given is None:
            raise MASTProError(f"{option} is missing; such as mastpro convert LiTS -i DOWNLOAD -d 4")
    return convert(args, number_of_processes(args.num_processes))


def listing() -> list[str]:
    """All data sets, and who else converts them."""
    from nnunetv2_mastpro.convert.table import MSD_COMMAND, known

    lines = []
    for dataset in known().values():
        lines += [dataset.name, f"  {', '.join(dataset.labels)}", f"  {dataset.page}; licence: {dataset.licence}"]
        if dataset.nnunet:
            lines.append(f"  nnU-Net's own converter: {dataset.nnunet}")
        lines += [f"  layout: {source}" for source in dataset.source]
    return [*lines, "MSD", f"  nnU-Net's own converter: {MSD_COMMAND}"]

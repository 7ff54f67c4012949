"""Put expert packs into the model that they were trained on: one model folder with all their types.

    mastpro unpack -m MODEL liver_tumour.safetensors kidney_tumour.safetensors -o NEW_MODEL

NEW_MODEL predicts with nnUNetv2_predict_from_modelfolder. The packs' types get the next label values, in the order
given; MASTPRO_TASKS selects types, and what is not selected changes no other type's logits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_mastpro.commands.pack import add_model_arguments
from nnunetv2_mastpro.datasets import read_trained
from nnunetv2_mastpro.listing import kind, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro unpack`."""
    add_model_arguments(parser)
    parser.add_argument("packs", type=Path, nargs="+", metavar="PACK", help="files that mastpro pack wrote")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", required=True, help="the new model's folder")


def run(args: argparse.Namespace) -> int:
    """Checks every pack, then writes the folder and says what it holds; 0 on success. Raises MASTProError."""
    read_trained(args.model)  # before torch is imported
    from nnunetv2_mastpro.packs.model import read_model
    from nnunetv2_mastpro.packs.pack import read_pack
    from nnunetv2_mastpro.packs.unpack import unpack

    model = read_model(args.model, args.fold, args.checkpoint)
    packs = [read_pack(path) for path in args.packs]
    classes = unpack(model, packs, args.output, args.fold)
    origins = [*[("model", "")] * (len(classes) - len(packs)), *((pack.path.name, pack.licence) for pack in packs)]
    rows = [(entry.label, kind(entry.is_tumor), *origin) for entry, origin in zip(classes, origins, strict=True)]
    print("\n".join([f"wrote {args.output}", *table([("class", "kind", "from", "licence"), *rows])]))
    maps = ""
    if model.config.resolved.hosts:
        print(
            "Where a new type has a host organ of its own, maps are made anew: "
            f"mastpro anatomy -m {args.output} -i IMAGES -o MAPS --masks MASKS"
        )
        maps = " -prev_stage_predictions MAPS"
    print(f"nnUNetv2_predict_from_modelfolder -m {args.output} -f {args.fold} -i IMAGES -o PREDICTIONS{maps}")
    if len(args.packs) > 1:
        print("Each type says what it says alone; where two claim a voxel, the larger logit has it.")
    return 0

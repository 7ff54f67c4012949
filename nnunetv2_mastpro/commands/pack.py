"""Write one tumour type's trained parameters to a file, an expert pack, that fits on the model it was added to.

The pack holds the type's experts, router rows, prompt and updates of the shared weights, and in its header the hash of
all that the types share, the network's sizes, versions and a licence. Packs of several types, trained apart on the same
model, go into one by `mastpro unpack`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_mastpro.datasets import read_trained
from nnunetv2_mastpro.errors import MASTProError


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What names a trained model."""
    parser.add_argument(
        "-m", dest="model", type=Path, metavar="FOLDER", required=True, help="trained model: TRAINER__PLANS__CONFIG"
    )
    parser.add_argument("-f", dest="fold", metavar="FOLD", default="0", help="its fold (default: %(default)s)")
    parser.add_argument(
        "--checkpoint", metavar="NAME", default="checkpoint_final.pth", help="its weights (default: %(default)s)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro pack`."""
    add_model_arguments(parser)
    parser.add_argument("--type", dest="label", metavar="LABEL", required=True, help="the tumour type, by its label")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", required=True, help="FILE.safetensors")
    parser.add_argument("--licence", metavar="TEXT", help="under which the pack may be used, for its header")


def run(args: argparse.Namespace) -> int:
    """Writes the pack and says how large it is; 0 on success. Raises MASTProError."""
    if args.output.suffix != ".safetensors":
        raise MASTProError(f"-o {args.output} does not end in .safetensors; name the pack {args.output}.safetensors")
    read_trained(args.model)  # before torch is imported
    from nnunetv2_mastpro.packs.model import read_model
    from nnunetv2_mastpro.packs.pack import write_pack

    model = read_model(args.model, args.fold, args.checkpoint)
    write_pack(model, args.label, args.output, args.licence)
    size, whole = args.output.stat().st_size, model.file.stat().st_size
    print(f"wrote {args.output}: {size / 2**10:,.0f} KiB, {size / whole:.2%} of {model.file.name}")
    if not next(entry.added for entry in model.classes if entry.label == args.label):
        print(
            f"note: {args.label} was trained with the model, not added to it (mastpro add-tumour): its pack fits only "
            "on a model with the same shared weights that lacks it"
        )
    return 0

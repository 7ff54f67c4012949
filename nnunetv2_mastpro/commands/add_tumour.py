"""Teach a trained model a new tumour type: only its experts, router rows, prompt and weight updates are trained.

    mastpro add-tumour -m MODEL -d 12 -n WithColonPlans

The data set's labels are the model's, in its order and with its values, then the new type. The result predicts old and
new types; the old types' logits stay the model's, to the bit, since prediction has a pass for each added type. Plans,
preprocessing and training are nnU-Net's own commands, each printed as it runs. Run it again after an interruption: it
goes on where it was. `mastpro pack` then writes the new type to a file.
"""

from __future__ import annotations

import argparse

from nnunetv2_mastpro.commands import DEVICES
from nnunetv2_mastpro.commands.pack import add_model_arguments
from nnunetv2_mastpro.datasets import dataset_json_paths, read_trained
from nnunetv2_mastpro.errors import MASTProError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro add-tumour`."""
    add_model_arguments(parser)
    parser.add_argument("-d", dest="dataset", metavar="DATASET", required=True, help="id or name of the new data set")
    parser.add_argument("-c", dest="configuration", metavar="CONFIG", help="must be the model's, which is the default")
    parser.add_argument(
        "--new-fold", metavar="FOLD", help="of the new training (default: that of -f, which is the model's)"
    )
    parser.add_argument(
        "-n", dest="name", metavar="PLANS", default="MASTProAddedPlans", help="of the new plans (default: %(default)s)"
    )
    parser.add_argument(
        "-tr", "--trainer", metavar="NAME", default="nnUNetTrainerMASTPro_50epochs", help="(default: %(default)s)"
    )
    parser.add_argument(
        "-device", "--device", choices=DEVICES, default="cuda", help="for training (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="mastpro.training.added_learning_rate of the new plans (default: what the model's plans have)",
    )
    parser.add_argument("-np", dest="workers", type=int, metavar="N", help="processes for preprocessing")
    parser.add_argument(
        "--write-prompts", action="store_true", help="put the model's prompts into the data set's dataset.json"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the commands, write nothing")


def run(args: argparse.Namespace) -> int:
    """Checks first, then writes and trains; 0 on success. Raises MASTProError."""
    from pathlib import Path

    read_trained(args.model)  # before torch is imported
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

    from nnunetv2_mastpro.packs import add
    from nnunetv2_mastpro.packs.model import read_model
    from nnunetv2_mastpro.processes import shell_line

    model = read_model(args.model, args.fold, args.checkpoint)
    folders = {"nnUNet_raw": nnUNet_raw, "nnUNet_preprocessed": nnUNet_preprocessed, "nnUNet_results": nnUNet_results}
    unset = [name for name, folder in folders.items() if not folder.get()]
    if unset:
        raise MASTProError(f"{unset[0]} is not set; export {unset[0]}=FOLDER as nnU-Net's set-up asks")
    name = dataset_json_paths(args.dataset)[0].parent.name
    args.fold = args.new_fold or args.fold
    raw, preprocessed, results = (Path(folder.get()) for folder in folders.values())
    addition = add.prepare(model, args, raw / name, preprocessed / name, results)
    print(f"{', '.join(addition.new)} joins {', '.join(entry.label for entry in model.classes)} of {model.file}")
    add.check_unchanged(addition)
    if add.is_finished(addition):
        print(f"finished earlier: {addition.fold_folder}")
        return 0
    if args.dry_run:
        *before, training = (f"$ {shell_line(command)}" for command in add.commands(addition))
        maps = add.maps_command(addition)
        yours = [f"$ {shell_line(maps)}    # yours to run, unless the maps are there"] if maps else []
        print("\n".join(["would run:", *before, *yours, training]))
        if args.write_prompts:
            print("would write the model's prompts into dataset.json")
        if lacking := no_device(args.device):
            print(f"note: {lacking}")
        return 0
    if lacking := no_device(args.device):
        raise MASTProError(lacking)
    add.carry_out(addition, lambda line: print(line, flush=True))
    model, new = addition.fold_folder.parent, addition.new[0]
    pack = ["mastpro", "pack", "-m", str(model), "-f", str(addition.fold), "--type", new, "-o", f"{new}.safetensors"]
    print(f"\n{model} holds the model with {', '.join(addition.new)}; write a pack of it:\n  {shell_line(pack)}")
    return 0


def no_device(name: str) -> str:
    """What is wrong with the training's device; nothing where torch has it."""
    import torch

    has = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(name, lambda: True)
    return "" if has() else f"torch finds no {name} device here; give -device cpu, or run it where there is one"

"""Make a checkpoint for -pretrained_weights from another network's, or a whole one from small adapters.

    mastpro weights --from model_swinvit.pt -d 7 -p MASTProPlans -c 3d_fullres -o start.pth
    nnUNetv2_train 7 3d_fullres 0 -p MASTProPlans -tr nnUNetTrainerMASTPro -pretrained_weights start.pth

    mastpro weights --from start.pth --adapters checkpoint_adapters.safetensors -o checkpoint_final.pth

--from takes, recognised by its content: a stock nnU-Net checkpoint of the same architecture, MONAI's self-supervised
Swin encoder (model_swinvit.pt), weights of MONAI's SwinUNETR, a checkpoint of the CLIP-Driven Universal Model, a
MAST-Pro checkpoint, also of other classes. A backbone that is wholly in the file will be frozen (PEFT); where parts
are missing everything is trained. No code in a file is run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nnunetv2_mastpro.datasets import CHECKPOINTS, dataset_json_paths, read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import nearest

MIN_SHARE = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro weights`."""
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", required=True, help="whose weights to take")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", required=True, help="the new checkpoint, .pth")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="plans of the network, with dataset.json beside")
    parser.add_argument("-d", dest="dataset", metavar="DATASET", help="instead: id or name of an nnU-Net dataset")
    parser.add_argument("-p", dest="name", metavar="PLANS", help="plans of it (default: nnUNetPlans)")
    parser.add_argument("-c", dest="configuration", metavar="CONFIG", help="(default: 3d_fullres)")
    parser.add_argument(
        "--min-share",
        type=float,
        metavar="SHARE",
        help="of the parameters of the backbone, or of its encoder if the file holds no more, that must be matched "
        f"(default: {MIN_SHARE})",
    )
    parser.add_argument(
        "--adapters",
        type=Path,
        metavar="FILE",
        help="checkpoint_adapters.safetensors of a training from that FILE",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint and says what it is made of; 0 on success. Raises MASTProError."""
    _check(args)
    from nnunetv2_mastpro.files import check_new
    from nnunetv2_mastpro.weights.convert import write_checkpoint

    check_new(args.output)
    checkpoint, lines = _restore(args) if args.adapters else _convert(args)
    write_checkpoint(checkpoint, args.output)
    print("\n".join([*lines, f"wrote {args.output}"]))
    if args.adapters:
        _complete_model(args.output.absolute().parent, checkpoint["init_args"])
    return 0


def _complete_model(fold: Path, init_args: dict) -> None:
    """plans.json and dataset.json, which prediction reads, where the checkpoint lies in a model's fold without them."""
    from nnunetv2_mastpro.files import write_atomically

    contents = {fold.parent / "plans.json": init_args["plans"], fold.parent / "dataset.json": init_args["dataset_json"]}
    missing = {path: json.dumps(content, indent=2).encode() for path, content in contents.items() if not path.exists()}
    if not fold.name.startswith("fold_"):
        print(f"nnUNetv2_predict_from_modelfolder -m MODEL wants it as MODEL/fold_0/{CHECKPOINTS[0]}")
    elif missing:
        write_atomically(missing)
        print("\n".join(f"wrote {path}" for path in missing))


def _check(args: argparse.Namespace) -> None:
    """Raise MASTProError for options that exclude each other, or are not enough."""
    plans = {"--plans": args.plans, "-d": args.dataset, "-p": args.name, "-c": args.configuration}
    given = [name for name, value in {**plans, "--min-share": args.min_share}.items() if value is not None]
    if args.output.suffix not in (".pth", ".pt"):
        raise MASTProError(f"-o {args.output} is to be a checkpoint of torch; give a name that ends in .pth")
    if args.adapters and given:
        raise MASTProError(f"{given[0]} does not go with --adapters, whose file holds the plans; leave it out")
    if not args.adapters and (args.plans is None) == (args.dataset is None):
        raise MASTProError("which network is asked for is not clear; give either --plans FILE or -d DATASET -p PLANS")
    if args.plans and args.name:
        raise MASTProError("-p does not go with --plans; give -d DATASET -p PLANS, or --plans FILE alone")
    if args.min_share is not None and not 0 <= args.min_share <= 1:
        raise MASTProError(f"--min-share {args.min_share:g} is not within 0 and 1; give a share such as {MIN_SHARE}")


def _convert(args: argparse.Namespace) -> tuple[dict, list[str]]:
    from nnunetv2_mastpro.weights.convert import convert, network_differences
    from nnunetv2_mastpro.weights.read import read_weights

    plans, dataset_json = read_plans(args.plans or find_plans(args.dataset, args.name or "nnUNetPlans"))
    configuration = args.configuration or "3d_fullres"
    if configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise MASTProError(f"-c {configuration} is not in {plans['plans_name']}; give one of {known}")
    share = MIN_SHARE if args.min_share is None else args.min_share
    given = read_weights(args.source)
    start = convert(given, plans, configuration, dataset_json, share)
    told = "freezes the backbone (PEFT), unless mastpro.training.mode in the plans is 'full'"
    if not start.freezes:
        told = "trains everything, since the backbone is not wholly pretrained"
    others = network_differences(given, start.checkpoint["init_args"])
    return start.checkpoint, [*start.receipt.lines(), *others, f"With -pretrained_weights nnUNetTrainerMASTPro {told}."]


def _restore(args: argparse.Namespace) -> tuple[dict, list[str]]:
    from nnunetv2_mastpro.adapters import read_adapters
    from nnunetv2_mastpro.weights.read import read_weights
    from nnunetv2_mastpro.weights.restore import restore

    adapters = read_adapters(args.adapters)
    checkpoint = restore(read_weights(args.source), adapters)
    return checkpoint, [f"{args.source} and {adapters.file} make the network of {adapters.checkpoint}, to the bit"]


def find_plans(dataset: str, name: str) -> Path:
    """The plans file of a data set. Raises MASTProError where there is none."""
    from nnunetv2_mastpro.planning.anatomy import plans_files
    from nnunetv2_mastpro.resources import nnunet_folder

    folder = nnunet_folder("nnUNet_preprocessed")
    file = folder / dataset_json_paths(dataset)[0].parent.name / f"{name}.json"
    if not file.is_file():
        known = [path.stem for path, _ in plans_files(file.parent)]
        planned = f"Known: {', '.join(known)}" if known else "plan it with nnUNetv2_plan_and_preprocess"
        raise MASTProError(f"{file} is not there; {nearest(name, known)}{planned}")
    return file


def read_plans(file: Path) -> tuple[dict, dict]:
    """Plans and the dataset.json beside them, which training reads. Raises MASTProError."""
    plans = read_json_object(file)
    missing = [key for key in ("configurations", "plans_name", "dataset_name") if key not in plans]
    if missing:
        raise MASTProError(f"{file} holds no plans of nnU-Net (no {missing[0]}); give a file that nnU-Net planned")
    return plans, read_json_object(file.with_name("dataset.json"))

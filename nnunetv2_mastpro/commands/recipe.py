"""Run a published experiment from downloads to Dice, or print its commands: mastpro recipe paper --dry-run

    mastpro recipe paper --data LiTS=DOWNLOADS/LiTS KiTS=DOWNLOADS/kits23/dataset -o FOLDER

A recipe is data, plans/recipes/*.json: data sets with their pages, licences and converters, how their classes merge,
and the commands of each stage. It runs on the data sets that --data names, in a folder of its own, and shows each
command. Run it again after an interruption: finished steps are skipped, a training goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.commands import DEVICES
from nnunetv2_mastpro.errors import MASTProError

if TYPE_CHECKING:
    from nnunetv2_mastpro.recipes.experiment import Experiment
    from nnunetv2_mastpro.recipes.sequence import Choices
    from nnunetv2_mastpro.steps import Step

KIND = "recipe"  # of the state's file
RESULTS = ("_train", "_predict", "_evaluate")  # steps whose outputs a user looks at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro recipe`."""
    parser.add_argument("name", metavar="NAME", help="of the recipe, such as paper")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run and write nothing")
    parser.add_argument(
        "--data", nargs="+", action="extend", default=[], metavar="NAME=FOLDER", help="unpacked downloads of data sets"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these data sets (default: those of --data, or all)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="new or empty folder, or that of an earlier run to go on with",
    )
    parser.add_argument("--overlay", metavar="NAME", help="network and patch, of plans/*.json (default: the recipe's)")
    parser.add_argument("-f", "--fold", default="0", metavar="FOLD", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, metavar="N", help="of both trainings (default: the recipe's)")
    parser.add_argument("-device", "--device", choices=DEVICES, default="cuda", help="default: %(default)s")
    parser.add_argument("--gpus", type=int, metavar="N", help="of each training (default: the recipe's)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--masks", type=Path, metavar="FOLDER", help="organ masks (default: TotalSegmentator makes them)"
    )
    source.add_argument("--without-masks", action="store_true", help="empty host-organ maps")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="unseen images to predict at the end")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="their labels, by the merged values of stage 2")
    parser.add_argument("-np", dest="processes", type=int, metavar="N", help="processes (default: each command's own)")


def run(args: argparse.Namespace) -> int:
    """0 when all steps ended. Raises MASTProError before the first for what cannot work."""
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.processes import environment
    from nnunetv2_mastpro.recipes import sequence
    from nnunetv2_mastpro.recipes.experiment import load_recipe
    from nnunetv2_mastpro.state import State
    from nnunetv2_mastpro.steps import run_steps, unfinished

    experiment = load_recipe(args.name)
    choices = choose(args, experiment)
    if args.dry_run:
        print("\n".join(sequence.script(experiment, choices)))
        return 0
    todo = sequence.steps(experiment, choices, complete=False)
    settings = {"recipe": experiment.name, "version": experiment.digest}
    earlier = State(choices.work, settings, KIND) if (choices.work / f"{KIND}.json").is_file() else None
    check(experiment, choices, todo, unfinished(todo, earlier) if earlier else todo)
    state = earlier or State(choices.work, settings, KIND)
    for name in sequence.FOLDERS:
        choices.folder(name).mkdir(exist_ok=True)
    write_atomically({path: text.encode() for path, text in sequence.maps(experiment, choices).items()})
    added = sequence.variables(choices)
    print("\n".join(f"{name}={value}" for name, value in added.items()))
    run_steps(todo, state, choices.work / "logs", environment(added))
    show(choices, todo)
    return 0


def choose(args: argparse.Namespace, experiment: Experiment) -> Choices:
    """The options, each checked by itself."""
    from nnunetv2_mastpro.planning.overlay import load_overlay
    from nnunetv2_mastpro.processes import number_of_processes
    from nnunetv2_mastpro.recipes.sequence import Choices

    downloads = read_downloads(args.data)
    experiment.choose(list(downloads))
    chosen = experiment.choose(args.only or list(downloads) or list(experiment.data))
    overlay = args.overlay or experiment.settings["overlay"]
    load_overlay(overlay)
    epochs = experiment.settings["epochs"] if args.epochs is None else args.epochs
    gpus = experiment.settings["gpus"] if args.gpus is None else args.gpus
    if gpus < 1:
        raise MASTProError(f"--gpus {gpus} is below 1; give the number of GPUs, or --device cpu")
    folds = experiment.settings["folds"]
    if args.fold not in map(str, range(folds)):
        raise MASTProError(f"-f {args.fold} is none of the folds 0 to {folds - 1}; give one of them")
    masks = ("--run", "totalsegmentator") if args.device == "cuda" else ("--run", "totalsegmentator", "-device", "cpu")
    if args.without_masks:
        masks = ("--without-masks",)
    elif args.masks:
        masks = ("--masks", str(args.masks.resolve()))
    return Choices(
        work=(args.output or Path(f"mastpro_{experiment.name}")).resolve(),
        downloads=downloads,
        chosen=tuple(chosen),
        overlay=overlay,
        fold=args.fold,
        trainer_suffix=trainer_suffix(epochs, experiment.settings["epochs"]),
        epochs=epochs,
        device=args.device,
        gpus=gpus,
        masks=masks,
        images=args.images.resolve() if args.images else None,
        labels=args.labels.resolve() if args.labels else None,
        processes=None if args.processes is None else number_of_processes(args.processes),
    )


def read_downloads(given: list[str]) -> dict[str, Path]:
    """NAME=FOLDER. Raises MASTProError for what is not of that form, and for a name that is given twice."""
    downloads: dict[str, Path] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not sign or not name or not folder:
            raise MASTProError(f"--data {text!r} is not NAME=FOLDER; such as LiTS=/data/LiTS")
        if name in downloads:
            raise MASTProError(f"--data names {name} twice; put both parts into one folder")
        downloads[name] = Path(folder).resolve()
    return downloads


def trainer_suffix(epochs: int, usual: int) -> str:
    """Of the trainer's name. Raises MASTProError for a number that no trainer has."""
    from nnunetv2_mastpro.config import EPOCH_VARIANTS

    if epochs == usual:
        return ""
    if epochs not in EPOCH_VARIANTS:
        known = ", ".join(map(str, (*EPOCH_VARIANTS, usual)))
        raise MASTProError(f"no trainer has {epochs} epochs; give one of {known}")
    return f"_{epochs}epoch{'s' if epochs > 1 else ''}"


def check(experiment: Experiment, choices: Choices, todo: Sequence[Step], left: Sequence[Step]) -> None:
    """Raise MASTProError for downloads, folders, GPUs and weights that are wanted and not there."""
    missing = [dataset for dataset in choices.chosen if dataset.name not in choices.downloads]
    if missing:
        names = ", ".join(dataset.name for dataset in missing)
        raise MASTProError(
            f"no folder is given for {names}; download {missing[0].name} from {missing[0].page}, unpack it and add "
            f"--data {missing[0].name}=FOLDER, or name others with --only"
        )
    names = {step.name for step in left}
    for dataset in choices.chosen:
        folder = choices.downloads[dataset.name]
        if f"convert_{dataset.name}" not in names and not lost_images(choices.folder("nnUNet_raw") / dataset.folder):
            continue
        if not folder.is_dir():
            raise MASTProError(f"--data {dataset.name}={folder} is no folder; give the unpacked download")
        if dataset.download and folder.name != dataset.download:
            raise MASTProError(
                f"--data {dataset.name}={folder} has to be called {dataset.download}, as its converter asks"
            )
    masks = [Path(text) for text in choices.masks[1:2] if choices.masks[0] == "--masks"]
    for path in (*masks, *filter(None, (choices.images, choices.labels))):
        if not path.is_dir():
            raise MASTProError(f"{path} is no folder; check --masks, --images and --labels")
    if choices.labels and not choices.images:
        raise MASTProError("--labels is given without --images; give the images to predict, too")
    if choices.images and not any(step.name.endswith("_predict") for step in todo):
        last = experiment.stages[-1].number
        others = ", ".join(name for name, dataset in experiment.data.items() if last in dataset.stages)
        raise MASTProError(
            f"--images is given, but no data set is chosen that the stage that predicts trains on; add one of {others}"
        )
    if choices.device == "cuda":
        check_gpus(choices.gpus)
    if choices.masks[0] == "--run" and any("--run" in step.command for step in left):
        check_totalsegmentator(experiment, choices)


def lost_images(folder: Path) -> bool:
    """Whether images of a converted data set are links to what is no longer there."""
    return any(path.is_symlink() and not path.exists() for path in folder.glob("images*/*"))


def check_totalsegmentator(experiment: Experiment, choices: Choices) -> None:
    """Raise MASTProError where its weights for the classes' host organs are missing."""
    from nnunetv2_mastpro.anatomy.totalseg import check_weights, tasks_of
    from nnunetv2_mastpro.prompts import knowledge_base

    labels = {label for dataset in choices.chosen for label in dataset.labels.values() if label is not None}
    entries = [entry for label in sorted(labels) if (entry := knowledge_base.find(label))]
    structures = [name for entry in entries for name in entry.host_structures]
    check_weights(tasks_of(structures, is_ct=True), fast=False)


def check_gpus(wanted: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if found < wanted:
        raise MASTProError(
            f"{wanted} GPUs are wanted and {found} are here; give --gpus {max(found, 1)}, or --device cpu"
        )


def show(choices: Choices, todo: list[Step]) -> None:
    """The table of Dice, and where the results lie."""
    logs = choices.work / "logs"
    tables = [logs / f"{step.name}.log" for step in todo if step.name.endswith("_cv")]
    results = [step.outputs[0] for step in todo if step.name.endswith(RESULTS)]
    print("\n".join(["", *(path.read_text(encoding="utf-8").rstrip() for path in tables), *map(str, results)]))
    print(f"all steps are done; logs: {logs}")

"""Cross-validation over folds that leaves out of a case's score what its annotators did not look for.

As nnUNetv2_accumulate_crossval_results, whose summary.json counts what a case does not annotate as background:
collects the folds' validation predictions, evaluates them with nnU-Net's own metrics and writes the right
summary.json, with nnU-Net's beside it, and a table by class and by source of cases. Where every case annotates
every class both agree.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro cv`."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="id or name")
    parser.add_argument("-c", dest="configuration", default="3d_fullres", help="default: %(default)s")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", help="default: %(default)s")
    parser.add_argument("-tr", dest="trainer", default="nnUNetTrainerMASTPro", help="default: %(default)s")
    parser.add_argument(
        "-f", dest="folds", nargs="+", default=["0", "1", "2", "3", "4"], help="folds (default: 0 1 2 3 4)"
    )
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="default: beside the folds, as nnU-Net")
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def run(args: argparse.Namespace) -> int:
    """Checks every fold, then evaluates; 0 on success. Raises MASTProError before a file is written."""
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
    from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string, get_output_folder
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_mastpro.commands.prompts import dataset_json_paths
    from nnunetv2_mastpro.evaluation.partial import outputs_of, rewrite_summary, rows
    from nnunetv2_mastpro.prompts.resolve import foreground_labels
    from nnunetv2_mastpro.tasks import read_cases

    name = dataset_json_paths(args.dataset)[0].parent.name
    model = Path(get_output_folder(name, args.trainer, args.plans, args.configuration))
    folds = tuple(read_fold(fold) for fold in args.folds)
    content = check_model(model, name, args)
    check_folds(model, folds, content["file_ending"], args)
    cases = read_cases(content, foreground_labels(content))
    output = args.output or model / f"crossval_results_folds_{folds_tuple_to_string(folds)}"
    if output.resolve() in (model.resolve(), *model.resolve().parents):
        raise MASTProError(f"-o {output} holds the model itself, and is emptied first; give another folder")
    workers = default_num_processes if args.num_processes is None else args.num_processes
    accumulate_cv_results(str(model), str(output), folds, num_processes=workers)
    manager = PlansManager(load_json(str(model / "plans.json"))).get_label_manager(content)
    summary = rewrite_summary(output, cases, outputs_of(manager), content["file_ending"])
    print("\n".join([*table(rows(summary)), f"wrote {output / 'summary.json'}"]))
    return 0


def read_fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise MASTProError(f"-f {text!r} is no fold; give numbers such as 0 1 2, or all")
    return text if text == "all" else int(text)


def check_model(model: Path, name: str, args: argparse.Namespace) -> dict:
    """The model's dataset.json."""
    from nnunetv2_mastpro.prompts.edit import read_dataset_json

    if not (model / "dataset.json").is_file():
        raise MASTProError(
            f"{model} holds no training; give the -c, -p and -tr of one of {name}'s, or train it: "
            f"nnUNetv2_train {args.dataset} {args.configuration} 0 -p {args.plans} -tr {args.trainer}"
        )
    return read_dataset_json(model / "dataset.json")


def check_folds(model: Path, folds: tuple, file_ending: str, args: argparse.Namespace) -> None:
    """Each fold is validated, and no case in two of them."""
    found: Counter = Counter()
    for fold in folds:
        folder = model / f"fold_{fold}" / "validation"
        predictions = [path.name.removesuffix(file_ending) for path in folder.glob(f"*{file_ending}")]
        if not (folder / "summary.json").is_file() or not predictions:
            raise MASTProError(
                f"fold {fold} of {model} has no finished validation; run nnUNetv2_train {args.dataset} "
                f"{args.configuration} {fold} -p {args.plans} -tr {args.trainer} --val"
            )
        found.update(predictions)
    twice = sorted(case for case, count in found.items() if count > 1)
    if twice:
        raise MASTProError(f"validated in more than one of the folds: {some(twice)}; give each fold once")

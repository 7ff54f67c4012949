"""Cross-validation over folds that leaves out of a case's score what its annotators did not look for.

As nnUNetv2_accumulate_crossval_results, whose summary.json counts what a case does not annotate as background:
collects the folds' validation predictions, evaluates them with nnU-Net's own metrics and writes the right
summary.json, with nnU-Net's beside it, and a table by class and by source of cases. Where every case annotates
every class both agree.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2_mastpro.datasets import CHECKPOINTS, dataset_json_paths, is_trained, read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some, table
from nnunetv2_mastpro.resources import nnunet_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro cv`."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="id or name")
    parser.add_argument("-c", dest="configuration", default="3d_fullres", help="configuration (default: %(default)s)")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", help="plans (default: %(default)s)")
    parser.add_argument("-tr", dest="trainer", default="nnUNetTrainerMASTPro", help="trainer (default: %(default)s)")
    parser.add_argument(
        "-f", dest="folds", nargs="+", default=["0", "1", "2", "3", "4"], help="folds (default: 0 1 2 3 4)"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FOLDER",
        help="for the predictions of all folds and their summary (default: beside the folds, as nnU-Net)",
    )
    parser.add_argument("-np", dest="num_processes", type=int, metavar="N", help="processes (default: nnU-Net's own)")


def run(args: argparse.Namespace) -> int:
    """Checks every fold, then evaluates; 0 on success. Raises MASTProError before a file is written."""
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
    from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string, get_output_folder
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_mastpro.evaluation.partial import labels_of, rewrite_or_remove, rows
    from nnunetv2_mastpro.processes import number_of_processes
    from nnunetv2_mastpro.prompts.resolve import foreground_labels, resolve_quietly
    from nnunetv2_mastpro.tasks import read_cases

    nnunet_folder("nnUNet_results")
    name = dataset_json_paths(args.dataset)[0].parent.name
    model = Path(get_output_folder(name, args.trainer, args.plans, args.configuration))
    folds = tuple(read_fold(fold) for fold in args.folds)
    content = check_model(model, name, args)
    predicted = check_folds(model, folds, content["file_ending"], name, args)
    cases = read_cases(content, foreground_labels(content))
    check_truth(name, content["file_ending"], predicted, cases.annotated)
    output = args.output or model / f"crossval_results_folds_{folds_tuple_to_string(folds)}"
    if args.output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MASTProError(f"-o {output} is not empty, and nnU-Net would empty it; give a new folder")
    workers = number_of_processes(args.num_processes)
    labels = labels_of(PlansManager(load_json(str(model / "plans.json"))), content, resolve_quietly(content, name))
    try:
        accumulate_cv_results(str(model), str(output), folds, num_processes=workers)
    except (RuntimeError, ValueError) as error:  # of a file that cannot be read, or of another shape than its truth
        raise MASTProError(f"the predictions cannot be evaluated ({error}); {_validate('FOLD', args)}") from error
    summary = rewrite_or_remove(output, cases, labels)
    print("\n".join([*table(rows(summary)), f"wrote {output / 'summary.json'}"]))
    return 0


def read_fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise MASTProError(f"-f {text!r} is no fold; give numbers such as 0 1 2, or all")
    return text if text == "all" else int(text)


def check_model(model: Path, name: str, args: argparse.Namespace) -> dict:
    """The model's dataset.json."""
    if not (model / "dataset.json").is_file():
        there = sorted(folder.parent.name for folder in model.parent.glob("*/dataset.json"))
        raise MASTProError(
            f"{model} holds no training; give the -c, -p and -tr of one of {name}'s ({some(there)}), or train it: "
            f"nnUNetv2_train {args.dataset} {args.configuration} 0 -p {args.plans} -tr {args.trainer}"
        )
    return read_json_object(model / "dataset.json")


def check_folds(model: Path, folds: tuple, file_ending: str, name: str, args: argparse.Namespace) -> list[str]:
    """The predicted cases: each fold is validated on all of its cases, and no case is in two folds."""
    found: Counter = Counter()
    for fold in folds:
        folder = model / f"fold_{fold}" / "validation"
        predictions = [path.name.removesuffix(file_ending) for path in folder.glob(f"*{file_ending}")]
        if not (folder / "summary.json").is_file() or not predictions:
            if not (model / f"fold_{fold}" / CHECKPOINTS[0]).is_file():
                if is_trained(model / f"fold_{fold}"):
                    raise MASTProError(
                        f"fold {fold} of {model} is not trained to its end; if no training of it is running, "
                        f"{_validate(fold, args).removesuffix(' --val')} --c"
                    )
                trained = sorted(path.parent.name.removeprefix("fold_") for path in model.glob(f"*/{CHECKPOINTS[0]}"))
                raise MASTProError(
                    f"fold {fold} of {model} is not trained; trained: {some(trained) or 'none'}; give these to -f, or "
                    f"{_validate(fold, args).removesuffix(' --val')}"
                )
            raise MASTProError(f"fold {fold} of {model} has no finished validation; {_validate(fold, args)}")
        split = cases_of_split(name, fold)
        strange = sorted({*predictions} - split) if split else []
        if strange:
            raise MASTProError(
                f"{folder} has predictions of {some(strange)}, which splits_final.json has in no validation of "
                f"this fold: they may have been trained on since; remove this folder and {_validate(fold, args)}"
            )
        missing = sorted(split - {*predictions})
        if missing:
            raise MASTProError(
                f"{folder} has no prediction of {some(missing)}, which splits_final.json has in this fold; "
                f"{_validate(fold, args)}"
            )
        found.update(predictions)
    twice = sorted(case for case, count in found.items() if count > 1)
    if twice:
        raise MASTProError(f"validated in more than one of the folds: {some(twice)}; give each fold once")
    return sorted(found)


def _validate(fold: int | str, args: argparse.Namespace) -> str:
    return f"run nnUNetv2_train {args.dataset} {args.configuration} {fold} -p {args.plans} -tr {args.trainer} --val"


def cases_of_split(name: str, fold: int | str) -> set[str]:
    """Validation cases of the fold by splits_final.json; none where nnU-Net draws them itself."""
    from nnunetv2.paths import nnUNet_preprocessed

    path = Path(nnUNet_preprocessed.get() or "", name, "splits_final.json")
    splits = json.loads(path.read_text(encoding="utf-8")) if fold != "all" and path.is_file() else []
    return {*splits[fold]["val"]} if splits and fold < len(splits) else set()


def check_truth(name: str, file_ending: str, predicted: Sequence[str], described: Iterable[str]) -> None:
    """Every predicted case has a truth where nnU-Net looks for it, and so has each that dataset.json describes."""
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    folder = Path(nnUNet_raw.get() or "", name, "labelsTr")
    if not folder.is_dir():
        folder = Path(nnUNet_preprocessed.get() or "", name, "gt_segmentations")
    truth = {path.name.removesuffix(file_ending) for path in folder.glob(f"*{file_ending}")}
    missing = sorted({*predicted} - truth)
    if missing:
        raise MASTProError(f"{folder} has no label of {some(missing)}; put back the labels of the training")
    strange = sorted({*described} - truth)
    if strange:  # misspelt, the case would count as annotated throughout
        raise MASTProError(
            f"mastpro.cases in dataset.json names {some(strange)}, which {folder} does not hold; correct the names in "
            "the dataset.json of the model's folder"
        )

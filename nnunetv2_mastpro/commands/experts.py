"""How often each expert is chosen per tumour type and stage: a table, a heat map, and collapsed experts.

Reads expert_usage.json, which training writes after every epoch, of each fold of a model, and writes experts.csv and
experts.png beside it. Counted are the last epoch's training patches; a type's row counts the patches in which the
type is known to be. Experts are numbered from 0. Choices that have collapsed are told, from ten patches on: an expert
that is hardly ever kept, or one that has nearly all choices.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from nnunetv2_mastpro.datasets import find_folds, read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro experts`."""
    parser.add_argument(
        "-m",
        dest="model",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="trained model: TRAINER__PLANS__CONFIG, or one fold of it",
    )
    parser.add_argument(
        "-f", dest="folds", nargs="+", metavar="FOLD", help="folds (default: every one that has a training)"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FOLDER",
        help="for table and heat map (default: the folder of the fold)",
    )


def run(args: argparse.Namespace) -> int:
    """0 if the usage could be read, collapsed experts or not. Raises MASTProError before a file is written."""
    from nnunetv2_mastpro.evaluation.experts import collapsed, columns, draw, read_usage, rows, too_few
    from nnunetv2_mastpro.files import write_atomically

    if ablated(args.model) or ablated(args.model.resolve().parent):
        raise MASTProError(
            f"{args.model} was trained without experts (mastpro.network.ablate in its plans.json), so there are none"
        )
    folds = find_folds(args.model, args.folds)
    usages = {fold: read_usage(fold) for fold in folds}
    for fold, usage in usages.items():
        folder = fold if args.output is None else args.output / fold.name
        folder.mkdir(parents=True, exist_ok=True)
        head = ("stage", "type in the patch", "patches", *(f"{owner} {number}" for owner, number in columns(usage)))
        lines = [
            (stage, name, str(patches), *(f"{share:.4f}" for share in shares))
            for stage, name, patches, shares in rows(usage)
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *lines])
        write_atomically({folder / "experts.csv": text.getvalue().encode(), folder / "experts.png": draw(usage)})
        print(f"{fold.name}, epoch {usage['epoch']}: share of patches in which an expert is kept")
        print("\n".join(table(compact(usage))))
        for line in too_few(usage):
            print(f"note: {line}")
        for line in collapsed(usage):
            print(f"warning: {line}")
        print(f"wrote {folder / 'experts.csv'} and experts.png\n")
    return 0


def compact(usage: dict) -> list[tuple[str, ...]]:
    """A column per owner, with the shares of its experts."""
    kept = usage["kept"]
    owners = next(iter(next(iter(kept.values())).values()))
    return [
        ("stage", "type in the patch", "patches", *owners),
        *(
            (stage, name, str(usage["patches"][name]))
            + tuple(" ".join(f"{share:.2f}" for share in shares) for shares in found.values())
            for stage, types in kept.items()
            for name, found in types.items()
        ),
    ]


def ablated(model: Path) -> bool:
    """Whether the plans beside the checkpoints leave the experts out."""
    plans = model / "plans.json"
    block = read_json_object(plans).get("mastpro", {}) if plans.is_file() else {}
    return "experts" in block.get("network", {}).get("ablate", ())

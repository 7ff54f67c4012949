"""`mastpro merge`: everything is read and checked, then told, then written."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.merging.base import read_base
from nnunetv2_mastpro.merging.cases import (
    MergedCase,
    group_cases,
    merge_cases,
    same_images,
    scan_cases,
)
from nnunetv2_mastpro.merging.classes import Classes, make_classes
from nnunetv2_mastpro.merging.draft import write_draft
from nnunetv2_mastpro.merging.mapping import ClassMap, check_patients, read_mapping
from nnunetv2_mastpro.merging.output import SPLITS, find_target, make_dataset_json, write_merged
from nnunetv2_mastpro.merging.sources import find_raw, read_sources, with_tests
from nnunetv2_mastpro.merging.splits import check_number, fold_notes, make_splits, read_folds
from nnunetv2_mastpro.merging.told import (
    askew,
    describe,
    holes,
    leaving,
    notes,
    overruled,
    stale,
    turned,
    unknown,
    vague,
    what_next,
    without_tests,
)
from nnunetv2_mastpro.merging.unseen import check_tests, merge_tests
from nnunetv2_mastpro.merging.voxels import Rewrite, rewrite
from nnunetv2_mastpro.packs.labels import with_prompts
from nnunetv2_mastpro.processes import each
from nnunetv2_mastpro.prompts.resolve import resolve_quietly
from nnunetv2_mastpro.resources import nnunet_folder

FOLDS = 5


def merge(args: Namespace, workers: int) -> int:
    """The command; 0 on success. Raises MASTProError before a file is written."""
    base = read_base(args.model) if args.model else None
    if args.write_map is not None:
        if args.map is not None:
            raise MASTProError("--write-map drafts a map and merges nothing, --map takes one; give one of the two")
        earlier = find_target(args.output, args.name).values if args.output is not None else {}
        settled = [*(base.values if base else ()), *earlier]
        write_draft(args.write_map, read_sources(args.datasets), settled, with_nest=base is None)
        print(f"wrote {args.write_map}; edit it, then give it with --map")
        return 0
    if args.output is None:
        raise MASTProError("-o is missing; give the id of the merged data set")
    target = find_target(args.output, args.name)
    earlier, given = read_folds(target.preprocessed / SPLITS), folds_of(args.folds_of)
    folds = (len(given) or len(earlier) or FOLDS) if args.folds is None else args.folds
    sources = read_sources(args.datasets)
    if args.test or target.tests:
        sources = [with_tests(source) for source in sources]
    if args.test:
        check_tests(target, sources)
    if target.name in [source.name for source in sources]:
        raise MASTProError(f"{target.name} is both a source and -o; give another id for the merged data set")
    mapping = read_mapping(args.map, sources) if args.map else ClassMap()
    check_patients(mapping, sources)
    classes = make_classes(sources, mapping, target.values, base)
    if base:  # before images are read
        base.check(make_dataset_json(target, sources, classes, [], args.link), classes.targets, classes.parents)
    check_number(folds, sum(len(source.files) for source in sources))
    unite = args.duplicates == "unite"
    scans = scan_cases(sources, workers, args.prefix, unite)
    images = same_images(sources, scans)
    merged, without = merge_cases(sources, images, scans, classes, mapping, args.prefix, unite)
    if not merged:
        raise MASTProError("no case annotates a class that is kept; correct the map")
    tests, about_tests = None, []
    if args.test or target.tests:
        tests, about_tests = merge_tests(sources, merged, scans, classes, mapping, args, workers)
    disputes = compare([*merged, *(tests or ())], classes, workers)
    content = make_dataset_json(target, sources, classes, merged, args.link, tests)
    content = with_prompts(content, base.classes) if base else content
    splits = make_splits(
        group_cases(merged, scans, mapping),
        {case.name: case.source for case in merged},
        tumor_types(content, merged),
        folds,
        earlier,
        given,
    )
    print(
        "\n".join(
            [
                *describe(sources, scans, classes, mapping),
                *(about_tests if tests is not None else without_tests(sources)),
                *notes(images, without, unite),
                *turned(sources, scans),
                *askew(sources, scans),
                *leaving(target, sources),
                *disputes,
                *vague(sources, classes),
                *unknown(content, sources, classes),
                *overruled(content, target, sources, classes, base.values if base else ()),
                *holes(sources, classes),
                *(fold_notes(splits, earlier) if (target.preprocessed / SPLITS).is_file() else ()),
                *([f"--folds-of {args.folds_of}: {line}" for line in fold_notes(splits, given)] if given else ()),
            ]
        )
    )
    if args.dry_run:
        print(f"dry run: nothing was written; it would be {target.raw}")
        return 0
    redo = stale(target, args.model)
    write_merged(target, content, splits, merged, classes, workers, tests)
    print(
        "\n".join(
            [
                f"{'renewed' if target.earlier else 'wrote'} {target.raw} and {target.preprocessed / SPLITS}",
                *redo,
                *what_next(target, bool(redo or target.earlier), args.model),
            ]
        )
    )
    return 0


def folds_of(dataset: str | None) -> list[list[str]]:
    """Val cases of another data set's folds. Raises MASTProError where it has none."""
    if dataset is None:
        return []
    path = nnunet_folder("nnUNet_preprocessed") / find_raw(dataset) / SPLITS
    folds = read_folds(path)
    if not folds:
        raise MASTProError(f"--folds-of {dataset}: {path} has no folds; give a data set that mastpro merge wrote")
    return folds


def compare(merged: Sequence[MergedCase], classes: Classes, workers: int) -> list[str]:
    """Notes of voxels where the labels of one image disagree on the class. Raises MASTProError as `unite` does."""
    united = [case for case in merged if len(case.raw) > 1]
    jobs = [Rewrite(case.raw, case.annotated_by, classes) for case in united]
    counts = list(each(rewrite, jobs, workers, "compare duplicates")) if jobs else []
    told = [f"{case.name} ({count})" for case, count in zip(united, counts, strict=True) if count]
    if not told:
        return []
    return [f"note: voxels with another class in each label of one image, the first of which stays: {some(told)}"]


def tumor_types(content: dict, merged: Sequence[MergedCase]) -> dict[str, list[str]]:
    """Per case the tumour types that it has, as training tells them."""
    tumors = {prompt.label for prompt in resolve_quietly(content, content["name"]) if prompt.is_tumor}
    return {case.name: [name for name in case.present if name in tumors] for case in merged}

"""`mastpro merge`: everything is read and checked, then told, then written."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping as Table
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some, table
from nnunetv2_mastpro.merging.base import read_base
from nnunetv2_mastpro.merging.cases import (
    Key,
    MergedCase,
    group_cases,
    merge_cases,
    same_images,
    scan_cases,
    voxels,
)
from nnunetv2_mastpro.merging.classes import Classes, make_classes
from nnunetv2_mastpro.merging.draft import write_draft
from nnunetv2_mastpro.merging.mapping import Mapping, check_patients, read_mapping
from nnunetv2_mastpro.merging.output import SPLITS, Target, find_target, make_dataset_json, write_merged
from nnunetv2_mastpro.merging.sources import RawCase, Source, find_raw, read_sources, with_tests
from nnunetv2_mastpro.merging.splits import fold_notes, make_splits, read_folds
from nnunetv2_mastpro.merging.unseen import check_tests, merge_tests
from nnunetv2_mastpro.merging.voxels import Rewrite, Scan, rewrite
from nnunetv2_mastpro.packs.labels import with_prompts
from nnunetv2_mastpro.processes import each
from nnunetv2_mastpro.prompts.knowledge_base import find
from nnunetv2_mastpro.prompts.resolve import resolve_quietly
from nnunetv2_mastpro.resources import nnunet_folder

FOLDS = 5


def merge(args: Namespace, workers: int) -> int:
    """The command; 0 on success. Raises MASTProError before a file is written."""
    base = read_base(args.model) if args.model else None
    if args.write_map is not None:
        earlier = find_target(args.output, args.name).values if args.output is not None else {}
        write_draft(args.write_map, read_sources(args.datasets), [*(base.values if base else ()), *earlier])
        print(f"wrote {args.write_map}; edit it, then give it with --map")
        return 0
    if args.output is None:
        raise MASTProError("-o is missing; give the id of the merged data set")
    target = find_target(args.output, args.name)
    sources = read_sources(args.datasets)
    if args.test or target.tests:
        sources = [with_tests(source) for source in sources]
    if args.test:
        check_tests(target, sources)
    if target.name in [source.name for source in sources]:
        raise MASTProError(f"{target.name} is both a source and -o; give another id for the merged data set")
    mapping = read_mapping(args.map, sources) if args.map else Mapping()
    check_patients(mapping, sources)
    classes = make_classes(sources, mapping, target.values, base.values if base else {})
    if base:  # before images are read
        base.check(make_dataset_json(target, sources, classes, [], args.link), classes.targets)
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
    earlier = read_folds(target.preprocessed / SPLITS) or folds_of(args.folds_of)
    splits = make_splits(
        group_cases(merged, scans, mapping),
        {case.name: case.source for case in merged},
        tumor_types(content, merged),
        (len(earlier) or FOLDS) if args.folds is None else args.folds,
        earlier,
    )
    print(
        "\n".join(
            [
                *describe(sources, scans, classes, mapping),
                *about_tests,
                *notes(images, without, unite),
                *leaving(target, sources),
                *disputes,
                *vague(sources, classes),
                *holes(sources, classes),
                *(fold_notes(splits, earlier) if earlier or (target.preprocessed / SPLITS).is_file() else ()),
            ]
        )
    )
    if args.dry_run:
        print(f"dry run: nothing was written; it would be {target.raw}")
        return 0
    redo = stale(target)
    write_merged(target, content, splits, merged, classes, workers, tests)
    print(
        "\n".join(
            [
                f"wrote {target.raw} and {target.preprocessed / SPLITS}",
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


def describe(sources: Sequence[Source], scans: Table[Key, Scan], classes: Classes, mapping: Mapping) -> list[str]:
    """The table of what each source annotates."""
    rows = [("source", "cases", "value", "class", "annotated in", "found in", "voxels")]
    for source in sources:
        annotated, found, total = Counter(), Counter(), Counter()
        for case in source.files:
            counts = voxels(scans, case, classes)
            annotated.update(classes.annotated(source, case.name, mapping))
            found.update(counts.keys())
            total.update(counts)
        for name in classes.ordered([*annotated, *found]):
            numbers = (annotated[name], found[name], total[name])
            rows.append((source.name, str(len(source.files)), str(classes.values[name]), name, *map(str, numbers)))
    return table(rows)


def notes(images: Sequence[tuple[RawCase, ...]], without: Sequence[str], unite: bool) -> list[str]:
    """What the user may not expect: duplicates, and cases that are left out."""
    lines = []
    twice = [" = ".join(f"{case.source}/{case.name}" for case in cases) for cases in images if len(cases) > 1]
    if twice:
        fate = "united to one case each" if unite else "kept, each set in one fold"
        lines.append(f"duplicate images, {fate}: {some(twice)}")
    if without:
        lines.append(f"warning: left out, since they annotate no class that is kept: {some(without)}")
    return lines


def leaving(target: Target, sources: Sequence[Source]) -> list[str]:
    """Sources of an earlier merge that are no longer named."""
    gone = [name for name in target.sources if name not in {source.name for source in sources}]
    return [f"warning: -d no longer names {', '.join(gone)}, whose cases leave the data set"] if gone else []


def vague(sources: Sequence[Source], classes: Classes) -> list[str]:
    """Names such as "tumor", that say what they are in the source's name only."""
    lost = {
        target: known.name
        for source in sources
        for label, target in classes.targets[source.name].items()
        if target and (known := find(label, tuple(source.labels), source.name))
        if find(target, tuple(classes.values)) is None
    }
    named = ", ".join(f'"{target}" ({known})' for target, known in lost.items())
    advice = "correct the map, or draft one with --write-map; else its prompt is a plain sentence of its name"
    return [f"note: the knowledge base knows no {named} by that name alone: {advice}"] if lost else []


def holes(sources: Sequence[Source], classes: Classes) -> list[str]:
    """Dropped labels whose voxels become background in a source that keeps a class which contains others."""
    lines = []
    for source in sources:
        targets, table = classes.targets[source.name], classes.tables[source.name]
        around = [name for name in classes.ordered([*targets.values()]) if name in classes.parents.values()]
        lost = [
            label for label, target in targets.items() if not target and not any(table[v] for v in source.labels[label])
        ]
        if around and lost:
            lines.append(
                f"note: voxels of {', '.join(lost)} in {source.name} become background, also inside {around[0]}; map "
                f"what belongs to it to {around[0]}, so that it has no holes"
            )
    return lines


def stale(target: Target) -> list[str]:
    """What an earlier merge left that the new one does not fit."""
    if not (target.preprocessed / "dataset_fingerprint.json").is_file():
        return []
    return [f"note: {target.preprocessed} holds data of an earlier merge; plan and preprocess again, --clean"]


def what_next(target: Target, again: bool, model: Path | None) -> list[str]:
    """The command to go on with. `again`: nnU-Net may have a fingerprint of an earlier merge."""
    clean = " --clean" if again else ""
    identifier = int(target.name[7:10])
    if model is not None:  # plans and preprocessing must be the model's
        return ["", "Next:", f"  mastpro add-tumour -m {model} -d {identifier} -f 0 -n PLANS --write-prompts --dry-run"]
    return ["", "Next:", f"  nnUNetv2_plan_and_preprocess -d {identifier} --verify_dataset_integrity{clean}"]

"""Test cases of the sources, `mastpro merge --test`: merged as training cases are, none of which they may repeat."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.merging.cases import Key, MergedCase, marks_of, merge_cases, same_images, scan_cases
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.mapping import ClassMap
from nnunetv2_mastpro.merging.output import TEST_FOLDERS, Target
from nnunetv2_mastpro.merging.sources import RawCase, Source
from nnunetv2_mastpro.merging.splits import join
from nnunetv2_mastpro.merging.told import askew
from nnunetv2_mastpro.merging.voxels import Scan


def check_tests(target: Target, sources: Sequence[Source]) -> None:
    """Raise MASTProError where --test has nothing to merge, or would write into folders of others."""
    if not any(case.images and case.label for source in sources for case in source.tests):
        raise MASTProError("--test: no source has cases in imagesTs whose labels are in labelsTs; leave --test out")
    for folder in () if target.tests else (target.raw / name for name in TEST_FOLDERS):
        if folder.exists():
            raise MASTProError(f"{folder} is there and was not written by mastpro merge --test; move it away")


def merge_tests(
    sources: Sequence[Source],
    training: Sequence[MergedCase],
    scans: Mapping[Key, Scan],
    classes: Classes,
    mapping: ClassMap,
    args: Namespace,
    workers: int,
) -> tuple[list[MergedCase], list[str]]:
    """The test cases, and what the user should know of them. `scans`: of all training cases.

    Raises MASTProError for bad files, where a name is a training case's, and where --test leaves no case.
    """
    unite = args.duplicates == "unite"
    tested = [
        replace(source, files=tuple(case for case in source.tests if case.images and case.label)) for source in sources
    ]
    found = scan_cases(tested, workers, args.prefix, unite)
    left_out = {
        "imagesTs lacks their images": [case for source in sources for case in source.tests if not case.images],
        "a source trains on their image or patient": seen_in_training(sources, tested, scans, found, mapping),
        "mastpro.test_cases does not say what they annotate, and others of their source annotate some classes only": [
            case
            for source in tested
            for case in source.files
            if source.cases.presumed(case.name) and mapping.of(source.name).annotated is None
        ],
    }
    without = {case.key for cases in left_out.values() for case in cases}
    kept = [replace(source, files=tuple(case for case in source.files if case.key not in without)) for source in tested]
    tests, useless = merge_cases(kept, same_images(kept, found), found, classes, mapping, args.prefix, unite)
    reasons = {
        **{why: [f"{case.name} of {case.source}" for case in cases] for why, cases in left_out.items()},
        "they annotate no class that is kept": useless,
    }
    lines = [f"test cases left out, since {why}: {some(names)}" for why, names in reasons.items() if names]
    if args.test and not tests:
        raise MASTProError(f"--test: no test case is left: {'; '.join(lines)}; leave --test out")
    taken = sorted({case.name for case in tests} & {case.name for case in training})
    if taken:
        raise MASTProError(
            f"test cases have the names of training cases: {some(taken)}; rename the files, or, where they are of two "
            "sources, put the source before all names with --prefix"
        )
    unlabelled = Counter(case.source for source in sources for case in source.tests if not case.label)
    lines += [f"{count} test images of {name} have no labels" for name, count in unlabelled.items()]
    counts = Counter(case.raw[0].source for case in tests)
    told = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
    return tests, [f"test cases: {told}", *(f"warning: {line}" for line in lines), *askew(kept, found)]


def seen_in_training(
    sources: Sequence[Source],
    tested: Sequence[Source],
    scans: Mapping[Key, Scan],
    found: Mapping[Key, Scan],
    mapping: ClassMap,
) -> list[RawCase]:
    """Test cases that share image or patient with a training case, also by way of other test cases."""
    marks = {
        (training, case): marks_of(case, seen, mapping)
        for training, among, seen in ((True, sources, scans), (False, tested, found))
        for source in among
        for case in source.files
    }
    groups = join([*marks], marks)
    trained = {group for (training, _), group in groups.items() if training}
    return [case for (training, case), group in groups.items() if not training and group in trained]

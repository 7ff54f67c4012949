"""Test cases of the sources, `mastpro merge --test`: merged as training cases are, none of which they may repeat."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import replace

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.merging.cases import Key, MergedCase, merge_cases, same_images, scan_cases
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.mapping import Mapping
from nnunetv2_mastpro.merging.output import TEST_FOLDERS, Target
from nnunetv2_mastpro.merging.sources import RawCase, Source
from nnunetv2_mastpro.merging.voxels import Scan


def check_tests(target: Target, sources: Sequence[Source]) -> None:
    """Raise MASTProError where --test has nothing to merge, or would write into folders of others."""
    if not any(source.tests for source in sources):
        raise MASTProError("--test: no source has cases in imagesTs whose labels are in labelsTs; leave --test out")
    for folder in () if target.tests else (target.raw / name for name in TEST_FOLDERS):
        if folder.exists():
            raise MASTProError(f"{folder} is there and was not written by mastpro merge --test; move it away")


def merge_tests(
    sources: Sequence[Source],
    training: Sequence[MergedCase],
    scans: Table[Key, Scan],
    classes: Classes,
    mapping: Mapping,
    args: Namespace,
    workers: int,
) -> tuple[list[MergedCase], list[str]]:
    """The test cases, and what the user should know of them. `scans`: of all training cases.

    Left out are test cases whose image or patient some source trains on. Raises MASTProError for bad files, and where a
    name is a training case's.
    """
    unite = args.duplicates == "unite"
    tested = [replace(source, files=source.tests) for source in sources if source.tests]
    found = scan_cases(tested, workers, args.prefix, unite)

    def marks(case: RawCase, scan: Scan) -> set:
        return {mapping.patient_of(case.source, case.name), scan.digest}

    seen = {mark for source in sources for case in source.files for mark in marks(case, scans[case.key])}
    known = [case for source in tested for case in source.files if marks(case, found[case.key]) & seen]
    unseen = [replace(source, files=tuple(case for case in source.files if case not in known)) for source in tested]
    tests, without = merge_cases(unseen, same_images(unseen, found), found, classes, mapping, args.prefix, unite)
    taken = sorted({case.name for case in tests} & {case.name for case in training})
    if taken:
        raise MASTProError(
            f"test cases have the names of training cases: {some(taken)}; --prefix puts the source before all names"
        )
    counts = Counter(case.raw[0].source for case in tests)
    lines = [f"test cases: {len(tests)} ({', '.join(f'{name} {count}' for name, count in counts.items())})"]
    for why, cases in (
        ("a source trains on their image or patient", [f"{case.name} of {case.source}" for case in known]),
        ("they annotate no class that is kept", without),
    ):
        if cases:
            lines.append(f"warning: test cases left out, since {why}: {some(cases)}")
    return tests, lines

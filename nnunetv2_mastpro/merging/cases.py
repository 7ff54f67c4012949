"""The merged cases: names, duplicates, who annotated what, groups for the folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import read_geometry
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.mapping import ClassMap
from nnunetv2_mastpro.merging.sources import RawCase, Source
from nnunetv2_mastpro.merging.splits import join
from nnunetv2_mastpro.merging.voxels import Probe, Scan, scan
from nnunetv2_mastpro.processes import each

Key = tuple[str, str]  # source and case


@dataclass(frozen=True)
class MergedCase:
    """`raw`: the cases of one image whose labels it unites; the first gives name, files and source.

    `source` stays one data set, not all joined: training draws by source and evaluation tells by it, where a source of
    few united cases would be drawn too often. `origins` has all, as SOURCE/CASE; mastpro.merge.duplicates lists them.
    `annotated_by`: classes of each of `raw`, `annotated`: of all.
    """

    name: str
    raw: tuple[RawCase, ...]
    annotated_by: tuple[tuple[str, ...], ...]
    source: str
    origins: tuple[str, ...]
    annotated: tuple[str, ...]
    present: tuple[str, ...]  # classes with voxels in a label of it


def _twice(name: str, doubtful: Sequence[Probe]) -> MASTProError:
    where = " and ".join(other.case.source for other in doubtful if other.case.name == name)
    return MASTProError(
        f'the case name "{name}" occurs twice, in {where}, for different images; --prefix puts the source before all '
        "names"
    )


def _size(case: RawCase) -> tuple[int, ...] | None:
    """By the header; None where SimpleITK cannot read it, as nibabel may."""
    try:
        return read_geometry(Path(case.images[0])).size
    except MASTProError:
        return None


def scan_cases(sources: Sequence[Source], workers: int, prefix: bool, unite: bool) -> dict[Key, Scan]:
    """Reads every case once. Raises MASTProError for bad files, and early for two images of one name.

    Equal images may have one name, since they become one case; whether they are equal their size may tell.
    """
    probes = [Probe(case, tuple(source.declared), len(source.channels)) for source in sources for case in source.files]
    counts = Counter(probe.case.name for probe in probes)
    doubtful = [] if prefix else [probe for probe in probes if counts[probe.case.name] > 1]
    scans: dict[Key, Scan] = {}
    signs: dict[str, object] = {}
    for probe in doubtful:
        sign = _size(probe.case) if unite else probe.case.key
        if sign is not None and signs.setdefault(probe.case.name, sign) != sign:
            raise _twice(probe.case.name, doubtful)
    digests: dict[str, str] = {}
    for probe, found in zip(doubtful, _scan(doubtful, workers), strict=True):
        if digests.setdefault(probe.case.name, found.digest) != found.digest:
            raise _twice(probe.case.name, doubtful)
        scans[probe.case.key] = found
    rest = [probe for probe in probes if probe.case.key not in scans]
    return scans | {probe.case.key: found for probe, found in zip(rest, _scan(rest, workers), strict=True)}


def _scan(probes: Sequence[Probe], workers: int) -> list[Scan]:
    return list(each(scan, probes, workers, "read images")) if probes else []


def same_images(sources: Sequence[Source], scans: Mapping[Key, Scan]) -> list[tuple[RawCase, ...]]:
    """All cases in the order of the sources, those of one image together."""
    found: dict[str, list[RawCase]] = {}
    for source in sources:
        for case in source.files:
            found.setdefault(scans[case.key].digest, []).append(case)
    return [tuple(cases) for cases in found.values()]


def merge_cases(
    sources: Sequence[Source],
    images: Sequence[tuple[RawCase, ...]],
    scans: Mapping[Key, Scan],
    classes: Classes,
    mapping: ClassMap,
    prefix: bool,
    unite: bool,
) -> tuple[list[MergedCase], list[str]]:
    """The cases, and the names of those left out since they annotate nothing that is kept."""
    by_name = {source.name: source for source in sources}
    merged, without = [], []
    for group in images if unite else [(case,) for cases in images for case in cases]:
        known = {case: classes.annotated(by_name[case.source], case.name, mapping) for case in group}
        kept = tuple(case for case in group if known[case])
        without += [f"{case.name} of {case.source}" for case in group if not known[case]]
        if not kept:
            continue
        first = kept[0]
        merged.append(
            MergedCase(
                name=f"D{first.source[7:10]}_{first.name}" if prefix else first.name,
                raw=kept,
                annotated_by=tuple(known[case] for case in kept),
                source=by_name[first.source].cases.sources.get(first.name, first.source),
                origins=tuple(
                    dict.fromkeys(one for case in kept for one in by_name[case.source].origins_of(case.name))
                ),
                annotated=classes.ordered([name for case in kept for name in known[case]]),
                present=classes.ordered([name for case in kept for name in voxels(scans, case, classes)]),
            )
        )
    twice = [name for name, count in Counter(case.name for case in merged).items() if count > 1]
    if twice:
        raise MASTProError(f"the case names {some(twice)} occur twice; --prefix puts the source before all names")
    return merged, without


def voxels(scans: Mapping[Key, Scan], case: RawCase, classes: Classes) -> Counter:
    """Voxels of a case by class; one of an inner class counts for those around it, too."""
    counts: Counter = Counter()
    for value, number in scans[case.key].counts.items():
        for name in classes.names_of(classes.tables[case.source][value]):
            counts[name] += number
    return counts


def marks_of(case: RawCase, scans: Mapping[Key, Scan], mapping: ClassMap) -> list:
    """What ties a case to others: its patient, where one is found, and its image, in whatever orientation."""
    marks = (mapping.patient_of(case.source, case.name), scans[case.key].digest, scans[case.key].turned)
    return [mark for mark in marks if mark is not None]


def group_cases(merged: Sequence[MergedCase], scans: Mapping[Key, Scan], mapping: ClassMap) -> dict[str, int]:
    """Case -> group that has to stay in one fold: cases of a patient, and of one image."""
    marks = {case.name: [mark for raw in case.raw for mark in marks_of(raw, scans, mapping)] for case in merged}
    return join([case.name for case in merged], marks)

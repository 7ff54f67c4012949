"""Folds without a patient or an image on both sides, balanced over sources and tumour types.

Cases keep the fold of an earlier merge, which scikit-learn's StratifiedGroupKFold cannot do. New groups of cases go,
those of the rarest kind and the largest first, to the fold that has the fewest of their kind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some

SEEN = "models trained on the earlier ones may have seen the new val cases"


def join(cases: Sequence[str], marks: Mapping[str, Sequence[Hashable]]) -> dict[str, int]:
    """Case -> number of its group; cases that share a mark (a patient, an image), also by way of others, are one."""
    root: dict[Hashable, Hashable] = {}

    def find(item: Hashable) -> Hashable:
        while root.setdefault(item, item) != item:
            item = root[item]
        return item

    for case in cases:
        for mark in marks[case]:
            root[find(("mark", mark))] = find(case)
    numbers: dict[Hashable, int] = {}
    return {case: numbers.setdefault(find(case), len(numbers)) for case in cases}


def make_splits(
    groups: Mapping[str, int],
    sources: Mapping[str, str],
    types: Mapping[str, Sequence[str]],
    folds: int,
    earlier: Sequence[Sequence[str]] = (),
    given: Sequence[Sequence[str]] = (),
) -> list[dict[str, list[str]]]:
    """Content of splits_final.json. `earlier`: val cases of each fold, which stay where the number of folds does.

    Those of `given` go before. A group whose cases were in several folds goes to the one with most of them; where a
    fold would be left without cases all are distributed anew, but for those of `given` if these leave none so. Raises
    MASTProError for fewer groups than folds.
    """
    cases = sorted(groups)
    check_number(folds, len(set(groups.values())))
    before = [
        {case: fold for fold, part in enumerate(parts) for case in part}
        for parts in (given, earlier)
        if len(parts) == folds
    ]
    kinds = {
        case: ((sources[case], tuple(types[case])), *((kind,) for kind in types[case]), (sources[case], None))
        for case in cases
    }
    fold_of = _distribute(groups, kinds, folds, before)
    while len(set(fold_of.values())) < folds and before:
        before.pop()
        fold_of = _distribute(groups, kinds, folds, before)
    return [
        {
            "train": [case for case in cases if fold_of[case] != fold],
            "val": [case for case in cases if fold_of[case] == fold],
        }
        for fold in range(folds)
    ]


def check_number(folds: int, patients: int) -> None:
    """Raise MASTProError for fewer groups of cases than folds."""
    if not 2 <= folds <= patients:
        raise MASTProError(
            f"--folds {folds} is not within 2 and {patients}, the number of patients; cases of a patient and "
            "duplicates stay in one fold"
        )


def _distribute(
    groups: Mapping[str, int],
    kinds: Mapping[str, Sequence[Hashable]],
    folds: int,
    before: Sequence[Mapping[str, int]],
) -> dict[str, int]:
    """Case -> fold. `kinds`: what is balanced, the most specific first; `before`: folds of cases, the first that has
    any of a group decides.
    """
    members: dict[int, list[str]] = {}
    for case in sorted(groups):
        members.setdefault(groups[case], []).append(case)
    frequency = Counter(kind for case in groups for kind in kinds[case])
    counts = [Counter() for _ in range(folds)]
    fold_of: dict[str, int] = {}

    def put(group: Sequence[str], fold: int) -> None:
        for case in group:
            fold_of[case] = fold
            counts[fold].update([*kinds[case], "cases"])

    fresh = []
    for group in members.values():
        votes = [Counter(known[case] for case in group if case in known) for known in before]
        if any(votes):
            put(group, next(filter(None, votes)).most_common(1)[0][0])
        else:
            fresh.append(group)
    for group in sorted(fresh, key=lambda group: (min(frequency[kinds[case][0]] for case in group), -len(group))):
        own = sorted({kind for case in group for kind in kinds[case]}, key=lambda kind: (frequency[kind], str(kind)))
        put(group, min(range(folds), key=lambda fold: [counts[fold][kind] for kind in (*own, "cases")]))
    return fold_of


def read_folds(path: Path) -> list[list[str]]:
    """Val cases of each fold in splits_final.json; none where it is missing or has another form."""
    try:
        return [list(map(str, split["val"])) for split in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def fold_notes(splits: Sequence[Mapping[str, Sequence[str]]], earlier: Sequence[Sequence[str]]) -> list[str]:
    """What becomes of the earlier folds."""
    if len(splits) != len(earlier):
        return [f"note: the folds were made anew, {len(splits)} in the place of {len(earlier)}; {SEEN}"]
    before = {case: fold for fold, part in enumerate(earlier) for case in part}
    now = {case: fold for fold, split in enumerate(splits) for case in split["val"]}
    moved = [case for case in now if before.get(case, now[case]) != now[case]]
    if moved:
        return [
            f"note: {some(moved)} went to another fold, since a patient or an image ties them to cases there, a "
            f"fold had lost all of its cases, or --folds-of says so; {SEEN}"
        ]
    kept = sum(case in before for case in now)
    return [f"note: the {kept} earlier cases keep their folds, {len(now) - kept} new ones are distributed"]

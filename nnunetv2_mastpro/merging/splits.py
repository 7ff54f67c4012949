"""Folds without a patient or an image on both sides, stratified by source and tumour types."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from nnunetv2_mastpro.errors import MASTProError

SEED = 12345  # nnU-Net's


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
    groups: Mapping[str, int], sources: Mapping[str, str], types: Mapping[str, Sequence[str]], folds: int
) -> list[dict[str, list[str]]]:
    """Content of splits_final.json. Raises MASTProError for fewer groups than folds."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    cases = sorted(groups)
    number = len(set(groups.values()))
    if not 2 <= folds <= number:
        raise MASTProError(
            f"--folds {folds} is not within 2 and {number}, the number of patients; cases of a patient and duplicates "
            "stay in one fold"
        )
    strata, members = _strata(cases, sources, types, folds), [groups[case] for case in cases]
    for splitter in (StratifiedGroupKFold(folds, shuffle=True, random_state=SEED), GroupKFold(folds)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of strata with fewer cases than folds
            parts = [(set(one), set(two)) for one, two in splitter.split(cases, strata, members)]
        if all(training and validation for training, validation in parts):
            break
    return [
        {key: [cases[place] for place in sorted(part)] for key, part in zip(("train", "val"), both, strict=True)}
        for both in parts
    ]


def _strata(
    cases: Sequence[str], sources: Mapping[str, str], types: Mapping[str, Sequence[str]], folds: int
) -> list[str]:
    """Source and types of each case; the source where these are rarer than folds; one for all where sources are."""
    fine = [f"{sources[case]}: {', '.join(types[case])}" for case in cases]
    coarse = [sources[case] for case in cases]
    counts = Counter(fine)
    strata = [one if counts[one] >= folds else two for one, two in zip(fine, coarse, strict=True)]
    return strata if max(Counter(strata).values()) >= folds else ["all"] * len(cases)

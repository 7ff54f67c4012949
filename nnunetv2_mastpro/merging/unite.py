"""One label of those that several sources give one image. Arrays are (Z, Y, X), in the merged values.

Voxel by voxel, a source speaks of the classes that it annotates:

- Where two sources annotate a class, and one says it and the other background or only a class around it, the first one,
  in the order of -d, decides.
- Background says nothing of classes that its source does not annotate: the source that says one is heard. So is an
  inner class where the other source knows only the one around it.
- Where an inner class is overruled, the class around it that its source annotates is heard in its place, if it may be.
- "ignore" says nothing: another source's class takes its place, and so does its background where that source annotates
  all that the ignoring one does.
- Of two classes of which neither lies inside the other the first one stays, unless only the second one's source
  annotates what it says. Such voxels are counted, and refused where they are more than a stray boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.merging.classes import Classes

MAX_DISPUTED = 0.05  # of the smaller class's voxels; more of them say that the labels mean different things


def unite(
    labels: Sequence[np.ndarray], annotated: Sequence[Sequence[str]], classes: Classes, names: Sequence[str]
) -> tuple[np.ndarray, int]:
    """The united label, and how many voxels had two classes that are not nested.

    Raises MASTProError for labels that differ in shape, and where such voxels are more than one and MAX_DISPUTED.
    """
    united, known, disputed = labels[0].astype(np.result_type(*labels)), frozenset(annotated[0]), 0
    for label, more, name in zip(labels[1:], annotated[1:], names[1:], strict=True):
        if label.shape != united.shape:
            raise MASTProError(f"the images of {names[0]} and {name} are one, their labels differ in shape; repair one")
        before, more = united.copy(), frozenset(more)
        pairs, counts = np.unique(np.stack([before, label])[:, before != label], axis=1, return_counts=True)
        for (one, two), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            here, there = before == one, label == two
            united[here & there] = decide(one, two, known, more, classes)
            if all(_only(one, two, classes)):
                _check_disputed(one, two, count, int(min(here.sum(), there.sum())), classes, (names[0], name))
                disputed += count
        known |= more
    return united, disputed


def decide(one: int, two: int, known_one: AbstractSet[str], known_two: AbstractSet[str], classes: Classes) -> int:
    """Value of a voxel to which the first source gives the one value, and the second the other."""
    ignore = classes.ignore_value
    if one == two:
        return one
    if ignore in (one, two):
        word, speaker, silent = (two, known_two, known_one) if one == ignore else (one, known_one, known_two)
        return word if word or silent <= speaker else ignore
    only_one, only_two = _only(one, two, classes)
    if only_one and only_two:
        return two if only_one[0] not in known_one and only_two[0] in known_two else one
    if only_two:
        heard = _heard(only_two, known_two, known_one)
        return one if heard is None else classes.values[heard]
    heard = _heard(only_one, known_one, known_two - known_one)
    return two if heard is None else classes.values[heard]


def _only(one: int, two: int, classes: Classes) -> tuple[list[str], list[str]]:
    """Classes that the one value says and the other does not, and the reverse, inmost first."""
    first, second = classes.names_of(one), classes.names_of(two)
    return [name for name in first if name not in second], [name for name in second if name not in first]


def _heard(said: Sequence[str], own: AbstractSet[str], overruled: AbstractSet[str]) -> str | None:
    """The inmost class that is not overruled, of the label file's own and those around it that its source annotates."""
    return next((name for name in said if name not in overruled and (name in own or name == said[0])), None)


def _check_disputed(one: int, two: int, count: int, smaller: int, classes: Classes, names: tuple[str, str]) -> None:
    if count <= max(1, MAX_DISPUTED * smaller):
        return
    a, b = (classes.names_of(value)[0] for value in (one, two))
    raise MASTProError(
        f'{names[0]} and {names[1]} are one image, where the same voxels are "{a}" and "{b}": {count}, more than '
        f"{MAX_DISPUTED:.0%} of the smaller one's {smaller}; nest one in the other in the map, or keep both cases with "
        "--duplicates keep"
    )

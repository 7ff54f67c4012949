"""The union of the sources' classes: names, values, what lies inside what, and what a source's values become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.merging.base import Base
from nnunetv2_mastpro.merging.mapping import ClassMap
from nnunetv2_mastpro.merging.sources import Source, nearest
from nnunetv2_mastpro.prompts.knowledge_base import find
from nnunetv2_mastpro.prompts.resolve import foreground_labels


@dataclass(frozen=True)
class Classes:
    """`values`: class -> value, `parents`: class -> class around it, `targets`: source -> label -> class or None.

    `tables`: source -> its value -> merged value. `model`: dataset.json of one to which types are added; its classes
    come first, as they are.
    """

    values: dict[str, int]
    parents: dict[str, str]
    targets: dict[str, dict[str, str | None]]
    tables: dict[str, dict[int, int]]
    ignore_value: int | None
    model: Mapping = field(default_factory=dict)

    def around(self, name: str) -> tuple[str, ...]:
        """The class and all around it, inmost first."""
        return around(name, self.parents)

    def names_of(self, value: int) -> tuple[str, ...]:
        """All classes that a voxel of this value belongs to, inmost first."""
        own = next((name for name, one in self.values.items() if one == value), None)
        return self.around(own) if own else ()

    def ordered(self, names: Sequence[str]) -> tuple[str, ...]:
        """In the order of the values."""
        return tuple(name for name in self.values if name in names)

    def labels(self) -> dict[str, int | list[int]]:
        """ "labels" of dataset.json; a class that has others inside comes before them, as nnU-Net paints regions."""
        labels: dict[str, int | list[int]] = {"background": 0}
        for name in self.region_order():
            inside = [value for other, value in self.values.items() if name in self.around(other)]
            labels[name] = self._settled.get(name, sorted(inside) if len(inside) > 1 else inside[0])
        return labels if self.ignore_value is None else {**labels, "ignore": self.ignore_value}

    def region_order(self) -> list[str]:
        """Classes from the outmost, then by value; all by value where none is nested. A model's come before others."""
        first = [*self._settled]
        places = {name: first.index(name) if name in first else len(first) for name in self.values}
        return sorted(self.values, key=lambda name: (places[name], len(self.around(name)), self.values[name]))

    def paint_order(self) -> list[int] | None:
        """nnU-Net's regions_class_order; None where no class is a region."""
        if not self.model:
            return [self.values[name] for name in self.region_order()] if self.parents else None
        order = self.model.get("regions_class_order")
        new = [self.values[name] for name in self.region_order() if name not in self._settled]
        return order if order is None else [*order, *new]

    @property
    def _settled(self) -> dict[str, int | list[int]]:
        """The model's labels."""
        return {name: self.model["labels"][name] for name in foreground_labels(self.model)} if self.model else {}

    def annotated(self, source: Source, case: str, mapping: ClassMap) -> tuple[str, ...]:
        """What the case's annotators looked for: by the map, the source's own mastpro.cases, or all of its classes.

        A class that several labels of the source become is annotated where all of them are: where only the left one
        of two kidneys was looked at, a background voxel says nothing about the class of both.
        """
        given = mapping.of(source.name).annotated
        if given is None:
            known = source.cases.annotated.get(case, source.cases.labels)
            targets = self.targets[source.name]
            unknown = {target for label, target in targets.items() if label not in known}
            given = tuple(target for label in known if (target := targets[label]) is not None and target not in unknown)
        return self.ordered(given)


def make_classes(
    sources: Sequence[Source], mapping: ClassMap, existing: Mapping[str, int], base: Base | None = None
) -> Classes:
    """Raises MASTProError for classes that overlap without a rule, and for names that the map gets wrong.

    `existing`: values of an earlier merge, which stay. `base`: a trained model, whose classes are found in a source or
    not.
    """
    targets = {
        source.name: {label: mapping.of(source.name).labels.get(label, label) for label in source.labels}
        for source in sources
    }
    _check_meaning(sources, mapping)
    found = dict.fromkeys(target for source in sources for target in targets[source.name].values() if target)
    for source in sources:
        if not any(targets[source.name].values()):
            raise MASTProError(f"the map drops all labels of {source.name}; leave it out of -d")
    model = base.values if base else {}
    moved = [name for name, value in existing.items() if (name in model or value in model.values())]
    moved = [name for name in moved if model.get(name) != existing[name]]
    if moved:
        raise MASTProError(
            f'the merged data set has the class "{moved[0]}" with another value than the model; merge to another -o'
        )
    gone = [name for name in existing if name not in found and name not in model]
    if gone:
        raise MASTProError(
            f'the merged data set has the class "{gone[0]}", which no source gives now; name its source in -d too, '
            "merge to another -o, or remove the merged data set and its preprocessed data to make it anew"
        )
    values = dict(sorted({**model, **existing}.items(), key=lambda item: item[1]))
    for name in found:
        values.setdefault(name, len(values) + 1)
    _check_known(mapping, values)
    parents = _parents(mapping, base.parents if base else {})
    tables = {source.name: _table(source, targets[source.name], values, parents) for source in sources}
    ignore = len(values) + 1 if any(source.ignore_value is not None for source in sources) else None
    for source in sources:
        if source.ignore_value is not None:
            tables[source.name][source.ignore_value] = ignore
    return Classes(values, parents, targets, tables, ignore, base.content if base else {})


def around(name: str, parents: Mapping[str, str]) -> tuple[str, ...]:
    chain = [name]
    while chain[-1] in parents:
        chain.append(parents[chain[-1]])
    return tuple(chain)


def _check_meaning(sources: Sequence[Source], mapping: ClassMap) -> None:
    """One name, such as "tumor", that is two classes in two sources by their prompts or the knowledge base."""
    seen: dict[str, tuple[str, str]] = {}
    for source in sources:
        for label in source.labels:
            if label in mapping.of(source.name).labels or find(label) is not None:
                continue  # the user says so, or the name itself
            found = source.meaning(label)
            if found is None:
                continue
            name = found if isinstance(found, str) else found.name
            meaning, first = seen.setdefault(label, (name, source.name))
            if meaning != name:
                raise MASTProError(
                    f'"{label}" is {meaning} in {first} and {name} in {source.name}, which would become one '
                    "class; name them apart with --map (--write-map FILE drafts it), or alike there, on purpose"
                )


def _check_known(mapping: ClassMap, values: Mapping[str, int]) -> None:
    for name, entry in mapping.sources.items():
        for one in entry.annotated or ():
            if one not in values:
                raise MASTProError(
                    f'annotated of {name} in the map names "{one}", which is no class; {nearest(one, values)}'
                )
    for parent, inside in mapping.nest.items():
        for one in (parent, *inside):
            if one not in values:
                raise MASTProError(f'nest in the map names "{one}", which is no class; {nearest(one, values)}')


def _parents(mapping: ClassMap, settled: Mapping[str, str]) -> dict[str, str]:
    """Class -> the one around it; `settled`: those of a model."""
    parents = dict(settled)
    for parent, inside in mapping.nest.items():
        for name in inside:
            if parents.setdefault(name, parent) != parent:
                raise MASTProError(
                    f'nest in the map puts "{name}" into both "{parents[name]}" and "{parent}"; keep the inner one, '
                    "and nest that in the outer one"
                )
    for name in parents:
        inner, steps = name, 0
        while inner in parents and steps <= len(parents):
            inner, steps = parents[inner], steps + 1
        if steps > len(parents):
            raise MASTProError(f'nest in the map puts "{name}" inside of itself; remove one of the rules')
    return parents


def _table(
    source: Source, targets: Mapping[str, str | None], values: Mapping[str, int], parents: Mapping[str, str]
) -> dict[int, int]:
    """What each declared value of the source becomes: the inmost of the classes that it belongs to."""
    for one in source.labels:
        for other in source.labels:
            shared = {*source.labels[one]} & {*source.labels[other]}
            if (
                targets[one]
                and targets[other]
                and shared not in (set(), {*source.labels[one]}, {*source.labels[other]})
            ):
                raise MASTProError(
                    f'"{one}" and "{other}" of {source.name} overlap in part, so neither lies inside the other; drop '
                    "one of them in the map (null)"
                )
    table = {0: 0}
    for value in sorted({value for listed in source.labels.values() for value in listed}):
        names = dict.fromkeys(
            target
            for label, target in sorted(targets.items(), key=lambda item: -len(source.labels[item[0]]))
            if target and value in source.labels[label]
        )
        inmost = max(names, key=lambda name: len(around(name, parents)), default=None)
        strange = [name for name in names if name not in around(inmost, parents)]
        if strange:
            outer, inner = (one for one in names if one in (strange[0], inmost))
            raise MASTProError(
                f'classes "{outer}" and "{inner}" overlap in {source.name} without a nesting rule; write '
                f"nest: {{{outer}: [{inner}]}} in the map (--map FILE)"
            )
        table[value] = values[inmost] if inmost else 0
    return table

"""The trained model to which `mastpro add-tumour` shall add what is merged (--model)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.datasets import read_trained, values_of
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.packs.labels import check_unablated, find_new_labels, with_prompts
from nnunetv2_mastpro.prompts.resolve import foreground_labels, resolve_quietly

BY_HAND = (
    "write the data set for mastpro add-tumour without mastpro merge: the model's labels and regions_class_order, and "
    "the new types after them"
)


@dataclass(frozen=True)
class Base:
    """`content`: its dataset.json, `classes`: with their prompts.

    `values`: class -> value, of a region the one that no class inside it has; `parents`: class -> region around it.
    """

    folder: Path
    content: dict
    classes: tuple[ClassSpec, ...]
    values: dict[str, int]
    parents: dict[str, str]

    def check(self, content: dict, targets: Mapping[str, Mapping[str, str | None]], parents: Mapping[str, str]) -> None:
        """Raise MASTProError for channels and classes of the merged dataset.json that mastpro add-tumour would refuse.

        `targets`: source -> label -> class or None.
        """
        strange = [name for name, outer in parents.items() if self.parents.get(name) != outer]
        if strange:
            raise MASTProError(
                f'nest in the map puts "{strange[0]}" into "{parents[strange[0]]}", which --model {self.folder} does '
                "not: its classes stay as they are, and a new type stands beside them; leave that rule out of the map"
            )
        new = find_new_labels(self.content, content, f"what is merged for --model {self.folder}")
        for prompt in resolve_quietly(with_prompts(content, self.classes), content["name"]):
            if prompt.label in new and not prompt.is_tumor:
                raise MASTProError(
                    f'the class "{prompt.label}" ({_origin(prompt.label, targets)}) is no tumour type, and mastpro '
                    f"add-tumour adds nothing else to --model {self.folder}; make that label null in the map, or, if "
                    'it is one, give it a "sentence" and "is_tumor": true in mastpro.prompts of its dataset.json'
                )


def _origin(name: str, targets: Mapping[str, Mapping[str, str | None]]) -> str:
    return next(
        f"{label} of {source}"
        for source, labels in targets.items()
        for label, target in labels.items()
        if target == name
    )


def read_base(folder: Path) -> Base:
    """Raises MASTProError for a folder without a whole MAST-Pro model, and for regions that no map can describe."""
    plans, content = read_trained(folder)
    values, parents = own_values(content, folder)
    config = MASTProConfig.from_dict(plans.get("mastpro", {}))
    check_unablated(config, folder)
    return Base(folder, content, config.resolved.classes, values, parents)


def own_values(content: dict, folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Class -> its own value, and class -> the smallest region around it. Raises MASTProError."""
    sets = {name: {*values_of(content["labels"][name])} for name in foreground_labels(content)}
    values, parents = {}, {}
    for name, own in sets.items():
        outer = sorted((other for other, theirs in sets.items() if theirs > own), key=lambda other: len(sets[other]))
        apart = [(one, other) for one, other in itertools.pairwise(outer) if not sets[one] < sets[other]]
        if apart:
            raise MASTProError(
                f'the class "{name}" of --model {folder} lies in "{apart[0][0]}" and in "{apart[0][1]}", of which '
                f"neither lies in the other, and a map can say one of them; {BY_HAND}"
            )
        if outer:
            parents[name] = outer[0]
        left = own - set().union(*(theirs for theirs in sets.values() if theirs < own))
        if len(left) != 1:
            raise MASTProError(
                f'the class "{name}" of --model {folder} has {len(left)} values that no class inside it has, where a '
                f"merged label map needs one; {BY_HAND}"
            )
        (values[name],) = left
    return values, parents

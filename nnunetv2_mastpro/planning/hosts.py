"""Which value of a host-organ map stands for which structures and classes. Standard library only.

A map has one value per voxel, and nnU-Net passes on labels of the data set only. So the host structures are cut into
atoms, the sets of structures that host exactly the same classes, and each atom takes a label of the data set as value.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.datasets import values_of
from nnunetv2_mastpro.errors import MASTProError


def host_values(dataset_json: dict, prompts: Sequence) -> tuple[HostValue, ...]:
    """The table of a data set, by value; empty where no class has a host structure.

    `prompts`: one per network output, in order, with `label` and `host_structures`. An atom takes the label of the
    first class that it hosts, where that is free: with one host organ per class the value is the class's label.
    Raises MASTProError where there are more atoms than labels.
    """
    labels = {name: values_of(value) for name, value in dataset_json["labels"].items() if name != "ignore"}
    channels = sorted({value for values in labels.values() for value in values} - {0})  # as nnU-Net's one-hot has them
    atoms: dict[tuple[int, ...], list[str]] = {}
    for structure in dict.fromkeys(s for prompt in prompts for s in prompt.host_structures):
        hosted = tuple(index for index, prompt in enumerate(prompts) if structure in prompt.host_structures)
        atoms.setdefault(hosted, []).append(structure)
    if len(atoms) > len(channels):
        raise MASTProError(
            f"the classes' host structures form {len(atoms)} sets, but a map can hold only the {len(channels)} labels "
            "of the data set as values; give classes that share organs the same host_structures in mastpro.prompts: "
            + "; ".join(f"{' '.join(structures)} ({_names(prompts, hosted)})" for hosted, structures in atoms.items())
        )
    free = list(channels)
    values: dict[tuple[int, ...], int] = {}
    for hosted in sorted(atoms, key=lambda classes: (len(classes), classes)):
        wished = [value for index in hosted for value in labels[prompts[index].label] if value in free]
        if wished:
            values[hosted] = wished[0]
            free.remove(wished[0])
    for hosted in atoms:
        if hosted not in values:
            values[hosted] = free.pop(0)
    return tuple(
        HostValue(value=value, channel=channels.index(value), structures=tuple(atoms[hosted]), classes=hosted)
        for hosted, value in sorted(values.items(), key=lambda item: item[1])
    )


def _names(prompts: Sequence, hosted: tuple[int, ...]) -> str:
    return ", ".join(prompts[index].label for index in hosted)

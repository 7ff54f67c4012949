"""Host structures to values of a map."""

from types import SimpleNamespace

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.hosts import host_values


def table(labels, **hosts):
    prompts = [SimpleNamespace(label=label, host_structures=structures) for label, structures in hosts.items()]
    values = host_values({"labels": {"background": 0, **labels}}, prompts)
    return {entry.value: (entry.structures, entry.classes) for entry in values}


def test_one_host_per_class_takes_the_class_label():
    found = table({"a": 2, "b": 1}, b=("liver",), a=("kidney_left", "kidney_right"))
    assert found == {1: (("liver",), (0,)), 2: (("kidney_left", "kidney_right"), (1,))}


def test_class_without_host_takes_no_value():
    assert table({"a": 1, "b": 2}, a=(), b=("liver",)) == {2: (("liver",), (1,))}


def test_shared_host_is_one_atom_of_both_classes():
    assert table({"liver": 1, "tumor": 2}, liver=("liver",), tumor=("liver",)) == {1: (("liver",), (0, 1))}


def test_partly_shared_hosts_are_cut_into_atoms():
    found = table({"a": 1, "b": 2, "c": 3}, a=("liver", "spleen"), b=("spleen", "colon"), c=())
    assert found == {1: (("liver",), (0,)), 2: (("colon",), (1,)), 3: (("spleen",), (0, 1))}


def test_more_atoms_than_labels_is_refused_with_the_remedy():
    with pytest.raises(MASTProError, match="3 sets.*only the 2 labels.*same host_structures.*spleen \\(a, b\\)"):
        table({"a": 1, "b": 2}, a=("liver", "spleen"), b=("spleen", "colon"))


def test_regions_take_a_label_of_theirs_and_ignore_is_no_value():
    found = table({"organ": [1, 2], "tumor": 2, "ignore": 3}, organ=("liver",), tumor=("pancreas",))
    assert found == {1: (("liver",), (0,)), 2: (("pancreas",), (1,))}


def test_channels_follow_the_sorted_labels():
    prompts = [SimpleNamespace(label=label, host_structures=(label,)) for label in ("b", "a")]
    values = host_values({"labels": {"background": 0, "a": 7, "b": 3}}, prompts)
    assert [(entry.value, entry.channel) for entry in values] == [(3, 0), (7, 1)]

"""The `mastpro.prompts` section of dataset.json: what may stand in it."""

from __future__ import annotations

from collections.abc import Iterable

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import closest

TEXT_KEYS = ("tumor", "organ", "shape", "edge", "modality")
# of "mastpro" in dataset.json; the last two are marks of ours
SECTIONS = ("prompts", "cases", "test_cases", "merge", "convert")
KEYS = (*TEXT_KEYS, "sentence", "is_tumor", "host_structures")


def read_section(dataset_json: dict, labels: Iterable[str]) -> dict[str, dict]:
    """Checked entries of `dataset_json["mastpro"]["prompts"]` by label; {} where there are none.

    Raises MASTProError for an unknown key or label, an empty or wrongly typed value.
    """
    labels = tuple(labels)
    mastpro = dataset_json.get("mastpro", {})
    if not isinstance(mastpro, dict):
        raise MASTProError(
            f'"mastpro" in dataset.json is {_kind(mastpro)}; make it an object such as {{"prompts": {{}}}}'
        )
    for key in mastpro:
        if key not in SECTIONS:
            meant = closest(key, SECTIONS)
            remedy = f'did you mean "{meant}"?' if meant else f"use {' and '.join(SECTIONS[:2])}"
            raise MASTProError(f'"mastpro" in dataset.json has the unknown key "{key}"; {remedy}')
    section = mastpro.get("prompts", {})
    if not isinstance(section, dict):
        raise MASTProError(
            f"mastpro.prompts in dataset.json is {_kind(section)}; make it an object, one entry per label"
        )
    for label, entry in section.items():
        _check_label(label, labels)
        check_entry(label, entry)
    return section


def check_entry(label: str, entry: object) -> None:
    """Raises MASTProError unless `entry` holds known keys with values of the right type, none empty."""
    where = f'mastpro.prompts["{label}"] in dataset.json'
    if not isinstance(entry, dict):
        raise MASTProError(f"{where} is {_kind(entry)}; make it an object with keys among {', '.join(KEYS)}")
    for key, value in entry.items():
        if key not in KEYS:
            nearest = closest(key, KEYS)
            remedy = f'did you mean "{nearest}"?' if nearest else f"use keys among {', '.join(KEYS)}"
            raise MASTProError(f'{where} has the unknown key "{key}"; {remedy}')
        _check_value(f'{where}: "{key}"', key, value)
    clash = [key for key in TEXT_KEYS if key in entry]
    if "sentence" in entry and clash:
        raise MASTProError(
            f'{where} has both "sentence" and "{clash[0]}"; keep the sentence or the attributes, not both'
        )


def _check_value(where: str, key: str, value: object) -> None:
    if key == "is_tumor":
        if not isinstance(value, bool):
            raise MASTProError(f"{where} is {_kind(value)}; make it true or false")
    elif key == "host_structures":
        if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
            raise MASTProError(f'{where} is {value!r}; make it a list of TotalSegmentator names such as ["liver"]')
    elif not isinstance(value, str):
        raise MASTProError(f"{where} is {_kind(value)}; make it a text")
    elif not value.strip():
        raise MASTProError(f"{where} is empty; fill it in or delete the key")


def _check_label(label: str, labels: tuple[str, ...]) -> None:
    if label in labels:
        return
    if label in ("background", "ignore"):
        raise MASTProError(
            f'mastpro.prompts in dataset.json has an entry for "{label}", which takes no prompt; delete it'
        )
    nearest = closest(label, labels)
    remedy = f'did you mean "{nearest}"?' if nearest else f"use one of {', '.join(labels)}"
    raise MASTProError(f'mastpro.prompts in dataset.json names "{label}", which is none of its labels; {remedy}')


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}")

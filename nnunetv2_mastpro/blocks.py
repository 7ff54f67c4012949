"""JSON objects of the plans as frozen dataclasses, whose fields say what is known. Standard library only."""

import dataclasses
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import closest


def read_section(cls, values: dict, where: str):
    """An instance. Raises MASTProError for an unknown key, a lacking one, and a value of a wrong type."""
    check_keys(values, cls, where)
    lacking = [f.name for f in dataclasses.fields(cls) if f.name not in values and not _has_default(f)]
    if lacking:
        raise MASTProError(f"{where} in the plans lacks {', '.join(lacking)}; restore the plans as training wrote them")
    kinds = get_type_hints(cls)
    for key, value in values.items():
        _check_type(value, kinds[key], f"{where}.{key}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def check_keys(values: dict, cls, where: str) -> None:
    """Raise MASTProError for what is no object, and for a key that is no field."""
    if not isinstance(values, dict):
        raise MASTProError(f"{where} in the plans is {values!r}, not a JSON object; write keys and values in braces")
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise MASTProError(
                f"unknown key {where}.{key} in the plans; "
                f"did you mean {closest(key, known, 0)!r}? Known: {', '.join(known)}"
            )


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _check_type(value, kind, where: str) -> None:
    if not _is_of(value, kind):
        raise MASTProError(
            f"{where}={value!r} in the plans has the wrong type; it must be {getattr(kind, '__name__', kind)}"
        )


def _is_of(value, kind) -> bool:
    """Whether JSON's value can be a field of this type: plain ones, objects, tuples (lists here), or None."""
    options = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None or isinstance(value, bool):
        return type(value) in options
    if isinstance(value, (list, tuple)):
        entries = [get_args(option)[0] for option in options if get_origin(option) is tuple]
        return any(all(_is_of(one, entry) for one in value) for entry in entries)
    return (
        type(value) in options
        or (isinstance(value, int) and float in options)
        or (isinstance(value, dict) and any(map(dataclasses.is_dataclass, options)))
    )


def plain(value):
    """As JSON would hold it: tuples become lists."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

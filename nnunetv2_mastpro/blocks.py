"""JSON objects of the plans as frozen dataclasses, whose fields say what is known. Standard library only."""

import dataclasses

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import closest


def read_section(cls, values: dict, where: str):
    """An instance. Raises MASTProError for an unknown key, a lacking one, and a value of a wrong type."""
    check_keys(values, cls, where)
    lacking = [f.name for f in dataclasses.fields(cls) if f.name not in values and not _has_default(f)]
    if lacking:
        raise MASTProError(f"{where} in the plans lacks {', '.join(lacking)}; restore the plans as training wrote them")
    kinds = {f.name: f.type for f in dataclasses.fields(cls)}
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
    expected = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}.get(kind)
    if kind == float | None:
        expected = (int, float, type(None))
    elif expected is None:
        expected = (list, tuple, type(None)) if "None" in str(kind) else (list, tuple)
    entry_kind = next((known for known in (int, str) if f"tuple[{known.__name__}, " in str(kind)), object)
    entries = value if isinstance(value, (list, tuple)) else ()
    wrong_entry = any(not isinstance(entry, entry_kind) or isinstance(entry, bool) for entry in entries)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool) or wrong_entry:
        raise MASTProError(
            f"{where}={value!r} in the plans has the wrong type; it must be {getattr(kind, '__name__', kind)}"
        )


def plain(value):
    """As JSON would hold it: tuples become lists."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

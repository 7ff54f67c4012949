"""Which patient a case is of, by a regular expression of whoever names the cases."""

from __future__ import annotations

import re

from nnunetv2_mastpro.errors import MASTProError


def find_patient(pattern: re.Pattern | None, case: str) -> str | None:
    """What the pattern's group finds in a case's name."""
    found = pattern.search(case) if pattern else None
    return (found.group(1) or None) if found else None


def patient_pattern(value: object, where: str) -> re.Pattern | None:
    """Whose one group in a case's name is the patient. Raises MASTProError for what is no such expression."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise MASTProError(f"{where} is {value!r}; write a regular expression with one group, the patient")
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise MASTProError(f"{where} is no regular expression ({error}); repair it") from error
    if pattern.groups != 1:
        raise MASTProError(f'{where} has {pattern.groups} groups; put () around the patient, as in "^(.+)_scan"')
    return pattern

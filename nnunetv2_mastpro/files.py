"""Whole files or none: text and bytes are written beside their target and then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError


def check_new(path: Path) -> None:
    """Raise MASTProError unless -o can become a new file."""
    if path.exists():
        raise MASTProError(f"{path} is there already; give -o another file, or move it away")
    if not path.parent.is_dir():
        raise MASTProError(f"{path.parent} is no folder; make it, or give -o a file in one that is there")


def read_object(path: Path, name: str, repair: str, form: str) -> dict:
    """A JSON object. Raises MASTProError: `name` cannot be read, and how to `repair` it, or what `form` it lacks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MASTProError(f"{name} cannot be read as JSON ({error}); {repair}") from error
    if not isinstance(content, dict):
        raise MASTProError(f"{name} {form}")
    return content


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Writes all files, or leaves each as it was when one cannot be staged.

    Permissions of a file that exists are kept, a link stays a link. Raises OSError.
    """
    staged: dict[Path, Path] = {}
    os.umask(umask := os.umask(0o077))  # there is no other way to ask for it
    try:
        for target, content in {Path(os.path.realpath(path)): content for path, content in contents.items()}.items():
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
            staged[target] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staged[target].chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask)
        for target, temporary in staged.items():
            os.replace(temporary, target)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)

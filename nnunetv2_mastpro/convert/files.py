"""Finding what a layout asks for below the folder of a download, whatever the archives' own folders are called."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some

ENDINGS = (".nii.gz", ".nii")


def all_files(folder: Path) -> list[str]:
    """Paths below the folder, with /, without hidden files and folders (macOS adds ._NAME to archives)."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in sorted(files) if not name.startswith(".")]
    return found


def match(pattern: str, names: list[str], endings: tuple[str, ...] = ENDINGS) -> dict[str, str]:
    """case -> path of those that the pattern names. Raises MASTProError where two are of one case."""
    text = re.escape(pattern).replace(re.escape("{case}"), "(?P<case>[0-9]+)")
    expression = re.compile(f"(?:.*/)?{text}(?:{'|'.join(map(re.escape, endings))})")
    found: dict[str, str] = {}
    for name in names:
        hit = expression.fullmatch(name)
        if hit and found.setdefault(hit["case"], name) != name:
            raise MASTProError(
                f"{found[hit['case']]} and {name} are both {spell(pattern)} of case {hit['case']}; remove one of them"
            )
    return found


def spell(pattern: str) -> str:
    """As a user would write it."""
    return pattern.replace("{case}", "N")


def nothing_found(folder: Path, pattern: str, names: list[str]) -> MASTProError:
    """The error of a folder without the files that the data set has."""
    seen = f"it holds {some(names, 3)}" if names else "it is empty"
    return MASTProError(f"{folder} has no {spell(pattern)}; {seen}; give the unpacked download of this data set")

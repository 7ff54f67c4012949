"""Writes the `mastpro.prompts` section into the copies of dataset.json that nnU-Net keeps."""

from __future__ import annotations

import json
from pathlib import Path

from nnunetv2_mastpro.datasets import read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.prompts.resolve import foreground_labels, resolve_with_entries
from nnunetv2_mastpro.prompts.section import read_section


def write_section(paths: list[Path]) -> list[Path]:
    """Completes `mastpro.prompts` in every copy and returns the files written.

    Entries that a copy holds are kept, and carried to the copies without them; all else in the files stays as it
    is. Every copy is checked before one is written. Raises MASTProError, for copies that contradict each other too.
    """
    contents = {path: read_json_object(path) for path in paths}
    own = _merge({path: _own_entries(content) for path, content in contents.items()})
    _check_same_labels(contents)
    new = {}
    for path, content in contents.items():
        section = content.setdefault("mastpro", {}).setdefault("prompts", {})
        section.update({label: entry for label, entry in own.items() if label not in section})
        section.update({prompt.label: entry for prompt, entry in resolve_with_entries(content, path.parent.name)})
        new[path] = (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()
    try:
        write_atomically(new)
    except OSError as error:
        raise MASTProError(f"dataset.json cannot be written ({error}); check permissions and free space") from error
    return paths


def _own_entries(content: dict) -> dict[str, dict]:
    return read_section(content, foreground_labels(content))


def _merge(sections: dict[Path, dict[str, dict]]) -> dict[str, dict]:
    merged: dict[str, dict] = {}
    for section in sections.values():
        for label, entry in section.items():
            if merged.setdefault(label, entry) != entry:
                places = " and ".join(str(path) for path in sections)
                raise MASTProError(
                    f'mastpro.prompts["{label}"] differs between {places}; delete the entry that should go, then the '
                    "other is carried over"
                )
    return merged


def _check_same_labels(contents: dict[Path, dict]) -> None:
    labels = {path: foreground_labels(content) for path, content in contents.items()}
    if len(set(labels.values())) > 1:
        differing = "; ".join(f"{path}: {', '.join(names)}" for path, names in labels.items())
        raise MASTProError(f"the copies of dataset.json have different labels ({differing}); plan and preprocess again")

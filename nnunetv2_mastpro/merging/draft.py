"""A first mapping file, from the sources' labels and the knowledge base, for the user to edit."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.merging.sources import Source
from nnunetv2_mastpro.prompts.knowledge_base import Entry, find

Known = Mapping[str, Entry | None]  # label -> what the knowledge base has of it

HEADER = """\
# Per source, what each of its labels is called in the merged data set: equal names become one class, null drops one.
# "annotated" in a source lists the classes its annotators looked for, where these are not all of its labels; "patients"
# is a regular expression whose one group is the patient in a case's name, such as "^(.+)_scan".
# "nest" puts classes inside others: {liver: [liver_tumor]} makes liver the region of both. Its names are those after
# the colons above: rename a class here too. Delete a rule where the organ's label leaves the tumour out and the network
# should, too.
"""


def draft_mapping(sources: Sequence[Source], settled: Sequence[str] = ()) -> dict:
    """Labels by names that unite what is one; tumours nested in their organ where it is a class.

    `settled`: classes of an earlier merge or of a model, whose names stay.
    """
    found = {
        source.name: {
            label: meaning if isinstance(meaning := source.meaning(label), Entry) else None for label in source.labels
        }
        for source in sources
    }
    kept = {entry.name: name for name in reversed(settled) if (entry := find(name, tuple(settled)))}
    names = {
        source.name: {
            label: _own_name(source, label) or _name(label, entry, found[source.name], found, kept)
            for label, entry in found[source.name].items()
        }
        for source in sources
    }
    entries: dict[str, Entry] = {}
    nest: dict[str, str] = {}
    for source in sources:
        own, known = names[source.name], found[source.name]
        entries |= {own[label]: entry for label, entry in known.items() if entry and not _apart(entry, known)}
        for label, values in source.labels.items():
            outer = [other for other in source.labels if {*source.labels[other]} > {*values}]
            if outer:
                nest.setdefault(own[label], own[min(outer, key=lambda other: len(source.labels[other]))])
    for name, entry in entries.items():
        hosts = [
            organ
            for organ, other in entries.items()
            if entry.tumor and not other.tumor and other.host_structures == entry.host_structures
        ]
        if hosts:
            nest.setdefault(name, hosts[0])
    inside: dict[str, list[str]] = {}
    for name, outer in nest.items():
        inside.setdefault(outer, []).append(name)
    maps = {source: {"labels": labels} for source, labels in names.items()}
    return {"sources": maps, **({"nest": inside} if inside else {})}


def _own_name(source: Source, label: str) -> str | None:
    """Of a label such as "cancer", whose prompt in the source names a tumour that the knowledge base does not know."""
    meaning = source.meaning(label)
    if not isinstance(meaning, str) or find(label) is not None:
        return None
    return re.sub(r"\W+", "_", meaning).strip("_").lower() or None


def _name(label: str, entry: Entry | None, known: Known, found: Mapping[str, Known], kept: Mapping[str, str]) -> str:
    """The label, where it says what it is and nobody calls that otherwise; else the knowledge base's name.

    Two labels of one entry in a source stay, and so does a label that is among such in another source.
    """
    if entry is None or _apart(entry, known):
        return label
    if entry.name in kept:
        return kept[entry.name]
    alike = {*itertools.chain.from_iterable(_labels_of(entry, other) for other in found.values())}
    stays = len(alike) == 1 or any(_apart(entry, other) for other in found.values())
    return label if stays and find(label) is not None else entry.name


def _apart(entry: Entry, known: Known) -> bool:
    """Whether a source has two labels of it, such as a brain tumour and a glioma."""
    return len(_labels_of(entry, known)) > 1


def _labels_of(entry: Entry, known: Known) -> list[str]:
    return [label for label, other in known.items() if other is not None and other.name == entry.name]


def write_draft(path: Path, sources: Sequence[Source], settled: Sequence[str], with_nest: bool = True) -> None:
    """YAML, or JSON by the ending. Raises MASTProError where the file exists. A model's nesting is not the map's."""
    import yaml

    if path.exists():
        raise MASTProError(f"--write-map {path} is there already; give another name, or remove it")
    content = draft_mapping(sources, settled)
    if not with_nest:
        content.pop("nest", None)
    if path.suffix == ".json":
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    else:
        text = HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically({path: text.encode()})

"""A first mapping file, from the sources' labels and the knowledge base, for the user to edit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.merging.sources import Source
from nnunetv2_mastpro.prompts.knowledge_base import Entry, find

HEADER = """\
# Per source, what each of its labels is called in the merged data set: equal names become one class, null drops one.
# "annotated" in a source lists the classes its annotators looked for, where these are not all of its labels; "patients"
# is a regular expression whose one group is the patient in a case's name, such as "^(.+)_scan".
# "nest" puts classes inside others: {liver: [liver_tumor]} makes liver the region of both. Delete a rule where the
# organ's label leaves the tumour out and the network should, too.
"""


def draft_mapping(sources: Sequence[Source]) -> dict:
    """Labels by the names that the knowledge base knows them by; tumours nested in their organ where it is a class."""
    entries: dict[str, Entry] = {}
    maps, nest = {}, {}
    for source in sources:
        found = {label: find(label, tuple(source.labels), source.name) for label in source.labels}
        counts = Counter(entry.name for entry in found.values() if entry)
        names = {label: entry.name if entry and counts[entry.name] == 1 else label for label, entry in found.items()}
        entries |= {names[label]: entry for label, entry in found.items() if entry and names[label] == entry.name}
        maps[source.name] = {"labels": names}
        for label, values in source.labels.items():
            outer = [other for other in source.labels if {*source.labels[other]} > {*values}]
            if outer:
                nest.setdefault(names[label], names[min(outer, key=lambda other: len(source.labels[other]))])
    for name, entry in entries.items():
        hosts = [
            organ
            for organ, other in entries.items()
            if not other.tumor and entry.is_tumor and other.host_structures == entry.host_structures
        ]
        if hosts:
            nest.setdefault(name, hosts[0])
    inside: dict[str, list[str]] = {}
    for name, outer in nest.items():
        inside.setdefault(outer, []).append(name)
    return {"sources": maps, **({"nest": inside} if inside else {})}


def write_draft(path: Path, sources: Sequence[Source]) -> None:
    """YAML, or JSON by the ending. Raises MASTProError where the file exists."""
    import yaml

    if path.exists():
        raise MASTProError(f"--write-map {path} is there already; give another name, or remove it")
    content = draft_mapping(sources)
    if path.suffix == ".json":
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    else:
        text = HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically({path: text.encode()})

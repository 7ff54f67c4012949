"""The mapping file: what the classes of each source are called in the merged data set, and which lie in which.

sources:
  Dataset003_Liver:
    labels: {liver: liver, tumor: liver_tumor, vessel: null}   # null drops
    annotated: [liver, liver_tumor]                             # default: all that its labels become
    patients: "^(liver_[0-9]+)"                                 # of this source; one group
nest: {liver: [liver_tumor]}
patients: "^([A-Z0-9]+-[0-9]+)"                                 # equal in two sources: one patient
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.merging.sources import Source, nearest
from nnunetv2_mastpro.patients import find_patient, patient_pattern

KEYS = ("sources", "nest", "patients")
SOURCE_KEYS = ("labels", "annotated", "patients")
RESERVED = ("background", "ignore")


@dataclass(frozen=True)
class SourceMap:
    """What the file says of one source; a label that it leaves out keeps its name."""

    labels: dict[str, str | None] = field(default_factory=dict)
    annotated: tuple[str, ...] | None = None
    patients: re.Pattern | None = None


@dataclass(frozen=True)
class ClassMap:
    """`nest`: class -> classes inside it. `patients`: gives a patient's name, across sources, from a case's."""

    sources: dict[str, SourceMap] = field(default_factory=dict)
    nest: dict[str, tuple[str, ...]] = field(default_factory=dict)
    patients: re.Pattern | None = None

    def of(self, source: str) -> SourceMap:
        return self.sources.get(source, SourceMap())

    def patient_of(self, source: str, case: str) -> tuple[str, str] | None:
        """(source or nothing, patient); None where no expression finds one."""
        for scope, pattern in ((source, self.of(source).patients), ("", self.patients)):
            found = find_patient(pattern, case)
            if found:
                return scope, found
        return None


def check_patients(mapping: ClassMap, sources: list[Source]) -> None:
    """Raise MASTProError for an expression that finds no patient in any case: all would count as patients apart."""
    scopes = {f'"patients" of {source.name}': ([source], mapping.of(source.name).patients) for source in sources}
    for where, (among, pattern) in {**scopes, '"patients"': (sources, mapping.patients)}.items():
        cases = [case.name for source in among for case in (*source.files, *source.tests)]
        if pattern and not any(find_patient(pattern, case) for case in cases):
            raise MASTProError(
                f"{where} in the map, {pattern.pattern!r}, finds no patient in cases such as {cases[0]}; correct it"
            )


def read_mapping(path: Path, sources: list[Source]) -> ClassMap:
    """Raises MASTProError for what is no YAML or JSON, an unknown key, source, label or a wrong type."""
    content = _object(_load(path), f"{path}")
    _check_keys(content, KEYS, f"{path}")
    by_name = {str(name): source for source in sources for name in (source.name, int(source.name[7:10]))}
    maps = {}
    for name, entry in _object(content.get("sources"), f'"sources" in {path}').items():
        source = by_name.get(str(name)) or by_name.get(str(name).lstrip("0"))
        if source is None:
            known = nearest(str(name), [source.name for source in sources])
            raise MASTProError(f'{path} names the source "{name}", which -d does not; {known}')
        if source.name in maps:
            raise MASTProError(f"{path} has two entries for {source.name}; keep one")
        maps[source.name] = _source_map(entry, source, path)
    nest = {
        _text(parent, f'"nest" in {path}'): _texts(inside, f'nest["{parent}"] in {path}')
        for parent, inside in _object(content.get("nest"), f'"nest" in {path}').items()
    }
    return ClassMap(maps, nest, patient_pattern(content.get("patients"), f'"patients" in {path}'))


def _load(path: Path) -> object:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MASTProError(f"--map {path} cannot be read ({error}); --write-map {path} drafts one") from error
    try:
        return json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else _load_yaml(text)
    except MASTProError as error:
        raise MASTProError(f"--map {path}: {error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise MASTProError(f"--map {path} is neither YAML nor JSON ({error}); repair it") from error


def _load_yaml(text: str) -> object:
    """As yaml.safe_load, which takes the last of equal keys."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            _unique([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return super().construct_mapping(node, deep)

    return yaml.load(text, UniqueKeys)  # noqa: S506 - a safe loader


def _unique(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise MASTProError(f'"{twice}" stands twice in one object, and one would be lost; keep one')
    return content


def _source_map(entry: object, source: Source, path: Path) -> SourceMap:
    where = f"{source.name} in {path}"
    entry = _object(entry, where)
    _check_keys(entry, SOURCE_KEYS, where)
    labels = {}
    for label, target in _object(entry.get("labels"), f'"labels" of {where}').items():
        if label not in source.labels:
            raise MASTProError(
                f'"{label}" in labels of {where} is none of its labels; {nearest(str(label), source.labels)}'
            )
        labels[label] = None if target is None else _text(target, f'"{label}" in labels of {where}')
        if labels[label] in RESERVED:
            raise MASTProError(f'"{label}" of {where} cannot become "{target}"; write null to drop it')
    annotated = entry.get("annotated")
    return SourceMap(
        labels,
        None if annotated is None else _texts(annotated, f'"annotated" of {where}'),
        patient_pattern(entry.get("patients"), f'"patients" of {where}'),
    )


def _object(value: object, where: str) -> dict:
    if value is not None and not isinstance(value, dict):
        raise MASTProError(f"{where} is {value!r}; make it an object of names and values")
    return value or {}


def _check_keys(content: dict, known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise MASTProError(f'{where} has the unknown key "{key}"; {nearest(str(key), known)}')


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MASTProError(f'{where} is {value!r}; write a name, in "" where YAML takes it for something else')
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise MASTProError(f"{where} is {value!r}; make it a list of classes, at least one")
    return tuple(dict.fromkeys(_text(one, where) for one in value))

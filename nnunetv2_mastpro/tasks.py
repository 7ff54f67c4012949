"""Which classes the annotators of each case looked for, and where it comes from. Standard library only.

    "mastpro": {"cases": {"liver_001": {"source": "Dataset003_Liver", "annotated": ["liver", "liver_tumor"]}}}

A case that the section of dataset.json does not name has all classes annotated, and no source. "test_cases" is of the
same form, and evaluation alone reads it.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import read_object
from nnunetv2_mastpro.listing import closest

KEYS = ("source", "annotated")
NO_SOURCE = "this data set"
TESTS = "test_cases"
OPTION = "--cases"  # of a file with such entries


@dataclass(frozen=True)
class Cases:
    """What dataset.json says of its cases. `labels`: classes in the order of the network's foreground outputs."""

    labels: tuple[str, ...]
    annotated: dict[str, tuple[str, ...]]
    sources: dict[str, str]
    named: frozenset[str] = frozenset()  # cases with an entry

    @property
    def partial(self) -> bool:
        """Whether some case lacks the annotation of some class."""
        return any(len(known) < len(self.labels) for known in self.annotated.values())

    def annotated_in(self, case: str) -> tuple[bool, ...]:
        """Per class, whether the case's annotators looked for it."""
        known = self.annotated.get(case, self.labels)
        return tuple(label in known for label in self.labels)

    def number_partial(self) -> int:
        """How many cases lack the annotation of some class."""
        return sum(not all(self.annotated_in(case)) for case in self.annotated)

    def not_among(self, there: Iterable[str]) -> list[str]:
        """Cases that are named and are not there: misspelt, they would count as wholly annotated."""
        return sorted({*self.annotated} - {*there})

    def presumed(self, case: str) -> bool:
        """Whether it counts as wholly annotated for want of an entry, where others are not."""
        return self.partial and case not in self.named

    def source_of(self, case: str) -> str:
        """The data set that the case comes from."""
        return self.sources.get(case, NO_SOURCE)


def nesting(classes: Sequence) -> list[list[bool]]:
    """[u][a]: tumour type u lies inside class a, an organ that is its host. `classes`: with is_tumor, host_structures.

    "Liver" of a source that does not annotate liver tumours may hold some.
    """
    return [
        [
            inner.is_tumor and not outer.is_tumor and bool({*inner.host_structures} & {*outer.host_structures})
            for outer in classes
        ]
        for inner in classes
    ]


def read_cases(dataset_json: dict, labels: Sequence[str]) -> Cases:
    """Checked `dataset_json["mastpro"]["cases"]`. Raises MASTProError for an unknown key or class, or a wrong type."""
    section, tests = section_of(dataset_json, "cases"), section_of(dataset_json, TESTS)
    for case, entry in section.items():
        _check_entry(TESTS if tests.get(case) is entry else "cases", case, entry, labels)
    return Cases(
        tuple(labels),
        {case: tuple(entry["annotated"]) for case, entry in section.items() if "annotated" in entry},
        {case: entry["source"] for case, entry in section.items() if "source" in entry},
        frozenset(section),
    )


def with_cases(dataset_json: dict, file: Path | None = None, reference: Path | None = None) -> dict:
    """dataset.json with its test cases among the cases, and the entries of a file of the section's form.

    The test cases are those of the dataset.json beside the folder `reference` where that has some, and the same labels:
    a model keeps a copy of what was there when it was trained. The file's entries are checked here, all others by
    `read_cases`.
    Raises MASTProError.
    """
    form = 'is no object; write {"CASE": {"annotated": ["CLASS"]}}'
    entries = {} if file is None else read_object(file, f"--cases {file}", "give a file of such a form", form)
    content = copy.deepcopy(dataset_json)
    beside = None if reference is None else reference.absolute().parent / "dataset.json"
    if beside is not None and beside.is_file():
        theirs = read_object(beside, f"{beside}", "repair it", "is no object; repair it")
        tests = section_of(theirs, TESTS)
        if tests and theirs.get("labels") == content.get("labels"):
            content.setdefault("mastpro", {})[TESTS] = tests
    cases, tests = section_of(content, "cases"), section_of(content, TESTS)
    labels = [name for name in content.get("labels", {}) if name not in ("background", "ignore")]
    for case, entry in entries.items():
        _check_entry(f"{OPTION} {file}", case, entry, labels)
    if tests or entries:
        content.setdefault("mastpro", {})["cases"] = {**cases, **tests, **entries}
    return content


def section_of(dataset_json: dict, name: str) -> dict:
    """An object of "mastpro", {} where there is none. Raises MASTProError for anything else."""
    mastpro = dataset_json.get("mastpro", {})
    section = mastpro.get(name, {}) if isinstance(mastpro, dict) else mastpro
    if not isinstance(section, dict):
        raise MASTProError(f"mastpro.{name} in dataset.json is {section!r}; make it an object, one entry per case")
    return section


def _check_entry(section: str, case: str, entry: object, labels: Sequence[str]) -> None:
    where = f'{section}["{case}"]' if section.startswith(OPTION) else f'mastpro.{section}["{case}"] in dataset.json'
    if not isinstance(entry, dict):
        raise MASTProError(f"{where} is {entry!r}; make it an object with keys among {', '.join(KEYS)}")
    for key in entry:
        if key not in KEYS:
            raise MASTProError(f'{where} has the unknown key "{key}"; did you mean "{closest(key, KEYS) or KEYS[1]}"?')
    if not isinstance(entry.get("source", ""), str):
        raise MASTProError(f'{where}: "source" is {entry["source"]!r}; make it the name of a data set')
    annotated = entry.get("annotated", list(labels))
    if not isinstance(annotated, list) or not annotated or not all(isinstance(name, str) for name in annotated):
        raise MASTProError(f'{where}: "annotated" is {annotated!r}; list the classes looked for, at least one')
    for name in annotated:
        if name not in labels:
            hint = f'did you mean "{closest(name, labels)}"? ' if closest(name, labels) else ""
            raise MASTProError(f'{where}: "{name}" is no class of the data set; {hint}Known: {", ".join(labels)}')

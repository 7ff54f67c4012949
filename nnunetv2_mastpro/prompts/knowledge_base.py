"""Built-in knowledge of tumours and organs: attributes of Eq. 1, host structures, names in public datasets."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nnunetv2_mastpro.prompts.sentences import organ_sentence, tumor_sentence

KNOWLEDGE_FOLDER = Path(__file__).parent / "knowledge"
MODALITIES = ("CT", "MRI", "PET/CT")  # what channel_names can turn [M] into and embeddings ship for

_BRITISH = (("tumour", "tumor"), ("oesoph", "esoph"), ("oedema", "edema"))


@dataclass(frozen=True)
class Entry:
    """One tumour (`tumor` is its name) or one organ (`tumor` is empty)."""

    name: str
    organ: str
    shape: str
    edge: str
    modality: str
    host_structures: tuple[str, ...]
    aliases: tuple[str, ...]
    tumor: str = ""
    is_tumor: bool = False
    reference: str = ""
    host_reason: str = ""
    alias_in_set: str = ""  # a label that means this entry only in a dataset whose labels are `label_set`
    label_set: tuple[str, ...] = ()

    def sentence(self, modality: str = "") -> str:
        """The entry's sentence on `modality`, or on its own."""
        modality = modality or self.modality
        if self.tumor:
            return tumor_sentence(self.tumor, self.organ, self.shape, self.edge, modality)
        return organ_sentence(self.organ, self.shape, self.edge, modality)

    def names(self) -> set[str]:
        """Every normalised name under which a label finds this entry without help."""
        return {compact(name) for name in (self.name, self.tumor or self.organ, *self.aliases)}


def words_of(name: str) -> list[str]:
    """Words of a label or dataset name: lower case, singular, American spelling; camelCase is split."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Z])", " ", name)
    text = split.lower()
    for british, american in _BRITISH:
        text = text.replace(british, american)
    return [_singular(word) for word in re.findall(r"[^\W_]+", text)]


def compact(name: str) -> str:
    """Key under which names compare: `Liver Tumours`, `liver-tumor` and `LiverTumor` are one."""
    return "".join(words_of(name))


def _singular(word: str) -> str:
    if word.endswith(("stases", "roses", "itises")):
        return word[:-2] + "is"
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("ae"):
        return word[:-1]
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _read(file_name: str) -> dict:
    return json.loads((KNOWLEDGE_FOLDER / file_name).read_text(encoding="utf-8"))


@cache
def tumors() -> dict[str, Entry]:
    """Tumour entries by name; benign contrasts such as the kidney cyst have is_tumor False."""
    return {name: _entry(name, {"is_tumor": True, **fields}) for name, fields in _read("tumors.json").items()}


@cache
def organs() -> dict[str, Entry]:
    """Organ entries by name."""
    return {name: _entry(name, fields) for name, fields in _read("organs.json").items()}


def _entry(name: str, fields: dict) -> Entry:
    lists = {key: tuple(fields.get(key, ())) for key in ("host_structures", "aliases", "label_set")}
    return Entry(name=name, **{**fields, **lists})


@cache
def _index() -> dict[str, Entry]:
    return {key: entry for entry in (*organs().values(), *tumors().values()) for key in entry.names()}


def find(label: str, labels: tuple[str, ...] = (), dataset_name: str = "") -> Entry | None:
    """Entry of a label, or None.

    `labels`: all foreground labels, for names that mean something only together (anterior and posterior are
    the hippocampus' where they are all there is). `dataset_name`: a hint for labels such as "cancer", which alone
    mean nothing: used where it names exactly one organ.
    """
    key = compact(label)
    if key in _index():
        return _index()[key]
    siblings = {compact(other) for other in labels}
    for entry in (*organs().values(), *tumors().values()):
        in_set = entry.alias_in_set and siblings == {compact(name) for name in entry.label_set}
        if in_set and key == compact(entry.alias_in_set):
            return entry
    return _find_generic(key, dataset_name)


def find_organ(name: str) -> Entry | None:
    """Organ entry of an organ's name as it stands in an attribute, or None."""
    entry = _index().get(compact(name.removeprefix("the ")))
    return entry if entry is not None and not entry.tumor else None


def _find_generic(key: str, dataset_name: str) -> Entry | None:
    generic = _read("generic.json")
    kind = next((kind for kind, names in generic["labels"].items() if key in map(compact, names)), None)
    if kind is None:
        return None
    hits = _organs_named(dataset_name, {organ: fields["words"] for organ, fields in generic["organs"].items()})
    if len(hits) != 1:
        return None
    fields = generic["organs"][hits.pop()]
    target = fields.get(kind) or (fields.get("tumor") if kind == "mass" else None)
    return {**organs(), **tumors()}[target] if target is not None else None


def _organs_named(dataset_name: str, words: dict[str, list[str]]) -> set[str]:
    text = f" {' '.join(words_of(dataset_name))} "
    phrases = [(" ".join(words_of(phrase)), organ) for organ, listed in words.items() for phrase in listed]
    hits = set()
    for phrase, organ in sorted(phrases, key=lambda pair: -len(pair[0])):  # "hepatic vessel" before "hepatic"
        if f" {phrase} " in text:
            hits.add(organ)
            text = text.replace(f" {phrase} ", " | ")
    return hits


def sentences() -> tuple[str, ...]:
    """Every sentence the knowledge base can produce by itself, in a fixed order."""
    entries = (*tumors().values(), *organs().values())
    return tuple(
        dict.fromkeys(entry.sentence(modality) for entry in entries for modality in (*MODALITIES, entry.modality))
    )

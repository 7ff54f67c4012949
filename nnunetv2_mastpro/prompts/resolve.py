"""Class names of a dataset to sentences, Eq. 1. Stdlib only."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass, replace

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.knowledge_base import Entry, find, find_organ, words_of
from nnunetv2_mastpro.prompts.section import TEXT_KEYS, read_section
from nnunetv2_mastpro.prompts.sentences import organ_sentence, plain_sentence, tumor_sentence

FROM_DATASET = "dataset.json"
FROM_NAME = "label name only"

_TUMOR_WORD = re.compile(
    r"tumor|cancer|carcinom|lesion|metasta|sarcoma|gliom|blastoma|lymphoma|melanoma|meningioma|neoplas|malignan"
    r"|nodul|\bmass\b|\bmet\b|\bgtv"
)
_CT_WORD = re.compile(r"(ce|nc|ld|cb|hr)?ct(a|p|ac)?\d*$")
_MRI_WORD = re.compile(r"(mri?|mp?mri|t[12][a-z]{0,8}|[a-z]{0,2}flair|adc|dwi|dce|dti|swi|pdw?|hbv)$")
_PET_WORD = re.compile(r"(pet|fdg|suv|psma)\d*$")


@dataclass(frozen=True)
class Prompt:
    """The text prompt of one foreground output.

    origin: "dataset.json", "knowledge base (liver_tumor)", or "label name only".
    """

    label: str
    sentence: str
    is_tumor: bool
    host_structures: tuple[str, ...]
    origin: str


def resolve_prompts(dataset_json: dict, dataset_name: str = "") -> tuple[Prompt, ...]:
    """One prompt per foreground output of the network, in the order of its outputs.

    An entry in `dataset_json["mastpro"]["prompts"]` wins, then the knowledge base, then the label's name, with a
    warning. `dataset_name`, as "Dataset010_Colon", tells whose "cancer" it is where the label does not.
    Raises MASTProError for a bad section or bad labels.
    """
    return tuple(prompt for prompt, _ in resolve_with_entries(dataset_json, dataset_name))


def resolve_quietly(dataset_json: dict, dataset_name: str = "") -> tuple[Prompt, ...]:
    """As resolve_prompts, for those to whom a label that has its name only is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return resolve_prompts(dataset_json, dataset_name)


def resolve_with_entries(dataset_json: dict, dataset_name: str = "") -> list[tuple[Prompt, dict]]:
    """Each prompt with the entry of `mastpro.prompts` that would give it again; an existing entry stays as it is."""
    labels = foreground_labels(dataset_json)
    section = read_section(dataset_json, labels)
    modality = modality_of(dataset_json)
    resolved = []
    for label in labels:
        known = find(label, labels, str(dataset_json.get("name", ""))) or find(label, labels, dataset_name)
        if label in section:
            resolved.append((_from_section(label, section[label], known, modality), section[label]))
        elif known is not None:
            resolved.append(_from_knowledge(label, known, modality))
        else:
            resolved.append(_from_name(label, modality))
    return _tell_apart(resolved)


def foreground_labels(dataset_json: dict) -> tuple[str, ...]:
    """Label names in the order of the network's foreground outputs, by the rules of nnU-Net's LabelManager.

    Without regions by label value; with regions (a list of more than one value) as `labels` lists them.
    """
    labels = dataset_json.get("labels")
    if not isinstance(labels, dict):
        raise MASTProError('dataset.json has no "labels" object; add one such as {"background": 0, "liver": 1}')
    values = {label: _values(label, value) for label, value in labels.items() if label != "ignore"}
    foreground = {label: value for label, value in values.items() if set(value) != {0}}
    if not foreground:
        raise MASTProError("dataset.json has no label besides background and ignore; add the classes to segment")
    if any(len(value) > 1 for value in values.values()):
        return tuple(foreground)
    if len(set(foreground.values())) < len(foreground):
        raise MASTProError(f"labels in dataset.json share a value ({labels}); give each label a value of its own")
    return tuple(sorted(foreground, key=foreground.get))


def _values(label: str, value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, (list, tuple)) else [value]
    try:
        if listed:
            return tuple(int(one) for one in listed)
    except (TypeError, ValueError):
        pass
    raise MASTProError(f'label "{label}" in dataset.json has the value {value!r}; make it an integer or a list of them')


def channel_names(dataset_json: dict) -> dict:
    """Number -> name, by the key of today or the older one. Raises MASTProError for what is no object."""
    channels = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    if not isinstance(channels, dict):
        raise MASTProError('"channel_names" in dataset.json is no object; write it as {"0": "CT"}')
    return channels


def channel_of(dataset_json: dict, modality: str) -> int | None:
    """Number of the first channel whose name says this modality alone, "CT" and not "PET/CT"; None where none does."""
    for number, name in sorted((int(number), str(name)) for number, name in channel_names(dataset_json).items()):
        if modality_of({"channel_names": {"0": name}}) == modality:
            return number
    return None


def modality_of(dataset_json: dict) -> str:
    """[M] by the channels' names: "CT", "MRI", "PET/CT" and the like, or "" where no channel says."""
    words = [
        word for name in channel_names(dataset_json).values() for word in re.findall(r"[^\W_]+", str(name).lower())
    ]
    found = {
        kind: any(pattern.match(word) for word in words)
        for kind, pattern in (("PET", _PET_WORD), ("CT", _CT_WORD), ("MRI", _MRI_WORD))
    }
    return "/".join(kind for kind, present in found.items() if present)


def looks_like_tumor(label: str) -> bool:
    """Whether a label's words say tumour: tumor, cancer, carcinoma, lesion, metastasis, sarcoma, nodule, GTV ..."""
    return _TUMOR_WORD.search(" ".join(words_of(label))) is not None


def _from_section(label: str, entry: dict, known: Entry | None, modality: str) -> Prompt:
    if "sentence" in entry:
        is_tumor = known.is_tumor if known else looks_like_tumor(label)
        hosts = known.host_structures if known else ()
        sentence = entry["sentence"].strip()
    else:
        attributes = _complete(label, entry, known, modality)
        is_tumor = known.is_tumor if known else "tumor" in attributes
        organ = find_organ(attributes["organ"])
        own_organ = known is None or ("organ" in entry and entry["organ"] != known.organ)
        hosts = (organ.host_structures if organ else ()) if own_organ else known.host_structures
        sentence = _sentence(attributes)
    return Prompt(
        label=label,
        sentence=sentence,
        is_tumor=entry.get("is_tumor", is_tumor),
        host_structures=tuple(entry.get("host_structures", hosts)),
        origin=FROM_DATASET,
    )


def _complete(label: str, entry: dict, known: Entry | None, modality: str) -> dict[str, str]:
    """Attributes of an entry: its own, then the channels' modality, then the knowledge base's."""
    attributes = {key: getattr(known, key) for key in TEXT_KEYS if getattr(known, key, "")}
    if modality:
        attributes["modality"] = modality
    attributes |= {key: entry[key].strip() for key in TEXT_KEYS if key in entry}
    as_tumor = "tumor" in attributes or (known is None and entry.get("is_tumor", looks_like_tumor(label)))
    missing = [key for key in (TEXT_KEYS if as_tumor else ("organ",)) if key not in attributes]
    if missing:
        raise MASTProError(
            f'mastpro.prompts["{label}"] in dataset.json lacks {", ".join(missing)}, and the knowledge base does not '
            f"know this label; add {'it' if len(missing) == 1 else 'them'} or give a whole sentence"
        )
    return attributes


def _from_knowledge(label: str, known: Entry, modality: str) -> tuple[Prompt, dict]:
    prompt = Prompt(
        label=label,
        sentence=known.sentence(modality),
        is_tumor=known.is_tumor,
        host_structures=known.host_structures,
        origin=f"knowledge base ({known.name})",
    )
    attributes = {key: getattr(known, key) for key in TEXT_KEYS if getattr(known, key)}
    attributes["modality"] = modality or known.modality
    return prompt, {**attributes, **_rest(prompt)}


def _from_name(label: str, modality: str) -> tuple[Prompt, dict]:
    is_tumor = looks_like_tumor(label)
    sentence = plain_sentence(readable(label), is_tumor, modality)
    warnings.warn(
        f'label "{label}" is not in the knowledge base: its prompt is "{sentence}", as a '
        f'{"tumor" if is_tumor else "normal structure"}; for a better one fill in mastpro.prompts["{label}"] in '
        "dataset.json (mastpro prompts -d DATASET --write prepares the section)",
        stacklevel=3,
    )
    prompt = Prompt(label=label, sentence=sentence, is_tumor=is_tumor, host_structures=(), origin=FROM_NAME)
    return prompt, {"sentence": sentence, **_rest(prompt)}


def _tell_apart(resolved: list[tuple[Prompt, dict]]) -> list[tuple[Prompt, dict]]:
    """Labels that resolved to one sentence get their own names into it: equal embeddings give equal outputs."""
    counts = Counter(prompt.sentence for prompt, _ in resolved)
    told = [
        _by_own_name(prompt, entry)
        if counts[prompt.sentence] > 1 and prompt.origin != FROM_DATASET
        else (prompt, entry)
        for prompt, entry in resolved
    ]
    labels: dict[str, str] = {}
    for prompt, _ in told:
        other = labels.setdefault(prompt.sentence, prompt.label)
        if other != prompt.label:
            raise MASTProError(
                f'labels "{other}" and "{prompt.label}" have the same sentence, so the network could not tell them '
                "apart; give each an entry of its own in mastpro.prompts in dataset.json"
            )
    return told


def _by_own_name(prompt: Prompt, entry: dict) -> tuple[Prompt, dict]:
    if "sentence" in entry:
        return prompt, entry
    named = {**entry, "tumor" if "tumor" in entry else "organ": readable(prompt.label)}
    warnings.warn(
        f'label "{prompt.label}" shares the {prompt.origin} entry with another label: its own name tells them apart; '
        f'for better prompts fill in mastpro.prompts["{prompt.label}"] in dataset.json',
        stacklevel=5,
    )
    return replace(prompt, sentence=_sentence({key: named[key] for key in TEXT_KEYS if key in named})), named


def _sentence(attributes: dict[str, str]) -> str:
    return (tumor_sentence if "tumor" in attributes else organ_sentence)(**attributes)


def readable(label: str) -> str:
    """A label as words of a sentence."""
    return re.sub(r"[\s_]+", " ", label).strip()


def _rest(prompt: Prompt) -> dict:
    return {"is_tumor": prompt.is_tumor, "host_structures": list(prompt.host_structures)}

"""Sentences from attributes, Eq. 1. C tumor, O organ, S shape, E edge, M modality."""

from __future__ import annotations

_VOWEL_SOUND = "aeiou"
_SPELLED_WITH_VOWEL = "AEFHILMNORSX"  # letters whose name starts with a vowel sound: "an HCC"
_NOT_AS_WRITTEN = {"uni": "a", "ure": "a", "uri": "a", "uro": "a", "ute": "a", "eu": "a", "one": "a", "hour": "an"}


def with_article(words: str) -> str:
    """`words` behind "a" or "an", by sound: "a uterine tumor", "an HCC", "an ovarian tumor"."""
    first = words.split()[0]
    abbreviation = first.split("-")[0]
    if abbreviation.isupper() and len(abbreviation) <= 4:
        return f"{'an' if first[0] in _SPELLED_WITH_VOWEL else 'a'} {words}"
    for start, article in _NOT_AS_WRITTEN.items():
        if first.lower().startswith(start):
            return f"{article} {words}"
    return f"{'an' if first[0].lower() in _VOWEL_SOUND else 'a'} {words}"


def tumor_sentence(tumor: str, organ: str, shape: str, edge: str, modality: str) -> str:
    """The paper's template: "This is a [C] in the [O], appearing as a [S] mass with [E] borders on [M]." (Sec. 2.1)

    What the template says itself ("the", "mass", "borders") is dropped from the attributes.
    """
    organ = organ.removeprefix("the ")
    shape = shape.removesuffix(" mass")
    edge = edge.removesuffix(" borders").removesuffix(" margins")
    return (
        f"This is {with_article(tumor)} in the {organ}, "
        f"appearing as {with_article(shape)} mass with {edge} borders on {modality}."
    )


def organ_sentence(organ: str, shape: str = "", edge: str = "", modality: str = "") -> str:
    """An organ's own sentence; only its name is needed.

    "normal" keeps the sentence of an organ away from that of a tumour in it.
    """
    sentence = f"This is the normal {organ.removeprefix('the ')}"
    if shape:
        sentence += f", appearing as {with_article(shape)} structure"
    if edge:
        sentence += f"{'' if shape else ','} with {edge.removesuffix(' borders')} borders"
    if modality:
        sentence += f" on {modality}"
    return sentence + "."


def plain_sentence(name: str, is_tumor: bool, modality: str = "") -> str:
    """The sentence of a label of which nothing but the name is known."""
    subject = with_article(name) if is_tumor else f"the {name}"
    return f"This is {subject}{f' on {modality}' if modality else ''}."

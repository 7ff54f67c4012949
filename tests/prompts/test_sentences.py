"""The template of Eq. 1 and its articles."""

import pytest

from nnunetv2_mastpro.prompts.sentences import organ_sentence, plain_sentence, tumor_sentence, with_article


def test_tumor_sentence_is_the_papers_template():
    assert tumor_sentence("liver tumor", "liver", "round", "ill-defined", "CT") == (
        "This is a liver tumor in the liver, appearing as a round mass with ill-defined borders on CT."
    )


def test_words_of_the_template_are_not_said_twice():
    plain = tumor_sentence("adrenal tumor", "adrenal gland", "oval", "smooth", "CT")
    assert tumor_sentence("adrenal tumor", "the adrenal gland", "oval mass", "smooth borders", "CT") == plain
    assert tumor_sentence("adrenal tumor", "adrenal gland", "oval", "smooth margins", "CT") == plain


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("liver tumor", "a liver tumor"),
        ("adrenal tumor", "an adrenal tumor"),
        ("irregular", "an irregular"),
        ("uterine tumor", "a uterine tumor"),
        ("unilocular", "a unilocular"),
        ("upper tract carcinoma", "an upper tract carcinoma"),
        ("ulcerated", "an ulcerated"),
        ("HCC", "an HCC"),
        ("FDG-avid", "an FDG-avid"),
        ("GIST", "a GIST"),
        ("J-shaped", "a J-shaped"),
        ("Y-shaped", "a Y-shaped"),
        ("hourglass-shaped", "an hourglass-shaped"),
    ],
)
def test_article_follows_the_sound(words, expected):
    assert with_article(words) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "This is the normal liver."),
        ({"modality": "CT"}, "This is the normal liver on CT."),
        ({"edge": "smooth", "modality": "CT"}, "This is the normal liver, with smooth borders on CT."),
        ({"shape": "large"}, "This is the normal liver, appearing as a large structure."),
        (
            {"shape": "oval", "edge": "smooth", "modality": "MRI"},
            "This is the normal liver, appearing as an oval structure with smooth borders on MRI.",
        ),
    ],
)
def test_organ_needs_only_its_name(attributes, expected):
    assert organ_sentence("liver", **attributes) == expected


def test_plain_sentence():
    assert plain_sentence("orbital tumor", True, "CT") == "This is an orbital tumor on CT."
    assert plain_sentence("septum", False) == "This is the septum."

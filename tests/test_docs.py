"""What the documents say can be done: their links lead somewhere, and the commands have the options that they show."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from nnunetv2_mastpro import cli, config

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def anchors(document):
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(document):
    """Lines of its blocks for a shell that begin with mastpro, continued ones in one."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines if line.startswith("mastpro "))
    return [[word for word in line[1:] if not re.fullmatch(r"\[.*\]", word)] for line in words]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_the_options_that_are_shown(document):
    for words in commands(document):
        _, unknown = cli._parser(words).parse_known_args(words)
        assert not unknown, words


def test_there_are_such_commands():
    assert {words[0] for words in commands(ROOT / "README.md")} >= {"merge", "anatomy", "add-tumour", "report"}


def test_every_setting_is_explained():
    sections = (config.NetworkConfig, config.PromptConfig, config.TrainingConfig, config.PredictionConfig)
    keys = {field.name for section in sections for field in dataclasses.fields(section)}
    text = (ROOT / "docs" / "reference.md").read_text()
    rows = {key for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert keys - rows == {"added", "new_types"}  # which mastpro add-tumour writes

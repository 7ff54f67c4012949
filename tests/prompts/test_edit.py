"""Writing mastpro.prompts: all else unchanged, whole files or none."""

import json
import os

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.prompts.edit import write_section
from nnunetv2_mastpro.prompts.resolve import resolve_prompts

CONTENT = {
    "zulu": [1, {"b": 2, "a": 1.5}],
    "labels": {"background": 0, "liver": 1, "liver_tumor": 2},
    "channel_names": {"0": "CT"},
    "author": "Müller",
    "numTraining": 3,
}


def test_writes_both_copies_and_changes_nothing_else(write_dataset):
    paths = write_dataset(CONTENT)
    assert write_section(paths) == paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        written = json.loads(text)
        assert list(written) == [*CONTENT, "mastpro"]
        assert {key: written[key] for key in CONTENT} == CONTENT
        assert list(written["labels"]) == list(CONTENT["labels"])
        assert '\n    "author": "Müller"' in text
        assert list(written["mastpro"]["prompts"]) == ["liver", "liver_tumor"]
        before = [(p.label, p.sentence, p.is_tumor, p.host_structures) for p in resolve_prompts(CONTENT)]
        assert [(p.label, p.sentence, p.is_tumor, p.host_structures) for p in resolve_prompts(written)] == before


def test_writing_twice_changes_nothing(write_dataset):
    paths = write_dataset(CONTENT)
    write_section(paths)
    first = [path.read_bytes() for path in paths]
    write_section(paths)
    assert [path.read_bytes() for path in paths] == first


def test_folder_name_tells_whose_cancer_it_is(write_dataset):
    content = {**CONTENT, "labels": {"background": 0, "cancer": 1}}
    (path,) = write_dataset(content, ["nnUNet_raw"], "Dataset010_Colon")
    write_section([path])
    written = json.loads(path.read_text())
    assert written["mastpro"]["prompts"]["cancer"]["host_structures"] == ["colon"]
    assert list(written) == [*CONTENT, "mastpro"]
    (named,) = write_dataset({**content, "name": "Lung"}, ["nnUNet_raw"], "Dataset010_Colon")
    write_section([named])
    assert json.loads(named.read_text())["mastpro"]["prompts"]["cancer"]["organ"] == "lung"


def test_own_entries_win_and_are_carried_over(write_dataset):
    own = {"liver_tumor": {"edge": "spiky"}}
    (raw,) = write_dataset({**CONTENT, "mastpro": {"cases": {"x": 1}, "prompts": own}}, ["nnUNet_raw"])
    (preprocessed,) = write_dataset(CONTENT, ["nnUNet_preprocessed"])
    write_section([raw, preprocessed])
    for path in (raw, preprocessed):
        prompts = json.loads(path.read_text())["mastpro"]["prompts"]
        assert prompts["liver_tumor"] == {"edge": "spiky"}
        assert prompts["liver"]["organ"] == "liver"
    assert json.loads(raw.read_text())["mastpro"]["cases"] == {"x": 1}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**CONTENT, "mastpro": {"prompts": {"liver": {"edge": "b"}}}}, r'mastpro.prompts\["liver"\] differs between'),
        ({**CONTENT, "labels": {"background": 0, "liver": 1}}, "have different labels .*; plan and preprocess again"),
        ({**CONTENT, "mastpro": {"prompts": {"liver": {"edg": "b"}}}}, 'unknown key "edg"'),
    ],
)
def test_both_are_checked_before_either_is_written(write_dataset, other, message):
    (raw,) = write_dataset({**CONTENT, "mastpro": {"prompts": {"liver": {"edge": "a"}}}}, ["nnUNet_raw"])
    (preprocessed,) = write_dataset(other, ["nnUNet_preprocessed"])
    before = raw.read_bytes(), preprocessed.read_bytes()
    with pytest.raises(MASTProError, match=message):
        write_section([raw, preprocessed])
    assert (raw.read_bytes(), preprocessed.read_bytes()) == before


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[]", "holds no JSON object")])
def test_broken_file(write_dataset, text, message):
    raw, preprocessed = write_dataset(CONTENT)
    preprocessed.write_text(text)
    before = raw.read_bytes()
    with pytest.raises(MASTProError, match=message):
        write_section([raw, preprocessed])
    assert raw.read_bytes() == before


@pytest.mark.parametrize("step", ["replace", "fsync", "fdopen"])
def test_interrupted_writing_leaves_no_half_file(write_dataset, monkeypatch, step):
    paths = write_dataset(CONTENT)
    before = [path.read_bytes() for path in paths]
    real = getattr(os, step)

    def fail(first, *args):
        if step == "fdopen":
            os.close(first)
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(MASTProError, match="dataset.json cannot be written .disk full.; check"):
        write_section(paths)
    monkeypatch.setattr(os, step, real)
    assert [path.read_bytes() for path in paths] == before
    assert [list(path.parent.iterdir()) for path in paths] == [[path] for path in paths]


def test_killed_while_writing_leaves_the_original_whole(tmp_path, monkeypatch):
    path = tmp_path / "dataset.json"
    path.write_bytes(b"before")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically({path: b"after"})
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_and_links_are_kept(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_bytes(b"before")
    target.chmod(0o640)
    link.symlink_to(target)
    write_atomically({target: b"between", link: b"after", tmp_path / "new.json": b"new"})
    assert link.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"after", 0o640)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o644
    assert len([*tmp_path.iterdir()]) == 3  # two of them are one file


def test_a_new_file_is_as_private_as_the_user_has_it(tmp_path):
    before = os.umask(0o077)
    write_atomically({tmp_path / "new.json": b"new"})
    assert os.umask(before) == 0o077
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o600

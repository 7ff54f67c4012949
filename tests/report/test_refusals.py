"""What mastpro report refuses, before volumes are read where it can."""

import re
import shutil

import pytest
import SimpleITK as sitk

from .command import arguments, change, moved, run, with_value_9


def remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


SPOILS = {
    "another grid": (
        lambda f: change(f.predictions / "case_b.nii.gz", moved),
        r"predictions/case_b.nii.gz has size .* its image case_b_0000.nii.gz has .*; give files of the same",
    ),
    "another grid of the labels": (
        lambda f: change(f.reference / "case_c.nii.gz", lambda volume: volume[:-1]),
        r"labels/case_c.nii.gz has size \(31 30 14\)",
    ),
    "missing predictions": (
        lambda f: [(f.predictions / f"case_{name}.nii.gz").unlink() for name in "ac"],
        r"-pred \S+ lacks case_a, case_c of 3 cases",
    ),
    "another's predictions": (
        lambda f: [path.rename(path.with_name(f"x_{path.name}")) for path in f.predictions.glob("case_*")],
        r"-pred \S+ and -i \S+ have no case in common; one of them is another's",
    ),
    "missing labels": (lambda f: (f.reference / "case_a.nii.gz").unlink(), r"-ref \S+ lacks case_a of 3 cases"),
    "missing images": (lambda f: (f.images / "case_a_0000.nii.gz").unlink(), r"-i \S+ lacks case_a of 3 cases"),
    "missing maps": (lambda f: (f.maps / "case_a.nii.gz").unlink(), r"--maps \S+ lacks case_a of 3 cases"),
    "maps of other hosts": (
        lambda f: (f.maps / "anatomy.json").write_text('{"hosts": [{"value": 1, "structures": ["pancreas"]}]}'),
        r"maps has maps for 1 \(pancreas\), wanted are 1 \(liver\), .*; give --maps what mastpro anatomy -m MODEL",
    ),
    "unknown label": (
        lambda f: change(f.predictions / "case_b.nii.gz", with_value_9),
        r"case_b.nii.gz has the unknown label 9; the model knows 0, 1, 2",
    ),
    "unknown label of a map": (lambda f: change(f.maps / "case_b.nii.gz", with_value_9), r"has the unknown label 9"),
    "no number": (
        lambda f: change(f.reference / "case_b.nii.gz", lambda v: sitk.Cast(v, sitk.sitkFloat32) * 0.5),
        r"case_b.nii.gz has the unknown label 0.5",
    ),
    "no images": (lambda f: remove_all(f.images), r"-i \S+ has no cases \(files such as CASE_0000.nii.gz"),
    "no predictions": (lambda f: remove_all(f.predictions), r"-pred \S+ has no cases \(files such as CASE.nii.gz"),
    "no folder": (lambda f: shutil.rmtree(f.reference), r"-ref \S+ is no folder"),
    "no model": (lambda f: (f.model / "plans.json").unlink(), r"it has no plans.json\); give nnUNet_results"),
    "no training": (
        lambda f: (f.model / "fold_0" / "checkpoint_final.pth").rename(f.model / "fold_0" / "checkpoint_start.pth"),
        "has no fold with checkpoint_final.pth or",
    ),
    "no fold": (lambda f: shutil.rmtree(f.model / "fold_0"), "has no fold with checkpoint_final.pth or"),
    "torn": (
        lambda f: (f.predictions / "case_a.nii.gz").write_bytes(b"torn"),
        r"case_a.nii.gz is damaged or ends early",
    ),
    "cut short": (
        lambda f: (f.maps / "case_a.nii.gz").write_bytes((f.maps / "case_a.nii.gz").read_bytes()[:-20]),
        r"maps/case_a.nii.gz is damaged or ends early",
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_bad_input_is_one_sentence_and_no_page(folders, tmp_path, capsys, name):
    spoil, message = SPOILS[name]
    spoil(folders)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, "--maps", folders.maps)) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "error" in line]
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


BAD_OPTIONS = {
    ("--tolerance-mm", "-1"): "the tolerance -1 is no distance; give millimetres from 0 on",
    ("--lesion-overlap", "1.5"): "the lesion overlap 1.5 is no share",
    ("--patients", "case"): "--patients has 0 groups",
    ("--patients", "^(patient.)"): "finds no patient in the cases, such as case_a",
    ("--cases", "none.json"): "--cases none.json cannot be read",
}


@pytest.mark.parametrize("given", BAD_OPTIONS)
def test_options_about_scores_are_checked_before_volumes_are_read(folders, tmp_path, monkeypatch, capsys, given):
    from nnunetv2_mastpro.report import job

    monkeypatch.setattr(job, "look_at", None)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, *given)) == 2
    assert BAD_OPTIONS[given] in capsys.readouterr().err
    assert run(*arguments(folders, tmp_path / "out", *given)) == 2
    said = capsys.readouterr().err
    assert f"without -ref nothing is scored, and {given[0]} can change nothing; give -ref, or leave" in said
    assert not (tmp_path / "out").exists()


def test_a_page_of_another_is_not_overwritten(folders, tmp_path, capsys):
    (tmp_path / "index.html").write_text("<p>mine")
    assert run(*arguments(folders, tmp_path)) == 2
    assert "index.html is no report of mastpro" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "<p>mine"
    for _ in range(2):  # its own is
        assert run(*arguments(folders, tmp_path / "other", "--panels", "0", "--viewer-cases", "0")) == 0

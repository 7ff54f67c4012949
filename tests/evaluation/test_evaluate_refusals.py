"""`mastpro evaluate` on faulty input: one sentence, before a file is written."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk


def remove_case(folder):
    return lambda root: (root / folder / "p2_a.nii.gz").unlink()


def rewrite(folder, change, spacing_mm=None, origin=None):
    def spoil(root):
        path = root / folder / "p2_a.nii.gz"
        before = sitk.ReadImage(path)
        image = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(before)))
        image.SetSpacing(spacing_mm or before.GetSpacing())
        image.SetOrigin(origin or before.GetOrigin())
        sitk.WriteImage(image, path)

    return spoil


def truncate(root):
    path = root / "predictions" / "p2_a.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def tear_first(root):
    """By which nnU-Net finds its reader."""
    (root / "labels" / "p1_a.nii.gz").write_bytes(b"torn")


def empty(folder):
    def spoil(root):
        for path in (root / folder).glob("*.nii.gz"):
            path.unlink()

    return spoil


def edit_dataset(**entries):
    def spoil(root):
        path = root / "predictions" / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return spoil


def same(values):
    return values


BAD = {
    "missing case": (remove_case("predictions"), [], r"lacks 1 of 5 cases, p2_a; .*--chill"),
    "no case in common": (
        lambda root: [path.rename(path.with_name(f"other_{path.name}")) for path in (root / "labels").iterdir()],
        [],
        r"predictions and \S+labels have no case in common; ",
    ),
    "no reference": (remove_case("labels"), [], r"has no reference of 1 predicted cases, p2_a; "),
    "other shape": (rewrite("predictions", lambda v: v[:-1]), [], r"p2_a.* does not lie on .*shape \(7, 20, 16\)"),
    "other spacing": (rewrite("predictions", same, spacing_mm=(2.0, 1.5, 5.0)), [], r"spacing \(5, 1.5, 2\), not"),
    "other origin": (rewrite("predictions", same, origin=(3.0, -7.0, 12.0)), [], r"origin \(3, -7, 12\), not"),
    "unknown label": (
        rewrite("predictions", lambda v: v * 7),
        [],
        r"p2_a.* the values 7, the labels of dataset.json are 0, 1, 2, 3; map",
    ),
    "unknown label in the reference": (
        rewrite("labels", lambda v: v + 3),
        [],
        r"labels/p2_a.* has the values 4, 6, the labels",
    ),
    "no label map": (rewrite("predictions", lambda v: v + np.float32(0.5)), [], "not whole numbers"),
    "damaged file": (truncate, [], r"p2_a.nii.gz is damaged or ends early"),
    "damaged first reference": (tear_first, [], r"none of nnU-Net's readers takes \S+labels/p1_a.nii.gz; write it"),
    "no predictions": (empty("predictions"), [], r"predictions has no files that end with .nii.gz"),
    "no references": (empty("labels"), [], r"labels has no files that end with .nii.gz"),
    "no folder": (lambda root: shutil.rmtree(root / "labels"), [], r"labels is no folder"),
    "no dataset.json": (lambda root: (root / "predictions" / "dataset.json").unlink(), [], "name the data set with -d"),
    "no such folders": (
        lambda root: shutil.rmtree(root / "predictions"),
        [],
        r"predictions is no folder; give those of",
    ),
    "unknown data set": (lambda root: None, ["-d", "997"], "no single dataset 997"),
    "bad cases": (edit_dataset(mastpro={"cases": {"p1_a": {"annotated": ["livr"]}}}), [], 'did you mean "liver"'),
    "no file ending": (edit_dataset(file_ending=None), [], 'no "file_ending"'),
    "bad tolerance": (lambda root: None, ["--tolerance-mm", "-1"], "the tolerance -1 is no distance"),
    "bad overlap": (lambda root: None, ["--lesion-overlap", "1.5"], "the lesion overlap 1.5 is no share"),
    "bad pattern": (lambda root: None, ["--patients", "p[0-9]"], "--patients has 0 groups"),
    "pattern of nothing": (lambda root: None, ["--patients", "^(x)"], "finds no patient in the cases, such as p1_a"),
    "one patient": (lambda root: None, ["--patients", "^(p)"], 'finds one patient, "p", in all 5 cases'),
    "bad processes": (lambda root: None, ["-np", "0"], "-np 0 is below 1"),
    "no such dataset.json": (lambda root: None, ["-d", "no.json"], "-d no.json is no file"),
    "labels given as predictions": (lambda root: None, ["-ref", "{root}/predictions"], "are the same folder"),
    "output is a file": (
        lambda root: None,
        ["-o", "{root}/labels/p1_a.nii.gz"],
        "p1_a.nii.gz is a file; give -o a folder",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(folders, run_evaluate, capsys, monkeypatch, name):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(folders))
    spoil, arguments, message = BAD[name]
    (folders / "predictions" / "evaluation.json").write_text("of an earlier run")
    spoil(folders)
    before = {path: path.stat().st_mtime_ns for path in folders.rglob("*")}
    assert run_evaluate(folders, *(argument.format(root=folders) for argument in arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "mastpro: error: " in line]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert "Traceback" not in "".join(lines)
    assert {path: path.stat().st_mtime_ns for path in folders.rglob("*")} == before


def test_predictions_of_other_labels_are_refused(folders, run_evaluate, capsys):
    content = json.loads((folders / "predictions" / "dataset.json").read_text())
    content["labels"] |= {"liver_tumor": 3, "lung_tumor": 2}
    (folders / "dataset.json").write_text(json.dumps(content))
    assert run_evaluate(folders, "-d", folders / "dataset.json") == 2
    assert "give -d the data set that the model was trained on, or leave -d out" in capsys.readouterr().err

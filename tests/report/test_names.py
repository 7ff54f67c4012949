"""The report scores as mastpro evaluate does, by the same options, and knows the data set's name."""

import json
import re
from argparse import Namespace

import numpy as np
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation.evaluate import evaluate
from nnunetv2_mastpro.report.findings import Request
from nnunetv2_mastpro.report.job import evaluate_cases

NAME = "Dataset003_Liver"


def test_whose_cancer_it_is(folders):
    cases = {f"case_{letter}": {"annotated": ["liver"]} for letter in "abc"}
    content = {**json.loads((folders.model / "dataset.json").read_text()), "mastpro": {"cases": cases}}
    content["labels"] = {"background": 0, "liver": 1, "cancer": 2}
    where = (folders.reference, folders.predictions)
    path = folders.predictions / "case_a.nii.gz"
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    values[tuple(np.argwhere(values == 1)[0])] = 2  # a cancer in what is called the liver here
    cancer = sitk.GetImageFromArray(values)
    cancer.CopyInformation(image)
    sitk.WriteImage(cancer, str(path))
    request = Request(folders.model, folders.images, where[1], None, where[0], workers=1)
    rows = evaluate_cases(request, Namespace(dataset_json=content, plans={"dataset_name": NAME}))["rows"]
    assert rows == evaluate(*where, {**content, "name": NAME}, workers=1)["rows"]
    assert rows != evaluate(*where, content, workers=1)["rows"]


def test_the_options_are_those_of_evaluate(make_report_folders, write_model, tmp_path, capsys):
    """Six cases of three patients: intervals draw patients."""
    folders = make_report_folders(tmp_path, write_model, {f"p{n // 2}_{n % 2}": n for n in range(6)})
    where = ["-pred", folders.predictions, "-ref", folders.reference]
    options = ["--patients", "^(p.)", "--tolerance-mm", "3", "--lesion-overlap", "0.4", "-np", "1"]
    data = ["-d", folders.model / "dataset.json", "-o", tmp_path / "scores"]
    assert cli.main([*map(str, ["evaluate", *where, *data, *options])]) == 0
    found = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["summary"]["classes"]["liver_tumor"]
    shown = ["-i", folders.images, "-m", folders.model, "-o", tmp_path, "--panels", 0, "--viewer-cases", 0]
    assert cli.main([*map(str, ["report", *where, *shown, *options])]) == 0
    page = (tmp_path / "index.html").read_text()
    for name in ("Dice", "NSD", "sensitivity"):
        number = found[name]
        assert f">{number['mean']:.2f}\n({number['low']:.2f} to {number['high']:.2f})<" in page
    assert found["Dice"]["units"] == 3
    assert "bootstrap over patients. Surface Dice has a tolerance of 3 mm." in page
    assert "at least 40% of it is predicted" in page
    capsys.readouterr()
    assert cli.main([*map(str, ["report", *where, *shown, "--patients", "(p"])]) == 2
    assert re.search("error: --patients", capsys.readouterr().err)

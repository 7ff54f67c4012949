"""The report scores as mastpro evaluate does, which knows the data set's name."""

import json
from argparse import Namespace

import numpy as np
import SimpleITK as sitk

from nnunetv2_mastpro.evaluation.evaluate import evaluate
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
    request = Namespace(reference=where[0], predictions=where[1], cases=None, workers=1)
    rows = evaluate_cases(request, Namespace(dataset_json=content, plans={"dataset_name": NAME}))["rows"]
    assert rows == evaluate(*where, {**content, "name": NAME}, workers=1)["rows"]
    assert rows != evaluate(*where, content, workers=1)["rows"]

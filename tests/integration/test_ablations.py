"""An ablated network and the Universal Model's head by stock commands: train, validate, predict."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

TRAINERS = [
    "nnUNetTrainerUniversal_1epoch",
    "nnUNetTrainerMASTProNoTextNoAnatomyNoExperts_1epoch",
    "nnUNetTrainerMASTProShuffledText_1epoch",
]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_stock_commands(lab, kinds, tmp_path, trainer):
    kind = kinds["small"]
    results = lab.train(kind, trainer=trainer)
    summary = json.loads((results / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1
    lab.predict(kind, tmp_path, "-npp", "0", "-nps", "0", trainer=trainer)
    predictions = sorted(tmp_path.glob("*.nii.gz"))
    assert len(predictions) == 2
    for path in predictions:
        found = sitk.GetArrayFromImage(sitk.ReadImage(path))
        assert {*np.unique(found).tolist()} <= {0, 1, 2}
        probabilities = np.load(path.with_name(path.name.replace(".nii.gz", ".npz")))["probabilities"]
        assert probabilities.shape[0] == 3
        np.testing.assert_array_equal(probabilities.argmax(0), found)

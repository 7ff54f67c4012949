"""The script of docs/peers.md, as it stands there, on files as the page describes them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

PAGE = Path(__file__).resolve().parents[2] / "docs" / "peers.md"
SHAPE, SPACING_MM = (10, 24, 20), (1.5, 2.0, 3.0)  # z y x; x y z


@pytest.fixture
def script(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "to_nnunet.py"
    path.write_text(code)
    return path


def convert(script, settings, rc=0):
    folder = script.parent
    job = {"images": str(folder / "images"), "predictions": str(folder / "theirs"), "output": str(folder / "ours")}
    (folder / "map.json").write_text(json.dumps({**job, **settings}))
    done = subprocess.run([sys.executable, script, folder / "map.json"], capture_output=True, text=True, check=False)
    assert done.returncode == rc, done.stderr
    return done.stderr


@pytest.fixture
def truth(tmp_path):
    """A label map on a turned grid, whose image is written."""
    values = np.zeros(SHAPE, np.uint8)
    values[2:8, 4:18, 4:16] = 1
    values[3:6, 6:11, 7:12] = 2
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((0.0, -1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16) * 50, tmp_path / "images" / "case_0000.nii.gz")
    return image


def write(folder, name, image):
    path = folder / "theirs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)


def check(folder, truth, allowed=0.0):
    made = sitk.ReadImage(folder / "ours" / "case.nii.gz")
    assert made.GetSize() == truth.GetSize()
    for mine, theirs in zip(
        (made.GetSpacing(), made.GetOrigin(), made.GetDirection()),
        (truth.GetSpacing(), truth.GetOrigin(), truth.GetDirection()),
        strict=True,
    ):
        assert mine == pytest.approx(theirs)
    differing = sitk.GetArrayFromImage(made) != sitk.GetArrayFromImage(truth)
    assert differing.mean() <= allowed


def canonical(image, how, spacing_mm=1.5):
    """As MONAI's Orientation and Spacing leave it: no turn, fine voxels."""
    corners = [image.TransformIndexToPhysicalPoint((x, y, z)) for x in (0, 19) for y in (0, 23) for z in (0, 9)]
    low, high = np.min(corners, 0) - 6, np.max(corners, 0) + 6
    size = [int(side) for side in np.ceil((high - low) / spacing_mm)]
    return sitk.Resample(image, size, sitk.Transform(), how, low.tolist(), (spacing_mm,) * 3)


def test_label_map_on_another_grid_with_other_values(script, truth):
    theirs = sitk.ChangeLabel(canonical(truth, sitk.sitkNearestNeighbor, 0.5), {1: 6, 2: 27})
    write(script.parent, "case/case_result_v1.nii.gz", theirs)
    convert(script, {"pattern": "{case}/{case}_result_v1.nii.gz", "values": {"6": 1, "27": 2, "30": 3}})
    check(script.parent, truth)


def test_probabilities_where_the_tumour_lies_in_the_organ(script, truth):
    for label, values in (("liver", (1, 2)), ("liver tumor", (2,))):
        mask = sitk.GetImageFromArray(np.isin(sitk.GetArrayFromImage(truth), values).astype(np.float32))
        mask.CopyInformation(truth)
        write(script.parent, f"case/{label}.nii.gz", canonical(mask, sitk.sitkLinear))
    settings = {"probabilities": {"liver": 1, "liver tumor": 2}, "threshold": 0.5}
    convert(script, {"pattern": "{case}/{label}.nii.gz", **settings})
    check(script.parent, truth, allowed=0.02)


def test_voxels_without_geometry(script, truth):
    """As MA-SAM writes them: floats, identity affine."""
    write(script.parent, "case_pred.nii.gz", sitk.GetImageFromArray(sitk.GetArrayFromImage(truth).astype(np.float32)))
    settings = {"pattern": "{case}_pred.nii.gz", "values": {"1": 1, "2": 2}, "array_order": True}
    convert(script, settings)
    check(script.parent, truth)
    write(script.parent, "case_pred.nii.gz", sitk.GetImageFromArray(np.zeros((3, 4, 5), np.float32)))
    assert "voxels, its image" in convert(script, settings, rc=1)

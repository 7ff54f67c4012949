"""The anatomy side of `mastpro doctor`."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.anatomy.preprocessed import INDEX, host_rows
from nnunetv2_mastpro.commands.doctor_anatomy import check_anatomy
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN
from nnunetv2_mastpro.config import HostValue

DATASET = {
    "labels": {"background": 0, "liver_tumor": 1},
    "channel_names": {"0": "CT"},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
HOSTS = (HostValue(1, 0, ("liver",), (0,)),)
NAME, DATA = "Dataset004_Liver", "nnUNetPlans_3d_fullres"


def write_volume(path, spacing=1.0):
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    image.SetSpacing((spacing,) * 3)
    sitk.WriteImage(image, path)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Raw and preprocessed folder with plans that ask for maps, one case, its maps; no weights."""
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "weights"))
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    raw, preprocessed = tmp_path / "raw" / NAME, tmp_path / "preprocessed" / NAME
    for folder in (raw, preprocessed / DATA, preprocessed / f"{DATA}_anatomy"):
        folder.mkdir(parents=True)
    (preprocessed / "dataset.json").write_text(json.dumps(DATASET))
    configuration = {"data_identifier": DATA, "previous_stage": "anatomy"}
    (preprocessed / "P.json").write_text(json.dumps({"configurations": {"3d_fullres": configuration}}))
    for split in ("Tr", "Ts"):
        write_volume(raw / f"images{split}" / "a_0000.nii.gz")
        write_volume(raw / f"anatomy{split}" / "a.nii.gz")
    (preprocessed / DATA / "a.pkl").touch()
    np.savez(preprocessed / DATA / "a.npz", data=np.zeros((1, 2, 3, 4)))
    np.savez(preprocessed / f"{DATA}_anatomy" / "a.npz", seg=np.zeros((2, 3, 4)))
    index = {"hosts": host_rows(HOSTS), "cases": {"a": {"values": [1]}}}
    (preprocessed / f"{DATA}_anatomy" / INDEX).write_text(json.dumps(index))
    return raw, preprocessed


def texts(found, status):
    return [finding for finding in found if finding.status == status]


def test_all_there(folders):
    found = [*check_anatomy(*folders)]
    assert [finding.status for finding in found] == [OK, OK, OK, WARN]
    assert "host-organ maps for all 1 cases" in found[0].text
    assert "weights are not there for total" in found[3].text
    assert "--masks does not" in found[3].remedy


def test_weights_that_are_there(folders, tmp_path):
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    for number in (291, 292, 293, 294, 295, 298):
        entry = TASK_ID_WEIGHTS_CONFIGS[number]
        results = tmp_path / "weights" / "nnunet" / "results" / (entry.get("rel_path") or "")
        (results / entry["foldername"]).mkdir(parents=True)
    assert "weights for total" in [*check_anatomy(*folders)][-1].text


def test_plans_without_anatomy_say_nothing(folders):
    (folders[1] / "P.json").write_text(json.dumps({"configurations": {"3d_fullres": {"data_identifier": DATA}}}))
    assert [*check_anatomy(*folders)] == []


def test_a_preprocessed_map_that_is_missing_fails(folders):
    (folders[1] / f"{DATA}_anatomy" / "a.npz").unlink()
    (failed,) = texts(check_anatomy(*folders), FAIL)
    assert "has no map for a; run mastpro anatomy" in failed.text


def test_hosts_that_have_changed_fail(folders):
    content = {**DATASET, "labels": {"background": 0, "kidney_tumor": 1}}
    (folders[1] / "dataset.json").write_text(json.dumps(content))
    (failed,) = texts(check_anatomy(*folders), FAIL)
    assert "made for other host organs" in failed.text


def test_not_preprocessed_is_a_warning(folders):
    (folders[1] / DATA / "a.pkl").unlink()
    found = texts(check_anatomy(*folders), WARN)
    assert f"{DATA} is not preprocessed yet" in found[0].text
    assert "nnUNetv2_preprocess -d 4 -plans_name P" in found[0].remedy


def test_a_configuration_that_nobody_preprocessed_is_left_alone(folders):
    flat = {"data_identifier": "nnUNetPlans_2d", "previous_stage": "anatomy"}
    plans = json.loads((folders[1] / "P.json").read_text())
    plans["configurations"]["2d"] = flat
    (folders[1] / "P.json").write_text(json.dumps(plans))
    assert not [finding for finding in check_anatomy(*folders) if "2d" in finding.text]


@pytest.mark.parametrize("split", ["Tr", "Ts"])
def test_a_missing_map_names_its_case(folders, split):
    (folders[0] / f"anatomy{split}" / "a.nii.gz").unlink()
    found = texts(check_anatomy(*folders), WARN)
    assert "no map for a" in found[0].text
    assert f"anatomy{split}" in found[0].text


def test_a_map_on_another_grid_fails(folders):
    write_volume(folders[0] / "anatomyTs" / "a.nii.gz", spacing=2.0)
    (failed,) = texts(check_anatomy(*folders), FAIL)
    assert "maps on another grid than their image: a.nii.gz" in failed.text


def test_no_host_at_all_fails(folders):
    content = {**DATASET, "mastpro": {"prompts": {"liver_tumor": {"host_structures": []}}}}
    (folders[1] / "dataset.json").write_text(json.dumps(content))
    (failed,) = check_anatomy(*folders)
    assert "has a host structure" in failed.text

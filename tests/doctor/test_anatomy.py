"""The anatomy side of `mastpro doctor`."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.anatomy.preprocessed import INDEX, host_rows
from nnunetv2_mastpro.commands.doctor_anatomy import check_anatomy
from nnunetv2_mastpro.commands.doctor_dataset import check_dataset
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


def write_volume(path, spacing=1.0, value=0):
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.full((2, 3, 4), value, np.uint8))
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
    size = (preprocessed / f"{DATA}_anatomy" / "a.npz").stat().st_size
    index = {"hosts": host_rows(HOSTS), "cases": {"a": {"values": [1], "bytes": size}}}
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
    assert [*check_anatomy(*folders)][-1].text == "TotalSegmentator's weights for total"


def test_weights_for_fast_only(folders, tmp_path):
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    for number in (297, 298):
        entry = TASK_ID_WEIGHTS_CONFIGS[number]
        results = tmp_path / "weights" / "nnunet" / "results" / (entry.get("rel_path") or "")
        (results / entry["foldername"]).mkdir(parents=True)
    assert [*check_anatomy(*folders)][-1].text.endswith("as mastpro anatomy --run needs with --fast")


def test_plans_without_anatomy_say_nothing(folders):
    (folders[1] / "P.json").write_text(json.dumps({"configurations": {"3d_fullres": {"data_identifier": DATA}}}))
    assert [*check_anatomy(*folders)] == []


def test_a_preprocessed_map_that_is_missing_fails(folders):
    (folders[1] / f"{DATA}_anatomy" / "a.npz").unlink()
    (failed,) = texts(check_anatomy(*folders), FAIL)
    assert "has no map for a; run mastpro anatomy" in failed.text
    assert failed.remedy == "trainings without -p P do not need it"


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


@pytest.mark.parametrize("damage", ["missing", "moved"])
def test_the_maps_of_a_merged_set_are_checked(folders, damage):
    """It has no imagesTr: dataset.json names the images."""
    raw, preprocessed = folders
    (raw / "imagesTr").rename(raw.parent / "elsewhere")
    entry = {"images": [str(raw.parent / "elsewhere" / "a_0000.nii.gz")], "label": "a.nii.gz"}
    (preprocessed / "dataset.json").write_text(json.dumps({**DATASET, "dataset": {"a": entry}}))
    if damage == "missing":
        (raw / "anatomyTr" / "a.nii.gz").unlink()
        assert "anatomyTr: no map for a" in texts(check_anatomy(*folders), WARN)[0].text
    else:
        write_volume(raw / "anatomyTr" / "a.nii.gz", spacing=2.0)
        (failed,) = texts(check_anatomy(*folders), FAIL)
        assert "anatomyTr: maps on another grid" in failed.text


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"unfinished": True}, "mastpro anatomy was interrupted in"),
        ({"hosts": [{"value": 1, "structures": ["spleen"]}]}, r"has maps for 1 \(spleen\), wanted are 1 \(liver\)"),
    ],
)
def test_maps_that_prediction_would_refuse_fail(folders, index, message):
    (folders[0] / "anatomyTs" / INDEX).write_text(json.dumps(index))
    (failed,) = texts(check_anatomy(*folders), FAIL)
    assert re.search(message, failed.text)


def test_organ_masks_in_the_place_of_maps_fail(folders):
    write_volume(folders[0] / "anatomyTs" / "a.nii.gz", value=5)
    (failed,) = texts(check_anatomy(*folders), FAIL)
    assert re.search(r"a.nii.gz holds 5, a map only 0 and 1 \(liver\); run mastpro anatomy again", failed.text)


def test_doctor_checks_the_maps_of_its_data_set(folders):
    (folders[0] / "anatomyTs" / "a.nii.gz").unlink()
    (folders[0] / "dataset.json").write_text(json.dumps(DATASET))
    names = {"nnUNet_raw": str(folders[0].parent), "nnUNet_preprocessed": str(folders[1].parent)}
    assert [finding for finding in check_dataset(NAME, names) if "anatomyTs: no map for a" in finding.text]


def test_no_host_at_all_fails(folders):
    content = {**DATASET, "mastpro": {"prompts": {"liver_tumor": {"host_structures": []}}}}
    (folders[1] / "dataset.json").write_text(json.dumps(content))
    (failed,) = check_anatomy(*folders)
    assert "has a host structure" in failed.text


def test_empty_maps_are_told(folders):
    raw, preprocessed = folders
    file = preprocessed / f"{DATA}_anatomy" / INDEX
    index = json.loads(file.read_text())
    index["cases"]["a"]["values"] = []
    file.write_text(json.dumps(index))
    for split, volumes in (("Tr", {"1": 0.2}), ("Ts", {})):
        record = {"made_of": "", "file_bytes": 1, "volumes_ml": volumes, "claimed": 0}
        content = {"hosts": host_rows(HOSTS), "maps": {"a.nii.gz": record}}
        (raw / f"anatomy{split}" / INDEX).write_text(json.dumps(content))
    found = texts(check_anatomy(*folders), WARN)
    assert [finding.text for finding in found[:2]] == [
        f"P.json: {DATA}: empty maps, as of cases without masks: a",
        f"{raw / 'anatomyTs'}: empty maps, as of cases without masks: a.nii.gz",
    ]
    assert "if masks were forgotten" in found[0].remedy

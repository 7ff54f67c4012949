"""What TotalSegmentator is asked for, and which of its weights that takes."""

import numpy as np
import pytest
import SimpleITK as sitk
from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

from nnunetv2_mastpro.anatomy.totalseg import check_structures, check_weights, run_cached, weights_missing
from nnunetv2_mastpro.errors import MASTProError

NEEDED = [  # task, fast, models, commands: as python_api.py loads and totalseg_download_weights fetches them
    ("total", False, [291, 292, 293, 294, 295, 298], ["total"]),
    ("total", True, [297, 298], ["total_fast"]),
    ("total_mr", False, [850, 851, 852], ["total_mr", "total_fast_mr"]),
    ("total_mr", True, [852], ["total_fast_mr"]),
    ("liver_vessels", True, [8, 298], ["liver_vessels", "total_fast"]),
    ("lung_vessels", False, [117, 297], ["lung_vessels", "total_fast"]),
    ("liver_segments_mr", False, [576, 852], ["liver_segments_mr", "total_fast_mr"]),
    ("abdominal_muscles", False, [952, 300], ["abdominal_muscles", "body_fast"]),
    ("teeth", False, [113, 115, 298], ["teeth", "craniofacial_structures", "total_fast"]),
    ("body", False, [299], ["body"]),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("MASTPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def fetch(home, number):
    entry = TASK_ID_WEIGHTS_CONFIGS[number]
    (home / "nnunet" / "results" / (entry.get("rel_path") or "") / entry["foldername"]).mkdir(parents=True)


@pytest.mark.parametrize(("task", "fast", "models", "commands"), NEEDED)
def test_every_model_is_needed_and_no_other(home, task, fast, models, commands):
    for number in models:
        assert weights_missing([task], fast) == [task]
        fetch(home, number)
    assert weights_missing([task], fast) == []
    check_weights([task], fast)


@pytest.mark.parametrize(("task", "fast", "models", "commands"), NEEDED)
def test_the_error_gives_commands_that_fetch_all_of_them(home, task, fast, models, commands):
    from totalsegmentator.bin.totalseg_download_weights import TASK_TO_ID

    with pytest.raises(MASTProError, match=rf"weights for {task} are not in .*--masks") as caught:
        check_weights([task], fast)
    assert str(home) in str(caught.value)
    given = [part.split()[0] for part in str(caught.value).replace(",", " ").replace(";", " ").split(" -t ")[1:]]
    assert sorted(given) == sorted(commands)
    assert {*models} <= {number for name in given for number in TASK_TO_ID[name]}


def test_an_unknown_task_is_refused(home):
    with pytest.raises(MASTProError, match="no task 'livers'.*update it, or use --masks"):
        check_weights(["livers"], False)


def test_a_structure_that_a_task_lacks_is_refused():
    check_structures({"total": ["liver"], "total_mr": ["lung_left", "lung_upper_lobe_left"]})
    with pytest.raises(MASTProError, match="task total has no structure livr; correct host_structures"):
        check_structures({"total": ["liver", "livr"]})
    with pytest.raises(MASTProError, match="task total_mr has no structure skull"):
        check_structures({"total_mr": ["skull"]})
    with pytest.raises(MASTProError, match="no task 'livers'.*update it, or use --masks"):
        check_structures({"livers": ["liver"]})


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_it_gets_a_nifti_and_structures_that_it_knows(home, tmp_path, ending):
    image, asked = tmp_path / f"image{ending}", []
    volume = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    volume.SetOrigin((3.0, 2.0, 1.0))
    sitk.WriteImage(volume, str(image))

    def run(arguments):
        given = sitk.ReadImage(arguments["input"])
        assert given.GetOrigin() == volume.GetOrigin()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(given), sitk.GetArrayFromImage(volume))
        sitk.WriteImage(given, arguments["output"])
        asked.append(arguments)

    folder, case = run_cached(image, {"total_mr": ["lung_upper_lobe_left", "liver"]}, False, "cpu", run)
    assert [entry["roi_subset"] for entry in asked] == [["liver"]]
    assert asked[0]["input"].endswith(".nii.gz")
    assert sorted(path.name for path in folder.iterdir()) == [f"{case}.json", f"{case}.nii.gz"]

"""TotalSegmentator's runs: what it is asked, what is kept, and what is left where it fails."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS
from totalsegmentator.map_to_binary import class_map

from nnunetv2_mastpro.anatomy.masks import of_mri, read_case
from nnunetv2_mastpro.anatomy.totalseg import run_cached, run_totalsegmentator, tasks_of
from nnunetv2_mastpro.errors import MASTProError

TASKS = {"total": ["liver", "colon"], "liver_vessels": ["liver_vessels"]}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "totalsegmentator"


@pytest.fixture
def image(grid, rng, write_volume, tmp_path):
    return write_volume(tmp_path / "case_1_0000.nii.gz", rng.normal(size=grid.size[::-1]).astype(np.float32))


class Runner:
    """In TotalSegmentator's place: the structures asked for, in stripes, as --ml writes them."""

    def __init__(self):
        self.asked = []

    def __call__(self, arguments):
        self.asked.append(arguments)
        image = sitk.ReadImage(arguments["input"])
        numbers = {name: number for number, name in class_map[arguments["task"]].items()}
        values = np.zeros(image.GetSize()[::-1], np.uint8)
        for index, name in enumerate(arguments.get("roi_subset", numbers)):
            values[index] = numbers[name]
        made = sitk.GetImageFromArray(values)
        made.CopyInformation(image)
        sitk.WriteImage(made, arguments["output"])


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("is_ct", "expected"),
    [
        (True, {"total": ["liver", "colon"], "liver_vessels": ["liver_vessels"], "total_mr": ["spleen"]}),
        (False, {"total_mr": ["liver", "colon", "spleen"], "liver_vessels": ["liver_vessels"]}),
    ],
)
def test_tasks_of_ct_and_mr(is_ct, expected):
    structures = ("liver", "liver_vessels:liver_vessels", "total:colon", "total_mr:spleen")
    assert tasks_of(structures, is_ct) == expected


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("device", ["cpu", "gpu:1"])
def test_what_it_is_asked(cache, image, fast, device):
    runner = Runner()
    run_cached(image, TASKS, fast, device, runner)
    for asked in runner.asked:
        assert Path(asked.pop("output")).suffixes == [".nii", ".gz"]
        assert asked.pop("input") == str(image)
    common = {"ml": True, "device": device, "quiet": True}
    assert runner.asked == [
        {"task": "total", "fast": fast, "roi_subset": ["colon", "liver"], **common},
        {"task": "liver_vessels", "fast": False, **common},  # has no fast model
    ]


def test_results_are_found_as_masks(cache, image):
    folder, case = run_cached(image, TASKS, False, "cpu", Runner())
    names = [f"{case}.nii.gz", f"{case}.json", "liver_vessels", f"liver_vessels/{case}.nii.gz"]
    assert files(cache) == sorted(names)
    found = dict(read_case(folder, case, ("liver", "colon", "liver_vessels:liver_vessels"), image, False))
    stripes = {name: int(mask[:, 0, 0].argmax()) for name, mask in found.items() if mask.any()}
    assert stripes == {"colon": 0, "liver": 1, "liver_vessels:liver_vessels": 0}


@pytest.mark.parametrize(
    ("structures", "is_ct"),
    [
        (("liver", "spleen"), False),
        (("liver", "total_mr:spleen"), False),
        (("total_mr:liver", "total_mr:spleen"), True),
        (("total_mr:liver", "spleen"), True),
    ],
)
def test_structures_of_the_mr_task_are_found(cache, image, structures, is_ct):
    def run(arguments):
        Runner()(arguments)
        from nibabel import load
        from totalsegmentator.nifti_ext_header import save_multilabel_nifti

        save_multilabel_nifti(load(arguments["output"]), arguments["output"], dict(class_map[arguments["task"]]))

    folder, case = run_cached(image, tasks_of(structures, is_ct), False, "cpu", run)
    sought = [structure if is_ct else of_mri(structure) for structure in structures]
    found = dict(read_case(folder, case, sought, image, False))
    assert [name for name, mask in found.items() if mask.any()] == sought


def test_a_second_run_takes_what_is_kept(cache, image):
    first = run_cached(image, TASKS, False, "cpu", Runner())
    runner = Runner()
    moved = image.rename(image.with_name("other_0000.nii.gz"))  # the content counts, not the name
    assert run_cached(moved, TASKS, False, "cpu", runner) == first
    assert runner.asked == []


@pytest.mark.parametrize("change", ["image", "speed"])
def test_whatever_changes_the_result_runs_again(cache, grid, image, write_volume, change):
    first = run_cached(image, TASKS, False, "cpu", Runner())
    if change == "image":
        write_volume(image, np.zeros(grid.size[::-1], np.float32))
    runner = Runner()
    second = run_cached(image, TASKS, change == "speed", "cpu", runner)
    assert second[0] == first[0]
    assert second[1] != first[1]
    assert len(runner.asked) == 2
    assert len(files(cache)) == 7


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["colon"], []),  # a model of fewer hosts, such as the second stage of a recipe
        (["colon", "liver"][::-1], []),
        (["spleen"], [["colon", "liver", "spleen"]]),  # with what was there, so that the first model finds all again
    ],
)
def test_structures_that_are_there_are_not_made_again(cache, image, names, asked):
    first = run_cached(image, TASKS, False, "cpu", Runner())
    runner = Runner()
    assert run_cached(image, {**TASKS, "total": names}, False, "cpu", runner) == first
    assert [entry["roi_subset"] for entry in runner.asked] == asked
    runner = Runner()
    run_cached(image, TASKS, False, "cpu", runner)
    assert runner.asked == []


def test_a_result_without_its_note_is_made_again(cache, image):
    """As where the program was killed between the two."""
    _, case = run_cached(image, TASKS, False, "cpu", Runner())
    (cache / f"{case}.json").unlink()
    runner = Runner()
    run_cached(image, TASKS, False, "cpu", runner)
    assert [entry["task"] for entry in runner.asked] == ["total"]


def fail(arguments):
    Path(arguments["output"]).write_bytes(b"half a fi")
    raise MASTProError("it failed")


def interrupt(arguments):
    Path(arguments["output"]).write_bytes(b"half a fi")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("runner", "error", "message"),
    [
        (fail, MASTProError, "it failed"),
        (interrupt, KeyboardInterrupt, "^$"),
        (
            lambda arguments: None,
            MASTProError,
            r"wrote nothing for .*case_1_0000\.nii\.gz; run it by hand, or use --mask",
        ),
    ],
)
def test_a_failed_run_leaves_nothing(cache, image, runner, error, message):
    with pytest.raises(error, match=message):
        run_cached(image, TASKS, False, "cpu", runner)
    assert files(cache) == []


def test_a_run_goes_on_where_the_last_ended(cache, image):
    def second_fails(arguments):
        (Runner() if arguments["task"] == "total" else fail)(arguments)

    with pytest.raises(MASTProError, match="it failed"):
        run_cached(image, TASKS, False, "cpu", second_fails)
    runner = Runner()
    run_cached(image, TASKS, False, "cpu", runner)
    assert [asked["task"] for asked in runner.asked] == ["liver_vessels"]


@pytest.mark.parametrize("name", ["image_0000.nrrd", "1.2.840_0000.nii.gz", "image_0000.mha"])
def test_names_that_it_would_take_for_dicom(cache, image, tmp_path, name):
    """It tells NIfTI by Path.suffixes, which counts every dot."""
    volume, seen = sitk.ReadImage(image), []
    sitk.WriteImage(volume, str(tmp_path / name))

    def run(arguments):
        assert Path(arguments["input"]).suffixes == [".nii", ".gz"]
        seen.append(sitk.GetArrayFromImage(sitk.ReadImage(arguments["input"])))
        Runner()(arguments)

    _, case = run_cached(tmp_path / name, {"total": ["liver"]}, False, "cpu", run)
    np.testing.assert_array_equal(seen, [sitk.GetArrayFromImage(volume)])
    assert files(cache) == [f"{case}.json", f"{case}.nii.gz"]


def test_a_real_failure_is_one_sentence(tmp_path, monkeypatch):
    """Folders in the weights' place keep it from the network; it then misses its input."""
    results = tmp_path / "home" / "nnunet" / "results"
    for number in (297, 298):
        (results / TASK_ID_WEIGHTS_CONFIGS[number]["foldername"]).mkdir(parents=True)
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    arguments = {"input": str(tmp_path / "absent.nii.gz"), "output": str(tmp_path / "out.nii.gz"), "ml": True}
    arguments |= {"task": "total", "fast": True, "device": "cpu", "quiet": True}
    with pytest.raises(MASTProError, match=r"failed on .*absent\.nii\.gz \(.+\); repair what it names") as caught:
        run_totalsegmentator(json.loads(json.dumps(arguments)))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "input" in str(caught.value)

"""`mastpro merge` from its arguments to a data set that nnU-Net takes."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_mastpro.prompts.resolve import foreground_labels
from nnunetv2_mastpro.tasks import read_cases

from .conftest import COLON, KIDNEY, LIVER, ORIGIN_MM, SPACING_MM


def test_labels_are_rewritten_and_cases_say_who_annotated_what(three, capsys):
    before = three.everything()
    assert three.merge("-d", 3, KIDNEY, 10, "--folds", 4) == 0
    content = three.merged.content
    assert content["labels"] == {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3, "colon cancer": 4}
    assert "regions_class_order" not in content
    assert content["numTraining"] == 16
    cases = read_cases(content, foreground_labels(content))
    assert cases.annotated["liver_3"] == ("liver", "liver_tumor")
    assert cases.annotated["kidney_0"] == ("kidney_tumor",)
    assert cases.source_of("colon_2") == COLON
    for case, values in {"liver_0": [0, 1, 2], "kidney_1": [0, 3], "colon_0": [0], "colon_1": [0, 4]}.items():
        assert np.unique(three.merged.label(case)).tolist() == values
    original = sitk.GetArrayFromImage(sitk.ReadImage(three.raw / KIDNEY / "labelsTr" / "kidney_1.nii.gz"))
    np.testing.assert_array_equal(three.merged.label("kidney_1"), original * 3)
    written = sitk.ReadImage(three.merged.folder / "labelsTr" / "kidney_1.nii.gz")
    assert (written.GetOrigin(), written.GetSpacing()) == (ORIGIN_MM, SPACING_MM)
    assert content["dataset"]["colon_0"]["images"] == [f"../{COLON}/imagesTr/colon_0_0000.nii.gz"]
    assert {path: three.everything()[path] for path in before} == before  # the sources stay as they were
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["source", "cases", "value", "class", "annotated", "in", "found", "in", "voxels"]
    assert out[2].split() == [LIVER, "6", "2", "liver_tumor", "6", "6", str(6 * 6 * 6 * 2)]
    assert out[4].split() == [COLON, "4", "4", "colon", "cancer", "4", "3", str(3 * 6 * 6 * 4)]
    assert out[-1] == "  nnUNetv2_plan_and_preprocess -d 900 --verify_dataset_integrity"


def test_dry_run_shows_the_table_and_writes_nothing(three, capsys):
    before = three.everything()
    assert three.merge("-d", 3, 6, "--dry-run") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[3].split() == [KIDNEY, "6", "3", "kidney_tumor", "6", "6", str(6 * 6 * 6 * 2)]
    assert re.fullmatch(r"dry run: nothing was written; it would be \S+/Dataset\d{3}_\w+", out[-1])
    assert three.everything() == before
    assert not three.merged.folder.exists()


def test_nnunet_preprocesses_it(three, run_command):
    assert three.merge("-d", 3, 6, "--folds", 2, "--map", nested(three)) == 0
    root = three.raw.parent
    env = {**os.environ, "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    plan = ["nnUNetv2_plan_and_preprocess", "-d", "900", "-c", "3d_fullres", "-npfp", "1", "-np", "1"]
    done = run_command([*plan, "--verify_dataset_integrity"], env=env)
    assert "verify_dataset_integrity Done" in done.stdout
    folder = root / "nnUNet_preprocessed" / "Dataset900_PanTumour"
    assert len(list((folder / "nnUNetPlans_3d_fullres").glob("*.pkl"))) == 12
    assert json.loads((folder / "dataset.json").read_text())["mastpro"] == three.merged.content["mastpro"]
    label = LabelManager(three.merged.content["labels"], three.merged.content["regions_class_order"])
    assert label.foreground_regions == [(1, 2), 3, 2]


def nested(three):
    path = three.raw.parent / "map.json"
    path.write_text(json.dumps({"nest": {"liver": ["liver_tumor"]}}))
    return path


def test_linked_images_take_the_place_of_the_paths(three):
    assert three.merge("-d", 3, 6, "--link", "--prefix") == 0
    assert "dataset" not in three.merged.content
    image = three.merged.folder / "imagesTr" / "D006_kidney_0_0000.nii.gz"
    assert image.is_symlink()
    assert image.resolve() == (three.raw / KIDNEY / "imagesTr" / "kidney_0_0000.nii.gz").resolve()
    assert three.merge("-d", 3, 6) == 0  # over it
    assert not (three.merged.folder / "imagesTr").exists()
    assert "dataset" in three.merged.content


def test_equal_names_are_told_apart_by_a_prefix(three, capsys):
    three.write("Dataset011_Other", {"kidney_tumor": 1}, {"kidney_0": (40, {1: slice(3, 5)})})
    before = three.everything()
    assert three.merge("-d", 3, 6, 11) == 2
    error = 'the case name "kidney_0" occurs twice, in Dataset006_Kidney and Dataset011_Other, for different'
    assert error in capsys.readouterr().err
    assert three.everything() == before
    assert three.merge("-d", 3, 6, 11, "--prefix") == 0
    assert {"D003_liver_0", "D006_kidney_0", "D011_kidney_0"} < {*three.merged.content["mastpro"]["cases"]}
    assert np.unique(three.merged.label("D011_kidney_0")).tolist() == [0, 3]


def test_equal_names_of_images_of_other_sizes_are_told_before_any_is_read(three, capsys, monkeypatch):
    folder = three.write("Dataset011_Other", {"kidney_tumor": 1}, {"kidney_0": (40, {1: slice(3, 5)})})
    for path in (folder / "imagesTr" / "kidney_0_0000.nii.gz", folder / "labelsTr" / "kidney_0.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(path)[:, :, :-1], path)

    def scan(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("nnunetv2_mastpro.merging.cases._scan", scan)
    assert three.merge("-d", 6, 11) == 2
    assert 'the case name "kidney_0" occurs twice' in capsys.readouterr().err


def test_a_later_run_keeps_the_values_and_what_the_user_added(three, capsys):
    assert three.merge("-d", 6, 10) == 0
    first = three.merged.content
    assert first["labels"] == {"background": 0, "kidney_tumor": 1, "colon cancer": 2}
    first["mastpro"]["prompts"] = {"kidney_tumor": {"sentence": "Mine."}}
    (three.merged.folder / "dataset.json").write_text(json.dumps(first))
    (three.merged.folder / "anatomyTr").mkdir()
    capsys.readouterr()
    assert three.merge("-d", 3, 10, 6) == 0
    content = three.merged.content
    assert content["labels"] == {"background": 0, "kidney_tumor": 1, "colon cancer": 2, "liver": 3, "liver_tumor": 4}
    assert content["mastpro"]["prompts"] == {"kidney_tumor": {"sentence": "Mine."}}
    assert np.unique(three.merged.label("liver_0")).tolist() == [0, 3, 4]
    assert (three.merged.folder / "anatomyTr").is_dir()
    assert "--clean" in capsys.readouterr().out
    assert sorted(path.name for path in three.raw.iterdir() if "900" in path.name) == ["Dataset900_PanTumour"]
    assert three.merge("-d", 3, 10) == 2
    assert 'has the class "kidney_tumor", which no source gives now' in capsys.readouterr().err
    assert three.merged.content == content


def test_prompts_and_ignore_label_of_a_source_are_carried(three):
    mastpro = {"prompts": {"tumor": {"sentence": "A lump."}}, "cases": {"a": {"source": "Paris", "annotated": ["x"]}}}
    labels = {"tumor": 1, "x": 2, "ignore": 3}
    cases = {"a": (50, {2: slice(2, 4), 3: slice(6, 7)}), "b": (51, {1: slice(2, 4)})}
    three.write("Dataset012_More", labels, cases, mastpro=mastpro)
    path = three.raw.parent / "map.yaml"
    path.write_text("sources: {12: {labels: {tumor: lump}}}")
    assert three.merge("-d", 12, 6, "--map", path) == 0
    content = three.merged.content
    assert content["labels"] == {"background": 0, "lump": 1, "x": 2, "kidney_tumor": 3, "ignore": 4}
    assert content["mastpro"]["prompts"] == {"lump": {"sentence": "A lump."}}
    assert content["mastpro"]["cases"]["a"] == {"source": "Paris", "annotated": ["x"]}
    assert content["mastpro"]["cases"]["b"] == {"source": "Dataset012_More", "annotated": ["lump", "x"]}
    assert np.unique(three.merged.label("a")).tolist() == [0, 2, 4]


def test_a_merged_data_set_is_a_source_too(three):
    assert three.merge("-d", 6, 10, output="901", name="First") == 0
    assert three.merge("-d", 3, 901) == 0
    content = three.merged.content
    assert content["labels"] == {"background": 0, "liver": 1, "liver_tumor": 2, "kidney_tumor": 3, "colon cancer": 4}
    assert content["mastpro"]["cases"]["kidney_0"] == {"source": KIDNEY, "annotated": ["kidney_tumor"]}
    assert content["dataset"]["kidney_0"]["images"] == [f"../{KIDNEY}/imagesTr/kidney_0_0000.nii.gz"]


def test_images_elsewhere_are_named_in_full(three, tmp_path):
    (three.raw / KIDNEY / "imagesTr").rename(tmp_path / "images")
    path = three.raw / KIDNEY / "dataset.json"
    content = json.loads(path.read_text())
    images = {f"kidney_{n}": str(tmp_path / "images" / f"kidney_{n}_0000.nii.gz") for n in range(5)}
    content["dataset"] = {case: {"images": [im], "label": f"labelsTr/{case}.nii.gz"} for case, im in images.items()}
    path.write_text(json.dumps(content))
    assert three.merge("-d", 6) == 0
    assert three.merged.content["numTraining"] == 5
    assert three.merged.content["dataset"]["kidney_4"]["images"] == [images["kidney_4"]]


@pytest.mark.parametrize("again", [False, True])
def test_a_failure_leaves_no_half_of_it(three, monkeypatch, again):
    if again:
        assert three.merge("-d", 6) == 0
    before = three.everything()

    def fail(self, seg, file, properties):
        if "liver_4" in file:
            raise OSError("disk full")
        write_seg(self, seg, file, properties)

    write_seg = SimpleITKIO.write_seg
    monkeypatch.setattr(SimpleITKIO, "write_seg", fail)
    assert three.merge("-d", 3, 6) == 2
    assert three.everything() == before
    assert not [path for path in three.raw.iterdir() if path.name.startswith(".")]


def test_what_a_killed_run_left_is_removed(three):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    gone, alive = (three.raw / f".Dataset900_PanTumour.{process}" for process in (done.pid, os.getppid()))
    for folder in (gone, alive, other := three.raw / f".Dataset901_Other.{done.pid}"):
        (folder / "labelsTr").mkdir(parents=True)
    assert three.merge("-d", 6) == 0
    assert (gone.exists(), alive.exists(), other.exists()) == (False, True, True)


def test_workers_give_the_same(three):
    assert three.merge("-d", 6, 10) == 0
    one = {path.name: path.read_bytes() for path in (three.merged.folder / "labelsTr").iterdir()}
    assert three.merge("-d", 6, 10, workers=2) == 0
    assert {path.name: path.read_bytes() for path in (three.merged.folder / "labelsTr").iterdir()} == one


def test_folds_of_another_data_set(three, capsys):
    """Pretraining must not see what the other model is validated on."""
    assert three.merge("-d", 3, KIDNEY, 10, "--folds", 3, output="901", name="All") == 0
    assert three.merge("-d", 3, KIDNEY, "--folds", 3, "--folds-of", 901) == 0
    assert "note: the 12 earlier cases keep their folds, 0 new ones" in capsys.readouterr().out
    path = three.raw.parent / "nnUNet_preprocessed" / "Dataset901_All" / "splits_final.json"
    for both, all_cases in zip(three.merged.splits, json.loads(path.read_text()), strict=True):
        assert set(both["val"]) == {case for case in all_cases["val"] if not case.startswith("colon")}
    assert three.merge("-d", 3, "--folds-of", 10, output="902", name="Other") == 2
    assert "has no folds; give a data set that mastpro merge wrote" in capsys.readouterr().err


def test_the_copy_that_training_reads_is_renewed(three):
    """nnUNetv2_preprocess takes the cases from it, and training what each annotates."""
    assert three.merge("-d", 3) == 0
    copy = three.raw.parent / "nnUNet_preprocessed" / three.merged.folder.name / "dataset.json"
    assert not copy.exists()  # until nnU-Net plans
    copy.write_text(json.dumps(three.merged.content))
    assert three.merge("-d", 3, 6) == 0
    assert json.loads(copy.read_text()) == three.merged.content
    assert "kidney_0" in three.merged.content["mastpro"]["cases"]

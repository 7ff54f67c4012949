"""One image in two sources, and the folds."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.merging import cases
from nnunetv2_mastpro.merging.splits import fold_notes, join, make_splits, read_folds

from .conftest import KIDNEY, LIVER, check_refused

SAME = "Dataset012_Same"


@pytest.fixture
def same(three):
    """A source that has the images of liver_1 and, twice, of liver_2, with its own labels."""
    box = slice(10, 12)
    three.write(SAME, {"spleen": 1}, {"s1": (1, {1: box}), "s2": (2, {1: box}), "s3": (2, {1: box}), "s4": (80, {})})
    return three


def test_duplicates_become_one_case_with_all_annotations(same, capsys):
    assert same.merge("-d", 3, 12) == 0
    content = same.merged.content
    assert content["numTraining"] == 7
    assert content["mastpro"]["cases"]["liver_2"] == {
        "source": LIVER,
        "annotated": ["liver", "liver_tumor", "spleen"],
    }
    assert content["mastpro"]["cases"]["liver_0"]["annotated"] == ["liver", "liver_tumor"]
    assert content["mastpro"]["merge"]["duplicates"] == {
        "liver_1": [f"{LIVER}/liver_1", f"{SAME}/s1"],
        "liver_2": [f"{LIVER}/liver_2", f"{SAME}/s2", f"{SAME}/s3"],
    }
    united = same.merged.label("liver_1")
    assert united[4, 4, [0, 3, 8, 11]].tolist() == [0, 1, 2, 3]
    assert f"duplicate images, united to one case each: {LIVER}/liver_1 = {SAME}/s1, " in capsys.readouterr().out


def test_origins_are_kept_through_a_second_merge(same):
    assert same.merge("-d", 3, 12, output="901", name="First") == 0
    assert same.merge("-d", 901, 6) == 0
    content = same.merged.content
    assert content["mastpro"]["cases"]["liver_1"]["source"] == LIVER
    assert content["mastpro"]["merge"]["duplicates"] == {
        "liver_1": [f"{LIVER}/liver_1", f"{SAME}/s1"],
        "liver_2": [f"{LIVER}/liver_2", f"{SAME}/s2", f"{SAME}/s3"],
    }


def test_kept_duplicates_stay_in_one_fold(same):
    assert same.merge("-d", 3, 12, "--duplicates", "keep") == 0
    assert same.merged.content["numTraining"] == 10
    for split in same.merged.splits:
        for together in ({"liver_1", "s1"}, {"liver_2", "s2", "s3"}):
            assert together <= {*split["val"]} or together <= {*split["train"]}
    assert np.unique(same.merged.label("s1")).tolist() == [0, 3]


def test_equal_name_and_image_are_one_case(three, capsys):
    three.write(SAME, {"spleen": 1}, {"liver_1": (1, {1: slice(10, 12)})})
    check_refused(three, capsys, ["-d", 3, 12, "--duplicates", "keep"], 'the case name "liver_1" occurs twice')
    assert three.merge("-d", 3, 12) == 0
    assert three.merged.content["numTraining"] == 6


def test_voxels_decide_where_the_size_of_one_of_two_images_is_not_known(three, monkeypatch):
    """SimpleITK cannot read all that nibabel reads."""
    three.write(SAME, {"spleen": 1}, {"liver_1": (1, {1: slice(10, 12)})})
    known = cases._size
    monkeypatch.setattr(cases, "_size", lambda case: None if case.source == SAME else known(case))
    assert three.merge("-d", 3, 12) == 0
    assert three.merged.content["mastpro"]["cases"]["liver_1"]["annotated"] == ["liver", "liver_tumor", "spleen"]


def test_other_spacing_is_another_image(three):
    three.write(SAME, {"spleen": 1}, {"s1": (1, {})}, spacing_mm=(1.0, 1.0, 1.0))
    assert three.merge("-d", 3, 12) == 0
    assert three.merged.content["numTraining"] == 7


def test_two_classes_at_one_voxel(three, capsys, tmp_path):
    three.write(SAME, {"lesion": 1}, {"s1": (1, {1: slice(4, 8)})})
    error = f'liver_1 of {LIVER} and s1 of {SAME} are one image, where the same voxels are "liver" and "lesion"'
    check_refused(three, capsys, ["-d", 3, 12], error)
    (tmp_path / "map.yaml").write_text("nest: {liver: [lesion]}")
    assert three.merge("-d", 3, 12, "--map", tmp_path / "map.yaml") == 0
    assert three.merged.content["labels"]["liver"] == [1, 3]
    assert three.merged.label("liver_1")[4, 4, [3, 5, 7, 8]].tolist() == [1, 3, 3, 2]  # the inner class wins


def test_folds_hold_each_case_once_and_no_patient_twice(three, tmp_path):
    (tmp_path / "map.yaml").write_text("patients: '([0-5])$'")  # liver_3, kidney_3 and colon_3 are one patient
    assert three.merge("-d", 3, 6, 10, "--folds", 3, "--map", tmp_path / "map.yaml") == 0
    splits = three.merged.splits
    cases = {*three.merged.content["dataset"]}
    assert sorted(itertools.chain(*(split["val"] for split in splits))) == sorted(cases)
    for split in splits:
        assert {*split["train"]} == cases - {*split["val"]}
        assert not {case[-1] for case in split["train"]} & {case[-1] for case in split["val"]}
    assert three.merge("-d", 3, 6, 10, "--folds", 3, "--map", tmp_path / "map.yaml") == 0
    assert three.merged.splits == splits


def test_patients_of_one_source_are_its_own(three, tmp_path):
    (tmp_path / "map.yaml").write_text(f"sources: {{{KIDNEY}: {{patients: '(.*)_'}}}}")
    assert three.merge("-d", 3, 6, "--folds", 3, "--map", tmp_path / "map.yaml") == 0
    kidneys = [sum(case.startswith("kidney") for case in split["val"]) for split in three.merged.splits]
    assert sorted(kidneys) == [0, 0, 6]


def test_strata_are_spread_over_the_folds():
    sources = {f"{source}_{n}": source for source in "abcde" for n in range(8)}
    types = {case: ["one"] for case in sources}
    groups = {case: place for place, case in enumerate(sources)}
    for split in make_splits(groups, sources, types, 8):
        assert sorted(case[0] for case in split["val"]) == [*"abcde"]


@pytest.mark.parametrize("seed", range(5))
def test_random_groups_are_never_torn(seed):
    rng = np.random.default_rng(seed)
    groups = {f"case_{n}": int(number) for n, number in enumerate(rng.integers(0, 12, 40))}
    sources = {case: str(rng.integers(3)) for case in groups}
    types = {case: [str(rng.integers(4))] for case in groups}
    for split in make_splits(groups, sources, types, 5):
        assert split["val"]
        assert not {groups[case] for case in split["val"]} & {groups[case] for case in split["train"]}


def folds_of(splits):
    return {case: fold for fold, split in enumerate(splits) for case in split["val"]}


def test_a_later_run_keeps_the_folds(three, capsys):
    assert three.merge("-d", 6, 10, "--folds", 4) == 0
    path = three.raw.parent / "nnUNet_preprocessed" / "Dataset900_PanTumour" / "splits_final.json"
    path.write_text(json.dumps(three.merged.splits[::-1]))  # an order that no distribution would give
    first = folds_of(three.merged.splits)
    assert three.merge("-d", 3, 6, 10) == 0
    assert "note: the 10 earlier cases keep their folds, 6 new ones are distributed" in capsys.readouterr().out
    later = folds_of(three.merged.splits)
    assert {case: later[case] for case in first} == first
    assert sorted(Counter(later[f"liver_{n}"] for n in range(6)).values()) == [1, 1, 2, 2]


def test_another_number_of_folds_makes_them_anew(three, capsys):
    assert three.merge("-d", 6, "--folds", 3) == 0
    assert three.merge("-d", 6, "--folds", 2) == 0
    assert "note: the folds were made anew, 2 in the place of 3; models trained" in capsys.readouterr().out
    assert [len(split["val"]) for split in three.merged.splits] == [3, 3]


def test_a_patient_of_two_earlier_folds_goes_to_one(three, capsys):
    assert three.merge("-d", 6, "--folds", 3) == 0
    capsys.readouterr()
    first = folds_of(three.merged.splits)
    one, two = "kidney_0", next(case for case in first if first[case] != first["kidney_0"])
    path = three.raw.parent / "map.yaml"
    path.write_text(f"patients: '^(kidney_)[0{two[-1]}]$'")
    assert three.merge("-d", 6, "--map", path) == 0
    later = folds_of(three.merged.splits)
    assert later[one] == later[two]
    assert {case: later[case] for case in first if case not in (one, two)} == {
        case: fold for case, fold in first.items() if case not in (one, two)
    }
    assert " went to another fold, since a patient" in capsys.readouterr().out


def test_a_fold_that_lost_its_cases_makes_all_anew():
    cases = [f"case_{n}" for n in range(4)]
    groups, sources = {case: place for place, case in enumerate(cases)}, dict.fromkeys(cases, "s")
    earlier = [cases, ["gone"]]
    splits = make_splits(groups, sources, dict.fromkeys(cases, []), 2, earlier)
    assert [len(split["val"]) for split in splits] == [2, 2]
    assert "went to another fold" in fold_notes(splits, earlier)[0]


@pytest.mark.parametrize("content", ["[", "3", '[{"train": []}]', None])
def test_folds_that_cannot_be_read_are_none(tmp_path, content):
    path = tmp_path / "splits_final.json"
    if content is not None:
        path.write_text(content)
    assert read_folds(path) == []


def test_joined_by_way_of_others():
    marks = {"a": ["p"], "b": ["q"], "c": ["p", "image"], "d": ["image", "q"], "e": ["r"]}
    assert join([*"abcde"], marks) == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 1}


def test_fewer_patients_than_folds():
    with pytest.raises(MASTProError, match="--folds 3 is not within 2 and 2, the number of patients"):
        make_splits({"a": 0, "b": 0, "c": 1}, dict.fromkeys("abc", "s"), dict.fromkeys("abc", []), 3)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_an_image_in_another_orientation_stays_in_one_fold(three, capsys, reader):
    """Of other voxels in the file, so that the labels cannot be united."""
    turned = three.write("Dataset013_Turned", {"spleen": 1}, {f"t{n}": (5 - n, {1: slice(3, 6)}) for n in range(6)})
    for path in turned.rglob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "SRA"), path)
    for name in (LIVER, turned.name):
        file = three.raw / name / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "overwrite_image_reader_writer": reader}))
    assert three.merge("-d", 3, 13, "--folds", 3) == 0
    assert three.merged.content["numTraining"] == 12
    for split in three.merged.splits:
        assert {5 - int(case[-1]) for case in split["val"] if case[0] == "t"} == {
            int(case[-1]) for case in split["val"] if case[0] == "l"
        }
    out = capsys.readouterr().out
    assert (
        f"the same images in two orientations, kept, each set in one fold: {LIVER}/liver_0 = Dataset013_Turned/t5"
        in out
    )


def test_folds_of_another_data_set_win_over_those_of_an_earlier_merge(three, capsys):
    assert three.merge("-d", 3, 6, "--folds", 3) == 0
    own = folds_of(three.merged.splits)
    assert three.merge("-d", 3, "--folds", 3, output="901", name="Liver") == 0
    path = three.raw.parent / "nnUNet_preprocessed" / "Dataset901_Liver" / "splits_final.json"
    vals = [split["val"] for split in json.loads(path.read_text())]
    path.write_text(json.dumps([{"train": [], "val": part} for part in (*vals[1:], vals[0])]))
    capsys.readouterr()
    assert three.merge("-d", 3, 6, "--folds-of", 901) == 0
    later = folds_of(three.merged.splits)
    assert {case: later[case] for case in later if case.startswith("liver")} == {
        case: fold for fold, part in enumerate((*vals[1:], vals[0])) for case in part
    }
    assert {case: later[case] for case in later if case.startswith("kid")} == {
        case: own[case] for case in own if case.startswith("kid")
    }
    assert "or --folds-of says so" in capsys.readouterr().out


def test_given_folds_decide_for_a_whole_patient():
    """Else a case would be in train of one stage and in val of the other."""
    groups = {"liver": 0, "kidney": 0, "other": 0, "a": 1, "b": 2}
    sources, types = dict.fromkeys(groups, "s"), dict.fromkeys(groups, [])
    splits = make_splits(groups, sources, types, 2, [["a"], ["liver", "kidney", "other", "b"]], [["liver"], ["a"]])
    assert folds_of(splits) == {"liver": 0, "kidney": 0, "other": 0, "a": 1, "b": 1}

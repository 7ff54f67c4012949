"""Where masks are sought, by the modality of the data set."""

from argparse import Namespace
from contextlib import nullcontext

import numpy as np
import pytest
from totalsegmentator.map_to_binary import class_map

from nnunetv2_mastpro.anatomy import masks, totalseg
from nnunetv2_mastpro.anatomy.cases import Case
from nnunetv2_mastpro.anatomy.source import Source
from nnunetv2_mastpro.errors import MASTProError

NUMBERS = {task: {name: number for number, name in class_map[task].items()} for task in ("total", "total_mr")}


@pytest.fixture
def make_source(tmp_path, grid, write_volume, host):
    """`make_source("MRI", "total_mr")`: masks of esophagus and colon by that task's numbers, without a header."""

    def make(modality, task, folder="", structures=("esophagus", "colon"), key="channel_names"):
        values = np.zeros(grid.size[::-1], np.uint8)
        values[1], values[3] = NUMBERS[task]["esophagus"], NUMBERS[task]["colon"]
        write_volume(tmp_path / "masks" / folder / "a.nii.gz", values)
        image = write_volume(tmp_path / "images" / "a_0000.nii.gz", np.zeros(grid.size[::-1], np.float32))
        args = Namespace(
            masks=tmp_path / "masks", without_masks=False, maker=None, resample=False, lacking_is_absent=False
        )
        hosts = [host(value, structure) for value, structure in enumerate(structures, 1)]
        case = Case("a", (image,), tmp_path / "maps" / "a.nii.gz")
        return Source(args, hosts, {key: {"0": modality}}), case

    return make


@pytest.mark.parametrize(
    ("modality", "task", "folder", "key"),
    [
        ("CT", "total", "", "channel_names"),
        ("MRI", "total_mr", "", "channel_names"),
        ("T1", "total_mr", "total_mr", "channel_names"),
        ("MRI", "total_mr", "", "modality"),
    ],
)
def test_numbers_are_those_of_the_modality(make_source, modality, task, folder, key):
    """Without a header, read with the numbers of the other task, the masks would be of other organs."""
    source, case = make_source(modality, task, folder, key=key)
    source.check([case])
    found = dict(source.read(case))
    assert {name: np.flatnonzero(mask.any((1, 2))).tolist() for name, mask in found.items()} == {
        "esophagus": [1],
        "colon": [3],
    }
    assert NUMBERS["total"]["esophagus"] != NUMBERS["total_mr"]["esophagus"]


def test_what_total_mr_lacks_is_looked_for_in_total(make_source, write_volume, grid):
    """Its number, 12, is the esophagus's in a mask of total_mr."""
    lobe = "lung_upper_lobe_right"
    source, case = make_source("MRI", "total_mr", structures=(lobe, "colon"))
    assert source.sought == {lobe: f"total:{lobe}", "colon": "total_mr:colon"}
    with pytest.raises(MASTProError, match=rf"has no case with {lobe} \(value 1\)"):
        source.check([case])
    values = np.zeros(grid.size[::-1], np.uint8)
    values[2] = NUMBERS["total"][lobe]
    write_volume(source.args.masks / "total" / "a.nii.gz", values)
    source.check([case])
    found = {name: np.flatnonzero(mask.any((1, 2))).tolist() for name, mask in source.read(case)}
    assert found == {lobe: [2], "colon": [3]}


@pytest.mark.parametrize(("modality", "refused"), [("MRI", True), ("CT", False)])
def test_a_host_that_totalsegmentator_cannot_make_is_not_absent(tmp_path, host, monkeypatch, modality, refused):
    monkeypatch.setattr(totalseg, "check_weights", lambda *arguments: None)
    args = Namespace(masks=None, without_masks=False, maker="totalsegmentator", fast=False)
    hosts = [host(1, "liver"), host(2, "lung_upper_lobe_right", "lung_lower_lobe_right")]
    source = Source(args, hosts, {"channel_names": {"0": modality}})
    cases = [Case("a", (tmp_path / "a_0000.nii.gz",), tmp_path / "maps" / "a.nii.gz")]
    lacks = r"makes no lung_upper_lobe_right, lung_lower_lobe_right \(value 2\); use --masks, or set host_structures"
    with pytest.raises(MASTProError, match=lacks) if refused else nullcontext():
        source.check(cases)


def test_a_host_of_ct_may_be_named_with_its_task(make_source):
    source, case = make_source("CT", "total", structures=("total:colon",))
    source.check([case])
    found = {name: np.flatnonzero(mask.any((1, 2))).tolist() for name, mask in source.read(case)}
    assert found == {"total:colon": [3]}


def test_a_host_may_be_named_with_its_task(make_source):
    source, case = make_source("MRI", "total_mr", structures=("colon", "total_mr:colon", "esophagus"))
    source.check([case])
    found = {name: np.flatnonzero(mask.any((1, 2))).tolist() for name, mask in source.read(case)}
    assert found == {"colon": [3], "total_mr:colon": [3], "esophagus": [1]}


@pytest.mark.parametrize(
    ("channels", "seen", "task"),
    [
        ({"0": "PET", "1": "CT"}, 1, "total"),
        ({"0": "CT", "1": "CT"}, 0, "total"),
        ({"0": "T1", "1": "CT"}, 1, "total"),
        ({"0": "T1weighted", "1": "T2"}, 0, "total_mr"),
        ({"0": "PET", "1": "T2"}, 1, "total_mr"),
    ],
)
def test_totalsegmentator_sees_the_ct_or_the_mr_image(tmp_path, host, monkeypatch, channels, seen, task):
    asked = []
    monkeypatch.setattr(totalseg, "check_weights", lambda *arguments: None)
    monkeypatch.setattr(totalseg, "run_cached", lambda *arguments: asked.append(arguments) or (tmp_path, "a"))
    monkeypatch.setattr(masks, "read_case", lambda *arguments: {})
    args = Namespace(
        masks=None, without_masks=False, maker="totalsegmentator", resample=False, fast=True, device="gpu:1"
    )
    source = Source(args, [host(1, "liver")], {"channel_names": channels})
    case = Case("a", (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"), tmp_path / "maps" / "a.nii.gz")
    source.check([case])
    assert dict(source.read(case)) == {}
    assert asked == [(case.images[seen], {task: ["liver"]}, True, "gpu:1")]
    assert source.warnings == [f"TotalSegmentator saw channel {seen:04d} of the images"]


@pytest.mark.parametrize("name", ["PET", "zscore", "PET/CT"])
def test_totalsegmentator_is_not_run_on_what_may_be_no_ct(tmp_path, host, name):
    args = Namespace(masks=None, without_masks=False, maker="totalsegmentator", fast=False)
    source = Source(args, [host(1, "liver")], {"channel_names": {"0": name}})
    with pytest.raises(MASTProError, match="no channel of dataset.json says that it is one; name it in channel_names"):
        source.check([Case("a", (tmp_path / "a_0000.nii.gz",), tmp_path / "maps" / "a.nii.gz")])


@pytest.fixture
def two_cases(tmp_path, grid, write_volume, host):
    """`two_cases(a=[...], b=[...])`: binary files of these structures, the source of them, and the cases."""

    def make(lacking_is_absent=False, structures=("liver", "kidney_left", "kidney_right"), **held):
        values, cases = np.ones(grid.size[::-1], np.uint8), []
        for name, names in held.items():
            image = write_volume(tmp_path / "images" / f"{name}_0000.nii.gz", values)
            cases.append(Case(name, (image,), tmp_path / "maps" / f"{name}.nii.gz"))
            for structure in names:
                write_volume(tmp_path / "masks" / name / f"{structure}.nii.gz", values)
        args = Namespace(
            masks=tmp_path / "masks",
            without_masks=False,
            maker=None,
            resample=False,
            lacking_is_absent=lacking_is_absent,
        )
        hosts = [host(1, structures[0]), host(2, *structures[1:])]
        return Source(args, hosts, {"channel_names": {"0": "CT"}}), cases

    return make


ALL = ["liver", "kidney_left", "kidney_right"]


@pytest.mark.parametrize("lacks", ["liver", "kidney_left"])
def test_a_structure_that_one_case_lacks_is_no_absent_organ(two_cases, lacks):
    """Its tumour would be taken for impossible there; half a pair is as bad."""
    source, cases = two_cases(a=ALL, b=[name for name in ALL if name != lacks])
    with pytest.raises(MASTProError, match=rf"lacks structures that it has for other cases: b \({lacks}\); give their"):
        source.check(cases)


def test_unless_the_user_says_that_it_is_absent(two_cases):
    source, cases = two_cases(lacking_is_absent=True, a=ALL, b=["liver"])
    source.check(cases)
    assert [*dict(source.read(cases[1]))] == ["liver"]
    assert source.warnings == []


def test_a_case_without_any_mask_is_unknown(two_cases):
    source, cases = two_cases(a=ALL, b=[])
    source.check(cases)
    assert "warning: no mask in" in source.warnings[0]


def test_a_structure_that_no_case_has_is_told(two_cases):
    source, cases = two_cases(a=["liver", "kidney_left"], b=["liver", "kidney_left"])
    source.check(cases)
    assert source.warnings == [
        f"warning: no mask of kidney_right in {source.args.masks}; the map has the rest of their hosts"
    ]


def test_host_organ_maps_are_no_masks(two_cases):
    source, cases = two_cases(a=ALL, b=ALL)
    (source.args.masks / "anatomy.json").write_text("{}")
    with pytest.raises(MASTProError, match="holds maps that mastpro anatomy made; give the masks of organs"):
        source.check(cases)

"""Where masks are sought, by the modality of the data set."""

from argparse import Namespace

import numpy as np
import pytest
from totalsegmentator.map_to_binary import class_map

from nnunetv2_mastpro.anatomy import masks, totalseg
from nnunetv2_mastpro.anatomy.cases import Case
from nnunetv2_mastpro.anatomy.source import Source

NUMBERS = {task: {name: number for number, name in class_map[task].items()} for task in ("total", "total_mr")}


@pytest.fixture
def make_source(tmp_path, grid, write_volume, host):
    """`make_source("MRI", "total_mr")`: masks of esophagus and colon by that task's numbers, without a header."""

    def make(modality, task, folder="", structures=("esophagus", "colon"), key="channel_names"):
        values = np.zeros(grid.size[::-1], np.uint8)
        values[1], values[3] = NUMBERS[task]["esophagus"], NUMBERS[task]["colon"]
        write_volume(tmp_path / "masks" / folder / "a.nii.gz", values)
        image = write_volume(tmp_path / "images" / "a_0000.nii.gz", np.zeros(grid.size[::-1], np.float32))
        args = Namespace(masks=tmp_path / "masks", without_masks=False, maker=None, resample=False)
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
    found = source.read(case)
    assert {name: np.flatnonzero(mask.any((1, 2))).tolist() for name, mask in found.items()} == {
        "esophagus": [1],
        "colon": [3],
    }
    assert NUMBERS["total"]["esophagus"] != NUMBERS["total_mr"]["esophagus"]


def test_what_total_mr_lacks_is_looked_for_in_total(make_source):
    source, _ = make_source("MRI", "total", structures=("skull", "colon"))
    assert source.sought == {"skull": "skull", "colon": "total_mr:colon"}


def test_a_host_may_be_named_with_its_task(make_source):
    source, case = make_source("MRI", "total_mr", structures=("colon", "total_mr:colon", "esophagus"))
    source.check([case])
    found = {name: np.flatnonzero(mask.any((1, 2))).tolist() for name, mask in source.read(case).items()}
    assert found == {"colon": [3], "total_mr:colon": [3], "esophagus": [1]}


@pytest.mark.parametrize(
    ("channels", "seen"), [({"0": "PET", "1": "CT"}, 1), ({"0": "CT", "1": "CT"}, 0), ({"0": "T1", "1": "T2"}, 0)]
)
def test_totalsegmentator_sees_the_ct(tmp_path, host, monkeypatch, channels, seen):
    asked = []
    monkeypatch.setattr(totalseg, "check_weights", lambda *arguments: None)
    monkeypatch.setattr(totalseg, "run_cached", lambda image, *rest: asked.append(image) or (tmp_path, "a"))
    monkeypatch.setattr(masks, "read_case", lambda *arguments: {})
    args = Namespace(
        masks=None, without_masks=False, maker="totalsegmentator", resample=False, fast=False, device="cpu"
    )
    source = Source(args, [host(1, "liver")], {"channel_names": channels})
    case = Case("a", (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"), tmp_path / "maps" / "a.nii.gz")
    source.check([case])
    source.read(case)
    assert asked == [case.images[seen]]
    assert source.warnings == [f"TotalSegmentator saw channel {seen:04d} of the images"]

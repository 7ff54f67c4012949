"""The maps that nnUNetv2_predict was given, before it begins."""

import gzip
import json

import numpy as np
import pytest

from nnunetv2_mastpro.anatomy.given import OPTION, check_given_maps
from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.errors import MASTProError

HOSTS = (HostValue(1, 0, ("liver",), (0,)), HostValue(3, 1, ("kidney_left", "kidney_right"), (1,)))
COMMAND = "/somewhere/bin/nnUNetv2_predict"


@pytest.fixture
def given(tmp_path, grid, write_volume):
    """`given(case_1=values, ...)`: arguments of a command whose cases have these maps; None leaves one out."""

    def make(command=COMMAND, on=grid, **maps):
        for folder in ("images", "maps"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, values in maps.items():
            for channel in ("0000", "0001"):
                write_volume(tmp_path / "images" / f"{name}_{channel}.nii.gz", np.zeros(grid.size[::-1], np.int16))
            if values is not None:
                filled = np.resize(np.array(values, np.uint8), on.size[::-1])
                write_volume(tmp_path / "maps" / f"{name}.nii.gz", filled, on)
        (tmp_path / "images" / "notes_0000.txt").write_text("beside the point")
        return [command, "-i", str(tmp_path / "images"), "-o", "out", OPTION, str(tmp_path / "maps"), "-npp", "1"]

    return make


def test_sound_maps_and_empty_ones_pass(given):
    check_given_maps(given(a=[0, 1, 3], **{"b.2": [0]}), HOSTS)


@pytest.mark.parametrize("command", [COMMAND, f"{COMMAND}_from_modelfolder"])
def test_other_values(given, command):
    with pytest.raises(MASTProError, match=r"a.nii.gz holds 5, 90, .* only 0 and 1 \(liver\), 3 \(kidney_left"):
        check_given_maps(given(command, a=[0, 1, 5, 90]), HOSTS)


@pytest.mark.parametrize("images", ["-i {}", "-i={}", "-i{}"])
@pytest.mark.parametrize(
    ("command", "spelling"),
    [
        (COMMAND, "-prev_stage_predictions={} -p Plans"),
        (COMMAND, "-pPlans -prev_stage_predictions {}"),
        (f"{COMMAND}_from_modelfolder", "-prev_stage {}"),
        (f"{COMMAND}_from_modelfolder", "-prev_stage_predictions={}"),
    ],
)
def test_every_spelling_that_nnunet_takes(given, command, spelling, images):
    _, _, folder, *_, maps, _, _ = given(a=[5])
    argv = [command, *images.format(folder).split(), "-o", "out", *spelling.format(maps).split(), "-d", "7"]
    with pytest.raises(MASTProError, match="a.nii.gz holds 5"):
        check_given_maps(argv, HOSTS)


def test_missing_maps_are_all_told(given):
    with pytest.raises(MASTProError, match=r"lacks the maps a.nii.gz, c.nii.gz; give -prev_stage_predictions"):
        check_given_maps(given(a=None, b=[0], c=None), HOSTS)


def test_another_grid(given, grid):
    moved = grid._replace(origin_mm=(0.0, 0.0, 0.0))
    with pytest.raises(MASTProError, match=r"the map .*a.nii.gz has size \(7 6 5\).*, its image a_0000.nii.gz has"):
        check_given_maps(given(on=moved, a=[0]), HOSTS)


def test_a_map_that_ends_early(given, tmp_path, rng):
    """Of all maps, not the first three alone; SimpleITK would give zeros, an organ that is not there."""
    argv = given(**{name: rng.integers(0, 2, 210) for name in "abcd"})
    file = tmp_path / "maps" / "d.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(MASTProError, match=r"d.nii.gz is damaged or ends early .*; give -prev_stage_predictions"):
        check_given_maps(argv, HOSTS)


def test_a_map_of_several_gzip_parts_is_whole(given, tmp_path):
    """As bgzip writes it: the end tells of the last part alone."""
    argv = given(a=[0, 1])
    file = tmp_path / "maps" / "a.nii.gz"
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))
    check_given_maps(argv, HOSTS)


def test_a_folder_that_is_not_there(given):
    wrong = given(a=[0])
    with pytest.raises(MASTProError, match=r"-prev_stage_predictions nomaps is no folder; give"):
        check_given_maps([*wrong[:6], "nomaps"], HOSTS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, ["liver"]), (3, ["kidney_left", "kidney_right"])], None),
        ([(1, ["liver"]), (3, ["kidney_left", "kidney_right"]), (4, ["colon"])], None),  # values tell what is there
        (
            [(1, ["liver"])],
            r"has maps for 1 \(liver\), wanted are 1 \(liver\), 3 \(kidney_left \+ kidney_right\); give",
        ),
        ([(1, ["colon"]), (3, ["kidney_left", "kidney_right"])], r"has maps for 1 \(colon\), 3"),
        ("x", r"anatomy.json cannot be read"),
    ],
)
def test_maps_of_a_model_with_other_hosts(given, tmp_path, rows, message):
    """As those of the model below an unpacked one: the new type's host would be nowhere."""
    argv = given(a=[0, 1])
    hosts = rows if isinstance(rows, str) else [{"value": value, "structures": names} for value, names in rows]
    (tmp_path / "maps" / "anatomy.json").write_text(json.dumps({"hosts": hosts}))
    if message is None:
        check_given_maps(argv, HOSTS)
        return
    with pytest.raises(MASTProError, match=message):
        check_given_maps(argv, HOSTS)


def test_maps_of_an_interrupted_run(given, tmp_path):
    """Some may be of an earlier one, for other hosts."""
    argv = given(a=[0, 1])
    (tmp_path / "maps" / "anatomy.json").write_text(json.dumps({"unfinished": True}))
    with pytest.raises(MASTProError, match="mastpro anatomy was interrupted in .*maps; run it again"):
        check_given_maps(argv, HOSTS)


def test_what_is_nnunets_to_tell_is_passed_over(given, tmp_path):
    wrong = given(a=[9])
    check_given_maps(["mastpro", *wrong[1:]], HOSTS)
    check_given_maps(wrong[:-4], HOSTS)  # no maps at all
    check_given_maps([*wrong[:2], "nowhere", *wrong[3:]], HOSTS)
    check_given_maps([], HOSTS)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "some_notes.txt").write_text("no image")
    check_given_maps([*wrong[:2], str(tmp_path / "none"), *wrong[3:]], HOSTS)

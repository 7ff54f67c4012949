"""What a merge tells of its sources, labels and cases."""

import json

import SimpleITK as sitk

from .conftest import LIVER


def test_a_later_run_tells_whose_cases_leave(three, capsys):
    three.write("Dataset012_More", {"kidney_tumor": 1}, {"more_0": (70, {1: slice(2, 4)})})
    assert three.merge("-d", 6, 12) == 0
    assert "leave" not in capsys.readouterr().out
    assert three.merge("-d", 6, "--dry-run") == 0
    assert "-d no longer names Dataset012_More, whose cases leave the data set" in capsys.readouterr().out


def test_a_prompt_that_is_overruled_is_told(three, capsys):
    """By the first source, and by an earlier merge."""
    for number, seed, text in ((12, 60, "A lump."), (13, 61, "A stone.")):
        mastpro = {"prompts": {"thing": {"sentence": text}}}
        three.write(f"Dataset0{number}_More", {"thing": 1}, {f"c{number}": (seed, {1: slice(2, 4)})}, mastpro=mastpro)
    assert three.merge("-d", 12, 13, 6) == 0
    assert "note: the prompt of thing stays as it is, Dataset013_More has another; correct" in capsys.readouterr().out
    assert three.merged.content["mastpro"]["prompts"] == {"thing": {"sentence": "A lump."}}
    file = three.raw / "Dataset012_More" / "dataset.json"
    file.write_text(file.read_text().replace("A lump.", "A knot."))
    assert three.merge("-d", 12, 13, 6) == 0
    assert "stays as it is, Dataset012_More, Dataset013_More has another" in capsys.readouterr().out
    assert three.merged.content["mastpro"]["prompts"] == {"thing": {"sentence": "A lump."}}


def test_names_that_need_their_source_are_told(three, capsys):
    three.write("Dataset012_Lung", {"cancer": 1}, {"lung_0": (60, {1: slice(2, 4)})})
    assert three.merge("-d", 12, 6, "--dry-run") == 0
    assert (
        'the knowledge base knows no "cancer" (lung_tumor) by that name alone: correct the map'
        in capsys.readouterr().out
    )


def test_holes_that_a_dropped_label_leaves_are_told(three, tmp_path, capsys):
    boxes = {1: slice(0, 4), 2: slice(4, 6), 3: slice(6, 8)}
    three.write(
        "Dataset012_KiTS",
        {"kidney": 1, "kidney_tumor": 2, "kidney_cyst": 3},
        {"kits_0": (61, boxes), "kits_1": (62, boxes)},
    )
    file = tmp_path / "map.json"
    sources = {"Dataset012_KiTS": {"labels": {"kidney_cyst": None}}}
    file.write_text(json.dumps({"sources": sources, "nest": {"kidney": ["kidney_tumor"]}}))
    assert three.merge("-d", 12, "--map", file, "--folds", 2, "--dry-run") == 0
    said = "note: voxels of kidney_cyst in Dataset012_KiTS become background, also inside kidney"
    assert said in capsys.readouterr().out
    sources["Dataset012_KiTS"]["labels"]["kidney_cyst"] = "kidney"
    file.write_text(json.dumps({"sources": sources, "nest": {"kidney": ["kidney_tumor"]}}))
    assert three.merge("-d", 12, "--map", file, "--folds", 2, "--dry-run") == 0
    assert said not in capsys.readouterr().out


def test_a_label_whose_header_puts_it_elsewhere_is_told(three, capsys):
    path = three.raw / LIVER / "labelsTr" / "liver_3.nii.gz"
    label = sitk.ReadImage(path)
    label.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(label, path)
    assert three.merge("-d", 3, 6) == 0
    told = f"warning: label and image differ in origin or direction, which nnU-Net overlooks, in {LIVER}/liver_3; see"
    assert told in capsys.readouterr().out


def test_a_class_of_which_only_the_name_is_known_is_told(three, capsys):
    """It owns no experts and has no host, which a tumour would miss."""
    three.write("Dataset012_More", {"xanthoma": 1, "spleen": 2}, {"a": (60, {1: slice(2, 4), 2: slice(5, 6)})})
    assert three.merge("-d", 6, 12, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "note: nothing but the name is known of xanthoma, which so counts as no tumour type" in shown


def test_a_merge_that_is_renewed_says_so(three, capsys):
    assert three.merge("-d", 3, 6) == 0
    assert f"wrote {three.merged.folder} and " in capsys.readouterr().out
    assert three.merge("-d", 3, 6, 10) == 0
    shown = capsys.readouterr().out
    assert f"renewed {three.merged.folder} and " in shown
    assert "--clean    # --clean: nnU-Net would keep what it read of the earlier merge" in shown

"""`mastpro postprocess` from folders of predictions to folders of predictions."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.config import ClassSpec, HostValue, MASTProConfig, Resolved

SHAPE, SPACING_MM = (6, 30, 20), (2.0, 1.0, 5.0)  # z y x; x y z
LABELS = {"background": 0, "liver_tumor": 1, "kidney_tumor": 2, "thing": 3}
CLASSES = ("liver_tumor", "kidney_tumor", "thing")
HOSTS = (HostValue(1, 0, ("liver",), (0,)), HostValue(2, 1, ("kidney_left",), (1,)))


def resolved(hosts=HOSTS):
    return Resolved(tuple(ClassSpec(label, label, True) for label in CLASSES), 1, has_background=True, hosts=hosts)


def write_image(path, values, origin=(7.0, -3.0, 11.5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values.astype(np.uint8))
    image.SetSpacing(SPACING_MM)
    image.SetOrigin(origin)
    image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, path)


def read_image(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def write_json(path, content):
    path.write_text(json.dumps(content))


def make_case(name):
    """Prediction, map, truth. `known`: a true lesion and false ones; `unknown`: the same, without a map."""
    segmentation, host_map, truth = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    segmentation[0:2, 2:6, 2:6] = truth[0:2, 2:6, 2:6] = 1
    segmentation[5, 25:29, 10:14] = 1  # far from the liver
    segmentation[3, 20, 18] = 2
    segmentation[5, 0, 19] = 3  # no host
    if name == "known":
        host_map[0:3, 0:12, 0:9], host_map[5, 0:3, 0:3] = 1, 2
    return segmentation, host_map, truth


def write_folders(root, ending=".nii.gz", reader="SimpleITKIO"):
    """Folders `predictions`, `maps`, `truth` of two cases."""
    for name in ("known", "unknown"):
        for folder, values in zip(("predictions", "maps", "truth"), make_case(name), strict=True):
            write_image(root / folder / f"{name}{ending}", values)
    dataset_json = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ending, "numTraining": 1}
    write_json(root / "predictions" / "dataset.json", dataset_json)
    block = MASTProConfig(resolved=resolved()).to_dict()
    plans = {"image_reader_writer": reader, "label_manager": "LabelManager", "mastpro": block}
    write_json(root / "predictions" / "plans.json", plans)
    return root


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


def postprocess(root, *arguments, output="output"):
    given = ["-i", root / "predictions", "-o", root / output, "--maps", root / "maps", "-np", "1"]
    return cli.main(["postprocess", *map(str, given), *map(str, arguments)])


def cleaned(name):
    segmentation, _, _ = make_case(name)
    if name == "known":
        segmentation[5, 25:29, 10:14] = segmentation[3, 20, 18] = 0
    return segmentation


@pytest.mark.parametrize(
    ("ending", "reader"), [(".nii.gz", "SimpleITKIO"), (".nrrd", "SimpleITKIO"), (".nii.gz", "NibabelIOWithReorient")]
)
def test_folder(tmp_path, capsys, ending, reader):
    root = write_folders(tmp_path, ending, reader)
    assert postprocess(root) == 0
    for name in ("known", "unknown"):
        before, after = (sitk.ReadImage(root / folder / f"{name}{ending}") for folder in ("predictions", "output"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(after), cleaned(name))
        for geometry in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(after, geometry)(), getattr(before, geometry)(), atol=1e-5)
    written = sorted(path.name for path in (root / "output").iterdir())
    assert written == sorted(["dataset.json", f"known{ending}", "plans.json", "removed.json", f"unknown{ending}"])
    for name in ("dataset.json", "plans.json"):
        assert (root / "output" / name).read_text() == (root / "predictions" / name).read_text()
    report = json.loads((root / "output" / "removed.json").read_text())
    assert report == {
        "margin_mm": 10.0,
        "cases": {
            "known": {
                "liver_tumor": {"components": 1, "voxels": 16, "ml": 0.16, "host_voxels": 324},
                "kidney_tumor": {"components": 1, "voxels": 1, "ml": 0.01, "host_voxels": 9},
            },
            "unknown": {},
        },
        "classes_left_alone": ["thing"],
        "cases_left_alone": ["unknown"],
    }
    out = capsys.readouterr().out
    assert "known  liver_tumor   1           16      0.16" in out
    assert "left alone, no host structure: thing" in out
    assert "left alone, empty map, so the organs are unknown: unknown" in out


def test_wide_margin_removes_nothing_and_says_so(folders, capsys):
    assert postprocess(folders, "--margin-mm", "80") == 0
    for name in ("known", "unknown"):
        np.testing.assert_array_equal(read_image(folders / "output" / f"{name}.nii.gz"), make_case(name)[0])
    assert "all   liver_tumor   0           0       0.00" in capsys.readouterr().out


def test_again_removes_nothing_and_leaves_no_old_report(folders):
    assert postprocess(folders) == 0
    (folders / "output" / "summary.json").write_text("{}")  # of a run with -ref
    assert postprocess(folders) == 0
    assert not (folders / "output" / "summary.json").exists()
    shutil.rmtree(folders / "predictions")
    (folders / "output").rename(folders / "predictions")
    assert postprocess(folders) == 0
    report = json.loads((folders / "output" / "removed.json").read_text())
    assert [entry["components"] for entry in report["cases"]["known"].values()] == [0, 0]


def test_interruption_leaves_whole_files(folders, monkeypatch):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def interrupted(self, segmentation, path, properties):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    output = folders / "output"
    assert postprocess(folders) == 0
    before = (output / "known.nii.gz").read_bytes()
    monkeypatch.setattr(SimpleITKIO, "write_seg", interrupted)
    assert postprocess(folders) == cli.RC_INTERRUPTED
    assert (output / "known.nii.gz").read_bytes() == before
    assert [path for path in output.iterdir() if path.name.startswith(".")] == []


def break_map(root, **values):
    write_image(root / "maps" / "unknown.nii.gz", **{"values": make_case("unknown")[1], **values})


def change_plans(root, change):
    path = root / "predictions" / "plans.json"
    plans = json.loads(path.read_text())
    change(plans)
    write_json(path, plans)


FRACTION = np.full(SHAPE, 0.5, np.float32)


def cut_map(root):
    """Which SimpleITK reads as zeros from there on: no organ, so that true findings would go."""
    file = root / "maps" / "unknown.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])


BAD = {
    "maps of another model": (
        lambda root: (root / "maps" / "anatomy.json").write_text('{"hosts": [{"value": 1, "structures": ["spleen"]}]}'),
        r"maps has maps for 1 \(spleen\), wanted are .*; make them anew with mastpro anatomy",
    ),
    "missing map": (lambda root: (root / "maps" / "unknown.nii.gz").unlink(), "lacks unknown.nii.gz"),
    "shape": (lambda root: break_map(root, values=np.zeros((6, 30, 21))), r"shape \(6, 30, 21\), not \(6, 30, 20\)"),
    "origin": (lambda root: break_map(root, origin=(7.0, -3.0, 11.6)), r"unknown.nii.gz does not lie on .*origin"),
    "value": (lambda root: break_map(root, values=np.full(SHAPE, 3)), "has the values 3, the model knows 0, 1, 2"),
    "fraction": (
        lambda root: sitk.WriteImage(sitk.GetImageFromArray(FRACTION), root / "maps" / "unknown.nii.gz"),
        "values that are not whole numbers",
    ),
    "no map": (lambda root: (root / "maps" / "unknown.nii.gz").write_bytes(b"junk"), "unknown.nii.gz is damaged"),
    "cut map": (cut_map, "maps/unknown.nii.gz is damaged or ends early"),
    "no predictions": (
        lambda root: [path.unlink() for path in (root / "predictions").glob("*.nii.gz")],
        "no files that end with .nii.gz",
    ),
    "no plans": (lambda root: (root / "predictions" / "plans.json").unlink(), "has no plans.json"),
    "stock": (lambda root: change_plans(root, lambda plans: plans.pop("mastpro")), "not predicted by a MAST-Pro model"),
    "no host": (
        lambda root: change_plans(root, lambda plans: plans["mastpro"]["resolved"].update(hosts=[])),
        "knows no host organ of a tumour class",
    ),
}


def test_a_model_without_organ_masks_has_the_table_of_its_classes(folders):
    """Trained on text alone, but its classes have hosts."""

    def forget_the_table(plans):
        known = plans["mastpro"]["resolved"]
        for entry, hosts in zip(known["classes"], (["liver"], ["kidney_left"], []), strict=True):
            entry["host_structures"] = hosts
        known["hosts"] = []

    change_plans(folders, forget_the_table)
    assert postprocess(folders) == 0
    np.testing.assert_array_equal(read_image(folders / "output" / "known.nii.gz"), cleaned("known"))


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_are_refused_before_a_file_is_written(folders, capsys, kind):
    prepare, match = BAD[kind]
    prepare(folders)
    (folders / "output").mkdir()
    (folders / "output" / "known.nii.gz").write_bytes(b"old")
    assert postprocess(folders) == 2
    assert re.search(match, capsys.readouterr().err)
    assert [path.read_bytes() for path in (folders / "output").iterdir()] == [b"old"]


@pytest.mark.parametrize(
    ("arguments", "output", "match"),
    [
        ([], "predictions", "-o is the folder of -i"),
        ([], "maps", "-o is the folder of --maps"),
        (["-ref", "truth"], "truth", "-o is the folder of -ref"),
        ([], "others", "holds other cases, such as other.nii.gz"),
        (["--margin-mm", "-1"], "output", "--margin-mm -1 is no distance"),
        (["--margin-mm", "nan"], "output", "--margin-mm nan is no distance"),
        (["-np", "0"], "output", "-np 0 is below 1"),
        (["-ref", "others"], "output", "lacks known.nii.gz, unknown.nii.gz"),
        (["-ref", "nowhere"], "output", "-ref nowhere is no folder; give one with a file per prediction"),
        (["-ref", "cut"], "output", "shape (6, 30, 21), not"),
        (["-ref", "moved"], "output", "images with -ref"),
    ],
)
def test_bad_arguments(folders, monkeypatch, capsys, arguments, output, match):
    write_image(folders / "others" / "other.nii.gz", np.zeros(SHAPE))
    for name in ("known", "unknown"):
        write_image(folders / "cut" / f"{name}.nii.gz", np.zeros((6, 30, 21)))
        write_image(folders / "moved" / f"{name}.nii.gz", np.zeros(SHAPE), origin=(500.0, -3.0, 11.5))
    monkeypatch.chdir(folders)
    assert postprocess(folders, *arguments, output=output) == 2
    assert match in capsys.readouterr().err
    assert not (folders / "output").exists()


def test_reference(folders, capsys):
    """nnU-Net's Dice before and after, in which a kidney tumour that was made up is 0."""
    assert postprocess(folders, "-ref", folders / "truth") == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if " -> " in line}
    assert rows["liver_tumor"] == "2 0.800 -> 0.900 0.16 -> 0.08"
    assert rows["kidney_tumor"] == "0 0.000 -> 0.000 0.01 -> 0.01"
    report = json.loads((folders / "output" / "removed.json").read_text())
    assert report["false_positive_ml"]["known"]["liver_tumor"] == pytest.approx([0.16, 0.0])
    assert report["false_positive_ml"]["unknown"]["liver_tumor"] == pytest.approx([0.16, 0.16])
    summary = json.loads((folders / "output" / "summary.json").read_text())
    assert summary["mean"]["1"]["Dice"] == pytest.approx(0.9)
    assert not (folders / "predictions" / "summary.json").exists()


def test_what_a_case_does_not_annotate_is_no_false_positive(folders, capsys):
    path = folders / "predictions" / "dataset.json"
    cases = {"known": {"annotated": ["kidney_tumor"]}}
    write_json(path, json.loads(path.read_text()) | {"mastpro": {"cases": cases}})
    assert postprocess(folders, "-ref", folders / "truth") == 0
    out = capsys.readouterr().out
    assert "warning: 1 of 2 cases are not in mastpro.cases" in out
    (row,) = (line for line in out.splitlines() if line.startswith("liver_tumor") and " -> " in line)
    assert row.split() == [
        "liver_tumor",
        "1",
        "0.800",
        "->",
        "0.800",
        "0.16",
        "->",
        "0.16",
    ]  # of the case "unknown" alone
    summary = json.loads((folders / "output" / "summary.json").read_text())
    assert summary["mastpro"]["per_class"]["liver_tumor"]["left_out"] == 1
    assert "mastpro" not in json.loads((folders / "output" / "summary_nnunet.json").read_text())
    assert postprocess(folders) == 0
    assert not [*(folders / "output").glob("summary*.json")]  # of other predictions
    (folders / "cases.json").write_text(json.dumps({"unknown": {"annotated": ["thign"]}}))
    assert postprocess(folders, "-ref", folders / "truth", "--cases", folders / "cases.json") == 2
    assert f'--cases {folders / "cases.json"}["unknown"]: "thign" is no class' in capsys.readouterr().err
    (folders / "cases.json").write_text(json.dumps({"unknown": {"annotated": ["thing"]}}))
    assert postprocess(folders, "-ref", folders / "truth", "--cases", folders / "cases.json") == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    assert not [line for line in out.splitlines() if line.startswith("liver_tumor") and " -> " in line]


@pytest.mark.slow
def test_nnunet_goes_on_from_here(folders, run_command):
    """The console script with two processes; nnU-Net's own postprocessing on what it wrote."""
    output, applied = folders / "output", folders / "applied"
    given = ["-i", folders / "predictions", "-o", output, "--maps", folders / "maps", "-ref", folders / "truth"]
    run_command(["mastpro", "postprocess", *given, "-np", "2"])
    for name in ("known", "unknown"):
        np.testing.assert_array_equal(read_image(output / f"{name}.nii.gz"), cleaned(name))
    (folders / "maps" / "known.nii.gz").write_bytes(b"junk")
    done = run_command(["mastpro", "postprocess", *given, "-np", "2"], rc=2)
    assert "known.nii.gz is damaged or ends early" in done.stderr
    run_command(["nnUNetv2_determine_postprocessing", "-i", output, "-ref", folders / "truth", "-np", "1"])
    steps = output / "postprocessing.pkl"
    run_command(["nnUNetv2_apply_postprocessing", "-i", output, "-o", applied, "-pp_pkl_file", steps, "-np", "1"])
    assert sorted(path.name for path in applied.glob("*.nii.gz")) == ["known.nii.gz", "unknown.nii.gz"]

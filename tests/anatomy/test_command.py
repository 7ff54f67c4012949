"""`mastpro anatomy` in a process of its own, on a small CT data set with masks of its organs."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.config import ClassSpec, MASTProConfig, Resolved

NAME = "Dataset321_Organs"
SHAPE = (8, 10, 12)
NUMBERS = {"liver": 5, "kidney_right": 2, "kidney_left": 3, "spleen": 1}  # in TotalSegmentator's task "total"
VALUES = {"liver": 1, "kidney_right": 2, "kidney_left": 2}  # liver_tumor is label 1, kidney_tumor 2
CASES = {"a": "Tr", "b": "Tr", "c": "Tr", "d": "Ts"}
SPACING_MM = (1.0, 1.5, 3.0)


def dataset_json(channel="CT"):
    labels = {"background": 0, "liver_tumor": 1, "kidney_tumor": 2}
    return {"channel_names": {"0": channel}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}


def write(path, values, origin_mm=(5.0, -7.0, 9.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin(origin_mm)
    sitk.WriteImage(image, str(path))


def read(folder):
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in sorted(folder.glob("*.nii.gz"))}


class Lab:
    """A data set, its masks, and the command."""

    def __init__(self, workspace, run_command, folder, channel="CT"):
        self.workspace, self.run_command = workspace, run_command
        self.raw, self.masks, rng = workspace.raw / NAME, folder / "masks", np.random.default_rng(0)
        self.organs, self.images = {}, {}
        for case, kind in CASES.items():
            values = rng.choice([0, *NUMBERS.values()], SHAPE, p=[0.96, 0.01, 0.01, 0.01, 0.01]).astype(np.uint8)
            image = rng.normal(100, 9, SHAPE).astype(np.float32)
            image[:, :3], image[2:6, 5:8, 5:8] = 0, 0  # air; a hole, which nnU-Net fills
            self.organs[case], self.images[case] = values, image
            write(self.raw / f"images{kind}" / f"{case}_0000.nii.gz", image)
            write(self.raw / f"labels{kind}" / f"{case}.nii.gz", np.zeros(SHAPE, np.uint8))
            write(self.masks / f"{case}.nii.gz", values)
        (self.raw / "dataset.json").write_text(json.dumps(dataset_json(channel)))

    def __call__(self, *arguments, rc=0):
        return self.run_command(["mastpro", "anatomy", *arguments], env=self.workspace.env, rc=rc)

    def refused(self, *arguments):
        """The error, which is one line; nothing was written."""
        before = sorted(self.raw.parent.parent.rglob("*"))
        done = self(*arguments, rc=2)
        assert sorted(self.raw.parent.parent.rglob("*")) == before
        assert "Traceback" not in done.stderr
        return done.stderr

    def expected(self, case):
        values = np.zeros(SHAPE, np.uint8)
        for index in np.ndindex(SHAPE):
            name = next((n for n, number in NUMBERS.items() if number == self.organs[case][index]), None)
            values[index] = VALUES.get(name, 0)
        return values


@pytest.fixture
def lab(workspace, run_command, tmp_path):
    return Lab(workspace, run_command, tmp_path)


def test_maps_of_training_and_test_images(lab):
    done = lab("-d", "321", "--masks", lab.masks)
    for kind, names in (("Tr", "abc"), ("Ts", "d")):
        np.testing.assert_equal(read(lab.raw / f"anatomy{kind}"), {f"{n}.nii.gz": lab.expected(n) for n in names})
        for name in names:
            made = sitk.ReadImage(lab.raw / f"anatomy{kind}" / f"{name}.nii.gz")
            image = sitk.ReadImage(lab.raw / f"images{kind}" / f"{name}_0000.nii.gz")
            for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(made, ask)() == getattr(image, ask)()
    median_ml = np.median([(lab.expected(case) == 2).sum() for case in CASES]) * np.prod(SPACING_MM) / 1000
    row = next(line for line in done.stdout.splitlines() if line.endswith("kidney_right, kidney_left"))
    assert re.split(r" {2,}", row) == ["2", "kidney_tumor", "4 of 4", f"{median_ml:.1f}", "kidney_right, kidney_left"]
    assert "run mastpro plan -d" in done.stdout
    assert "warning" not in done.stdout


def test_a_second_run_gives_the_same_files(lab):
    def hashes():
        files = [path for path in lab.workspace.raw.parent.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    lab("-d", NAME, "--masks", lab.masks)
    first = hashes()
    assert not [name for name in first if "/." in name.removeprefix(str(lab.workspace.raw.parent))]
    lab("-d", NAME, "--masks", lab.masks)
    assert hashes() == first


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_interrupted_run_is_gone_on_with(lab, processes):
    """What was made of the same files in the same way stays; the table at the end is that of all."""
    whole = (lab.masks / "c.nii.gz").read_bytes()
    (lab.masks / "c.nii.gz").write_bytes(whole[:-12])
    done = lab("-d", "321", "--masks", lab.masks, "-np", processes, rc=2)
    assert "c.nii.gz is damaged or ends early" in done.stderr
    made = times(lab.raw / "anatomyTr")
    assert {"a.nii.gz", "b.nii.gz"} <= {*made}
    assert "c.nii.gz" not in made
    done = lab("-d", "321", "-i", lab.raw / "imagesTr", "-o", lab.raw / "anatomyTr", "--masks", lab.masks, rc=2)
    assert "c.nii.gz is damaged" in done.stderr  # and before that no word of other hosts
    (lab.masks / "c.nii.gz").write_bytes(whole)
    done = lab("-d", "321", "--masks", lab.masks, "-np", processes)
    now = times(lab.raw / "anatomyTr")
    assert {name: now[name] for name in ("a.nii.gz", "b.nii.gz")} == {n: made[n] for n in ("a.nii.gz", "b.nii.gz")}
    assert re.search(r"^[23] of 4 maps were there, made of the same files in the same way$", done.stdout, re.MULTILINE)
    assert "4 of 4" in done.stdout
    np.testing.assert_equal(read(lab.raw / "anatomyTr"), {f"{n}.nii.gz": lab.expected(n) for n in "abc"})


def test_a_training_and_a_test_case_of_one_name_are_two(lab):
    """The map of the one is made again, the other's stays, and both are counted."""
    write(lab.raw / "imagesTs" / "a_0000.nii.gz", lab.images["a"])
    assert "5 of 5" in lab("-d", "321", "--masks", lab.masks).stdout
    before = times(lab.raw / "anatomyTs")
    write(lab.raw / "imagesTr" / "a_0000.nii.gz", lab.images["a"] + 1)
    done = lab("-d", "321", "--masks", lab.masks)
    assert "4 of 5 maps were there" in done.stdout
    assert times(lab.raw / "anatomyTs") == before


@pytest.mark.parametrize("change", ["mask", "image", "dilation", "hosts", "map", "modality"])
def test_what_has_changed_is_made_again(lab, change):
    """Of another modality, masks without a header are read by other numbers."""
    if change == "modality":
        (lab.raw / "dataset.json").write_text(json.dumps(dataset_json("noNorm")))
    lab("-d", "321", "--masks", lab.masks)
    before, more = times(lab.raw / "anatomyTr"), []
    if change == "mask":
        lab.organs["b"] = np.flip(lab.organs["b"], 1)
        write(lab.masks / "b.nii.gz", lab.organs["b"])
    if change == "image":
        write(lab.raw / "imagesTr" / "b_0000.nii.gz", lab.images["b"] + 1)
    if change == "dilation":
        more = ["--dilate-mm", "2"]
    if change == "hosts":
        content = dataset_json()
        content["mastpro"] = {"prompts": {"kidney_tumor": {"host_structures": ["kidney_left"]}}}
        (lab.raw / "dataset.json").write_text(json.dumps(content))
    if change == "modality":
        (lab.raw / "dataset.json").write_text(json.dumps(dataset_json("MRI")))
    if change == "map":
        (lab.raw / "anatomyTr" / "b.nii.gz").unlink()
    lab("-d", "321", "--masks", lab.masks, *more)
    now = times(lab.raw / "anatomyTr")
    again = {name for name in now if now[name] != before[name]}
    assert again == ({*now} if change in ("dilation", "hosts", "modality") else {"b.nii.gz"})
    if change in ("mask", "image", "map"):
        np.testing.assert_equal(read(lab.raw / "anatomyTr"), {f"{n}.nii.gz": lab.expected(n) for n in "abc"})


def test_a_case_without_masks_gets_an_empty_map_and_is_named(lab):
    (lab.masks / "b.nii.gz").unlink()
    done = lab("-d", "321", "--masks", lab.masks)
    expected = {"a.nii.gz": lab.expected("a"), "b.nii.gz": np.zeros(SHAPE), "c.nii.gz": lab.expected("c")}
    np.testing.assert_equal(read(lab.raw / "anatomyTr"), expected)
    assert "warning: empty maps: b;" in done.stdout
    assert f"warning: no mask in {lab.masks} for b (looked for b.nii.gz, b.nii, b/)" in done.stdout


def test_maps_without_masks_are_empty(lab, tmp_path):
    done = lab("-d", "321", "-i", lab.raw / "imagesTs", "-o", tmp_path / "maps", "--without-masks")
    np.testing.assert_equal(read(tmp_path / "maps"), {"d.nii.gz": np.zeros(SHAPE)})
    assert f"maps for -prev_stage_predictions: {tmp_path / 'maps'}" in done.stdout
    hosts = json.loads((tmp_path / "maps" / "anatomy.json").read_text())["hosts"]
    assert [(host["value"], host["structures"]) for host in hosts] == [
        (1, ["liver"]),
        (2, ["kidney_left", "kidney_right"]),
    ]


def test_an_organ_that_no_file_can_hold_is_refused(lab):
    """Empty in each map it would mean absent."""
    shutil.rmtree(lab.masks)
    for case in CASES:
        write(lab.masks / case / "liver.nii.gz", np.ones(SHAPE, np.uint8))
    said = lab.refused("-d", "321", "--masks", lab.masks)
    assert "has no case with kidney_right, kidney_left (value 2); give their files too" in said


def test_binary_files_that_overlap(lab):
    """Of two equal ones the first value of the table has what both claim; the case is named with its voxels."""
    shutil.rmtree(lab.masks)
    liver, kidney = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[2:5], kidney[4:7] = 1, 1
    for case in CASES:
        write(lab.masks / case / "liver.nii.gz", liver)
        write(lab.masks / case / "kidney_left.nii.gz", kidney)
    done = lab("-d", "321", "--masks", lab.masks)
    expected = np.where(liver, 1, 2 * kidney)
    np.testing.assert_equal(read(lab.raw / "anatomyTs"), {"d.nii.gz": expected})
    assert f"organs that overlap, where the smaller one has the voxels: a ({10 * 12} voxels), b" in done.stdout


def test_maps_for_prediction_are_those_of_the_test_images(lab, tmp_path):
    lab("-d", "321", "--masks", lab.masks)
    lab("-d", "321", "-i", lab.raw / "imagesTs", "-o", tmp_path / "new" / "maps", "--masks", lab.masks)
    np.testing.assert_equal(read(tmp_path / "new" / "maps"), read(lab.raw / "anatomyTs"))


def test_maps_for_other_hosts_are_not_mixed_in(lab, tmp_path):
    """The folder's table would be wrong for those that stay."""
    maps = tmp_path / "maps"
    lab("-d", "321", "-i", lab.raw / "imagesTs", "-o", maps, "--masks", lab.masks)
    content = dataset_json()
    content["labels"]["colon_tumor"] = 3
    (lab.raw / "dataset.json").write_text(json.dumps(content))
    lab("-d", "321", "-i", lab.raw / "imagesTs", "-o", maps, "--masks", lab.masks)  # all of them anew
    assert len(json.loads((maps / "anatomy.json").read_text())["hosts"]) == 3
    lab.raw.joinpath("dataset.json").write_text(json.dumps(dataset_json()))
    said = lab.refused("-d", "321", "-i", lab.raw / "imagesTr", "-o", maps, "--masks", lab.masks)
    assert "has maps of other cases for other host organs (d.nii.gz)" in said
    assert sorted(path.name for path in maps.iterdir()) == ["anatomy.json", "d.nii.gz"]


def test_dilation_is_in_millimetres(lab, tmp_path):
    """By 1 mm on a grid of 1 x 1.5 x 3 mm: one voxel along x, none along the others."""
    lab("-d", "321", "-i", lab.raw / "imagesTs", "-o", tmp_path / "maps", "--masks", lab.masks, "--dilate-mm", "1")
    before = lab.expected("d")
    expected = before.copy()
    for z, y, x in np.ndindex(SHAPE):
        near = [before[z, y, other] for other in (x - 1, x + 1) if 0 <= other < SHAPE[2] and before[z, y, other]]
        if near and not before[z, y, x]:
            expected[z, y, x] = min(near)
    assert (expected != before).any()
    np.testing.assert_equal(read(tmp_path / "maps"), {"d.nii.gz": expected})


def test_masks_of_another_grid_on_request(lab, tmp_path):
    path = lab.masks / "d.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "PIR"), str(path))
    arguments = ["-d", "321", "-i", lab.raw / "imagesTs", "-o", tmp_path / "maps", "--masks", lab.masks]
    assert "or --resample for nearest neighbour" in lab.refused(*arguments)
    lab(*arguments, "--resample")
    np.testing.assert_equal(read(tmp_path / "maps"), {"d.nii.gz": lab.expected("d")})


def test_a_mask_of_another_patient_leaves_nothing_written(lab):
    write(lab.masks / "c.nii.gz", lab.organs["c"], origin_mm=(5.0, -7.0, 900.0))
    said = lab.refused("-d", "321", "--masks", lab.masks, "--resample")
    assert "c.nii.gz has size (12 10 8)" in said
    assert "origin (5 -7 900)" in said
    assert "origin (5 -7 9)" in said
    assert "they do not cover the same space; give the mask of this image" in said


def test_outside_an_mr_image_there_is_no_organ(workspace, run_command, tmp_path):
    """nnU-Net may take a label there for a part of the image; what lies enclosed in it counts as inside."""
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    lab = Lab(workspace, run_command, tmp_path, channel="T1")
    lab("-d", "321", "--masks", lab.masks)
    for name, values in read(lab.raw / "anatomyTr").items():
        case = name.removesuffix(".nii.gz")
        inside = create_nonzero_mask(lab.images[case][None])
        assert inside[2:6, 5:8, 5:8].all()
        np.testing.assert_array_equal(values, np.where(inside, lab.expected(case), 0))


@pytest.fixture
def model(lab, tmp_path):
    """`model(hosts)`: the folder of a model trained with this table."""

    def make(hosts, **plans):
        folder = tmp_path / "model"
        folder.mkdir()
        classes = tuple(ClassSpec(label, f"{label}.", True) for label in ("liver_tumor", "kidney_tumor"))
        resolved = Resolved(classes, embedding_dim=384, has_background=True, hosts=hosts)
        plans = {"dataset_name": NAME, "mastpro": MASTProConfig(resolved=resolved).to_dict()} | plans
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset_json()))
        return folder

    return make


def test_the_table_of_a_trained_model(lab, model, host, tmp_path):
    """Not that of the data set, which may have changed, or be elsewhere."""
    folder = model((host(1, "spleen"), host(2, "liver")))
    images = shutil.copytree(lab.raw / "imagesTs", tmp_path / "images")
    shutil.rmtree(lab.raw)
    lab("-m", folder, "-i", images, "-o", tmp_path / "maps", "--masks", lab.masks)
    expected = np.where(lab.organs["d"] == 1, 1, 2 * (lab.organs["d"] == 5))
    np.testing.assert_equal(read(tmp_path / "maps"), {"d.nii.gz": expected})


@pytest.mark.parametrize("plans", [{}, {"mastpro": {}}, {"mastpro": {"resolved": None}}])
def test_a_model_without_organ_masks_takes_no_maps(lab, model, tmp_path, plans):
    arguments = ["-m", model((), **plans), "-i", lab.raw / "imagesTs", "-o", tmp_path / "maps", "--masks", lab.masks]
    assert "was trained without organ masks; it takes no maps" in lab.refused(*arguments)

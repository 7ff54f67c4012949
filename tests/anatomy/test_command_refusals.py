"""What `mastpro anatomy` refuses from its options, names and headers, before anything is written."""

import json

import nibabel
import numpy as np
import pytest

from nnunetv2_mastpro.cli import main

REFUSED = {
    "labels as masks": (["--masks", "LABELS"], "holds the images or labels of the data set"),  # they are the truth
    "labels of test images as masks": (["--masks", "LABELS_TS"], "holds the images or labels of the data set"),
    "images as masks": (["--masks", "IMAGES_TR"], "holds the images or labels of the data set"),
    "negative margin": (["--dilate-mm", "-1"], "--dilate-mm -1 is not within 0 and 100; give millimetres"),
    "no number": (["--dilate-mm", "nan"], "--dilate-mm nan is not within 0 and 100"),
    "images only": (["-i", "IMAGES"], "-i and -o go together"),
    "output only": (["-o", "NEW"], "-i and -o go together"),
    "output on images": (["-i", "IMAGES", "-o", "IMAGES"], "is the folder of the images; give another"),
    "output on masks": (["-i", "IMAGES", "-o", "MASKS"], "is where the maps go, which would overwrite the masks"),
    "no images": (["-i", "MASKS", "-o", "NEW"], "has no image such as case_0000.nii.gz"),
    "no folder of images": (["-i", "NEW", "-o", "NEWER"], "NEW is no folder; give the one that nnUNetv2_predict gets"),
    "no folder of masks": (["--masks", "NEW"], "NEW is no folder; give one that holds a mask per case"),
    "masks of no case": (["--masks", "EMPTY"], "has a mask of no case; it must hold files such as a.nii.gz"),
    "no weights": (["--run", "totalsegmentator"], "weights for total are not in"),
    "no model": (["-m", "NEW", "-i", "IMAGES", "-o", "NEWER"], "is not the folder of a trained model"),
    "plans of another name": (
        ["-p", "WithColn"],
        "WithColn.json is not there; did you mean 'WithColon'? Give -p one of",
    ),
    "model without images": (["-m", "NEW"], "-m is for images to be predicted"),
    "output is a file": (["-i", "IMAGES", "-o", "FILE"], "dataset.json is a file; give a folder for the maps"),
    "plans for images": (["-i", "IMAGES", "-o", "NEW", "-p", "Any"], "-p is for the preprocessed form of a data set"),
    "no such device": (["--run", "totalsegmentator", "--device", "cuda"], "'cuda' is none of gpu, gpu:1, cpu and mps"),
    "absent without masks": (["--run", "totalsegmentator", "--lacking-is-absent"], "is for --masks; leave it out"),
}


@pytest.fixture
def dataset(workspace, write_volume, grid, tmp_path):
    """The raw folder of a data set of two images and their labels, and a folder with a mask of each image."""
    raw, values = workspace.raw / "Dataset321_Organs", np.ones(grid.size[::-1], np.uint8)
    for case, kind in (("a", "Tr"), ("d", "Ts")):
        write_volume(raw / f"images{kind}" / f"{case}_0000.nii.gz", values)
        write_volume(raw / f"labels{kind}" / f"{case}.nii.gz", values)
        write_volume(tmp_path / "masks" / f"{case}.nii.gz", values)
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver_tumor": 1, "kidney_tumor": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw, tmp_path / "masks"


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(dataset, workspace, tmp_path, monkeypatch, capsys, arguments, message):
    """In this process, for speed."""
    for name, value in {**workspace.env, "TOTALSEG_HOME_DIR": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    raw, masks = dataset
    folders = {"IMAGES": raw / "imagesTs", "MASKS": masks, "EMPTY": raw.parent, "FILE": raw / "dataset.json"}
    folders |= {"IMAGES_TR": raw / "imagesTr", "LABELS": raw / "labelsTr", "LABELS_TS": raw / "labelsTs"}
    given = [str(folders.get(part, tmp_path / part if part.isupper() else part)) for part in arguments]
    given += [] if {"--masks", "--run"} & {*given} else ["--masks", masks]
    given += [] if "-m" in given else ["-d", "321"]
    folder = workspace.preprocessed / raw.name
    folder.mkdir()
    stages = {"nnUNetPlans": {}, "WithColon": {"previous_stage": "anatomy", "data_identifier": "x"}}
    for name, configuration in stages.items():
        (folder / f"{name}.json").write_text(json.dumps({"configurations": {"3d_fullres": configuration}}))
    (folder / "splits_final.json").write_text("[]")
    before = sorted([*raw.parent.parent.rglob("*"), *tmp_path.rglob("*")])
    try:
        rc = main(["anatomy", *map(str, given)])
    except SystemExit as left:  # argparse
        rc = left.code
    assert rc == 2
    assert message in capsys.readouterr().err
    assert sorted([*raw.parent.parent.rglob("*"), *tmp_path.rglob("*")]) == before


def test_an_image_that_only_nibabel_reads_is_refused_before_a_map_is_written(dataset, workspace, monkeypatch, capsys):
    """nnU-Net falls back to it where axes are not at right angles."""
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    raw, _ = dataset
    skewed = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(np.ones((8, 8, 8), np.float32), skewed)
    image.set_qform(None, 0)
    nibabel.save(image, raw / "imagesTr" / "z_0000.nii.gz")
    nibabel.save(image, raw / "labelsTr" / "z.nii.gz")
    assert main(["anatomy", "-d", "321", "--without-masks"]) == 2
    assert "z_0000.nii.gz cannot be read as a volume" in (error := capsys.readouterr().err)
    assert "correct its header, or resample it to axes at right angles" in error
    assert not list(raw.glob("anatomy*"))

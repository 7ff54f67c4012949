"""Data sets of NIfTI pairs: each is written in its layout, converted, and accepted by nnU-Net."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.convert.table import known

from .conftest import ORIGIN_MM, SHAPE, SPACING_MM, label, lits, scan, write

LAYOUTS = {  # data set -> (image, label) of two cases as their pages tell, and the cases' names
    "LiTS": ("Batch {0}/volume-{0}.nii", "Batch {0}/segmentation-{0}.nii", ("LiTS_0", "LiTS_1")),
    "KiTS19": (
        "data/case_0000{0}/imaging.nii.gz",
        "data/case_0000{0}/segmentation.nii.gz",
        ("KiTS19_00000", "KiTS19_00001"),
    ),
    "KiTS23": (
        "dataset/case_0000{0}/imaging.nii.gz",
        "dataset/case_0000{0}/segmentation.nii.gz",
        ("KiTS23_00000", "KiTS23_00001"),
    ),
    "AbdomenCT-1K": (
        "AbdomenCT-1K-ImagePart1/Case_0000{0}_0000.nii.gz",
        "Mask/Case_0000{0}.nii.gz",
        ("AbdomenCT1K_00000", "AbdomenCT1K_00001"),
    ),
    "BTCV": (
        "RawData/Training/img/img000{0}.nii.gz",
        "RawData/Training/label/label000{0}.nii.gz",
        ("BTCV_0000", "BTCV_0001"),
    ),
    "CT-ORG": ("OrganSegmentations/volume-{0}.nii.gz", "OrganSegmentations/labels-{0}.nii.gz", ("CTORG_0", "CTORG_1")),
    "WORD": (
        "WORD-V0.1.0/imagesTr/word_000{0}.nii.gz",
        "WORD-V0.1.0/labelsTr/word_000{0}.nii.gz",
        ("WORD_0000", "WORD_0001"),
    ),
    "AMOS": ("amos22/imagesTr/amos_000{0}.nii.gz", "amos22/labelsTr/amos_000{0}.nii.gz", ("AMOS_0000", "AMOS_0001")),
}


def test_every_nifti_layout_is_tried():
    assert set(LAYOUTS) == {name for name, dataset in known().items() if dataset.layout == "nifti"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(downloads, name):
    image, segmentation, cases = LAYOUTS[name]
    values = list(known()[name].labels.values())
    dtype = np.float32 if name == "CT-ORG" else np.uint8  # its labels are 32-bit floating point
    for number in range(2):
        write(downloads.folder / image.format(number), scan(number))
        write(downloads.folder / segmentation.format(number), label(*values, dtype=dtype))
    assert downloads.convert(name) == 0
    dataset = f"Dataset011_{name.replace('-', '')}"
    content = json.loads((downloads.raw / dataset / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, **{label: n for n, label in enumerate(known()[name].labels, 1)}}
    assert content["channel_names"] == {"0": "CT"}
    assert content["numTraining"] == 2
    for number, case in enumerate(cases):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(downloads.image(dataset, case)), scan(number))
        written = downloads.label(dataset, case)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), label(*values))
        assert written.GetPixelID() == sitk.sitkUInt8
        np.testing.assert_allclose((*written.GetSpacing(), *written.GetOrigin()), (*SPACING_MM, *ORIGIN_MM), rtol=1e-6)
    downloads.verify(dataset)


def test_images_are_linked_where_nnunet_reads_them(downloads):
    image, segmentation, _ = LAYOUTS["KiTS19"]
    write(downloads.folder / image.format(0), scan(0))
    write(downloads.folder / segmentation.format(0), label(1, 2))
    assert downloads.convert("KiTS19") == 0
    linked = downloads.raw / "Dataset011_KiTS19" / "imagesTr" / "KiTS19_00000_0000.nii.gz"
    assert linked.resolve() == (downloads.folder / image.format(0)).resolve()
    assert downloads.convert("KiTS19", 11, "--copy") == 2  # finished, with links
    assert downloads.convert("KiTS19", 12, "--copy") == 0
    copied = downloads.raw / "Dataset012_KiTS19" / "imagesTr" / "KiTS19_00000_0000.nii.gz"
    assert not copied.is_symlink()
    assert copied.read_bytes() == linked.read_bytes()


def test_all_parts_of_word_and_only_ct_of_amos(downloads):
    for part, case in (("Tr", 2), ("Val", 1)):
        write(downloads.folder / f"images{part}" / f"word_{case:04d}.nii.gz", scan(case))
        write(downloads.folder / f"labels{part}" / f"word_{case:04d}.nii.gz", label(1))
    for part, case in (("Tr", 500), ("Va", 7), ("Tr", 501)):
        write(downloads.folder / f"images{part}" / f"amos_{case:04d}.nii.gz", scan(case))
        write(downloads.folder / f"labels{part}" / f"amos_{case:04d}.nii.gz", label(1))
    assert downloads.convert("WORD", 11) == downloads.convert("AMOS", 12) == 0
    for dataset, cases in (("Dataset011_WORD", ("0001", "0002")), ("Dataset012_AMOS", ("0007", "0500"))):
        found = sorted(path.name[5:9] for path in (downloads.raw / dataset / "labelsTr").iterdir())
        assert found == list(cases)


def test_images_without_labels_and_hidden_files_are_left_out(downloads):
    lits(downloads.folder)
    write(downloads.folder / "Test" / "volume-7.nii", scan(7))
    (downloads.folder / "Training Batch 1" / "._segmentation-9.nii").write_bytes(b"\0\5\x16\7")
    assert downloads.convert("lits") == 0
    assert len(list((downloads.raw / "Dataset011_LiTS" / "imagesTr").iterdir())) == 2


def test_a_label_beside_its_image_is_refused_or_trusted(downloads, capsys):
    lits(downloads.folder, (0,))
    path = downloads.folder / "Training Batch 1" / "segmentation-0.nii"
    write(path, label(1, 2), origin_mm=(0, 0, 0))
    assert downloads.convert("LiTS") == 2
    assert "--trust-size takes the image's" in capsys.readouterr().err
    assert list(downloads.raw.iterdir()) == []
    assert downloads.convert("LiTS", 11, "--trust-size") == 0
    np.testing.assert_allclose(downloads.label("Dataset011_LiTS", "LiTS_0").GetOrigin(), ORIGIN_MM)
    write(path, label(1, 2, shape=(*SHAPE[:2], 11)))
    assert downloads.convert("LiTS", 12, "--trust-size") == 2
    assert "size (11 10 6)" in capsys.readouterr().err

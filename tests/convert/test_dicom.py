"""DICOM layouts: slices in any order of names, masks as NIfTI, PNG and DICOM."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from .conftest import ORIGIN_MM, SHAPE, SPACING_MM, label, scan, volume, write, write_series


def written(downloads, dataset, case) -> np.ndarray:
    """The label's values; image and label lie where the slices did."""
    image, label = downloads.image(dataset, case), downloads.label(dataset, case)
    for one in (image, label):
        np.testing.assert_allclose(one.GetSpacing(), SPACING_MM, rtol=1e-5)
        np.testing.assert_allclose(one.GetOrigin(), ORIGIN_MM, rtol=1e-5)
    downloads.verify(dataset)
    return sitk.GetArrayFromImage(label)


class TestPancreas:
    @pytest.fixture
    def patient(self, downloads):
        """One patient; its label is stored in another orientation, with an origin of zero, as the real ones may be."""
        inner = "11-24-2015-PANCREAS0001-Pancreas-18957/Pancreas-99667"
        write_series(downloads.folder / "Pancreas-CT" / "PANCREAS_0001" / inner, scan(1), "1-{:03d}.dcm", True)
        turned = sitk.DICOMOrient(volume(label(1)), "RAS")
        turned.SetOrigin((0, 0, 0))
        path = downloads.folder / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz"
        path.parent.mkdir()
        sitk.WriteImage(turned, str(path))
        write(path.with_name("label0025.nii.gz"), label(1))  # of the images that release 2 lacks
        return path

    def test_labels_are_turned_to_their_image(self, downloads, patient):
        assert downloads.convert("Pancreas-CT") == 0
        np.testing.assert_array_equal(written(downloads, "Dataset011_PancreasCT", "PancreasCT_0001"), label(1))
        image = sitk.GetArrayFromImage(downloads.image("Dataset011_PancreasCT", "PancreasCT_0001"))
        np.testing.assert_array_equal(image, scan(1))

    def test_another_size(self, downloads, patient, capsys):
        write(patient, label(1, shape=(5, 10, 12)))
        assert downloads.convert("Pancreas-CT") == 2
        assert "label0001.nii.gz has size (12 10 5)" in capsys.readouterr().err

    def test_a_missing_slice(self, downloads, patient, capsys):
        next(downloads.folder.rglob("1-002.dcm")).unlink()
        assert downloads.convert("Pancreas-CT") == 2
        error = capsys.readouterr().err
        assert "1-003.dcm and 1-001.dcm are 5 mm apart, others 2.5 mm; download the missing slices" in error

    def test_two_series(self, downloads, patient, capsys):
        write_series(downloads.folder / "Pancreas-CT" / "PANCREAS_0001" / "again", scan(1))
        assert downloads.convert("Pancreas-CT") == 2
        assert "PANCREAS_0001 has slices in" in capsys.readouterr().err

    def test_labels_alone(self, downloads, capsys):
        write(downloads.folder / "label0001.nii.gz", label(1))
        assert downloads.convert("Pancreas-CT") == 2
        assert "has no PANCREAS_N/.../*.dcm; it holds label0001.nii.gz" in capsys.readouterr().err


class TestChaos:
    @pytest.fixture
    def patient(self, downloads):
        """Patient 21; as in the data set, names of slices and masks run from the top down. MR is there, too."""
        folder = downloads.folder / "Train_Sets" / "CT" / "21"
        write_series(folder / "DICOM_anon", scan(1), "i{:04d},0000b.dcm", True)
        for part in (folder, downloads.folder / "Train_Sets" / "MR" / "1" / "T2SPIR"):
            (part / "Ground").mkdir(parents=True)
            for number, values in enumerate(label(1)[::-1]):
                sitk.WriteImage(
                    sitk.GetImageFromArray(values * 255), str(part / "Ground" / f"liver_GT_{number:03d}.png")
                )
        return folder

    def test_masks_find_their_slices(self, downloads, patient):
        assert downloads.convert("CHAOS") == 0
        np.testing.assert_array_equal(written(downloads, "Dataset011_CHAOS", "CHAOS_21"), label(1))
        assert len(list((downloads.raw / "Dataset011_CHAOS" / "labelsTr").iterdir())) == 1

    def test_upward_names_are_refused(self, downloads, patient, capsys):
        write_series(patient / "DICOM_anon", scan(1), "i{:04d},0000b.dcm")
        assert downloads.convert("CHAOS") == 2
        assert "do not run from the top down" in capsys.readouterr().err

    def test_a_missing_mask(self, downloads, patient, capsys):
        (patient / "Ground" / "liver_GT_003.png").unlink()
        assert downloads.convert("CHAOS") == 2
        assert "has 6 slices and 5 masks" in capsys.readouterr().err

    def test_no_ct(self, downloads, capsys):
        (downloads.folder / "Train_Sets").mkdir()
        assert downloads.convert("CHAOS") == 2
        assert "has no CT/N/Ground/*.png" in capsys.readouterr().err


class TestIrcadb:
    @pytest.fixture
    def patients(self, downloads):
        """Two: with two tumours and a cyst, and with an adrenal tumour and a kidney."""
        folders = [downloads.folder / "3Dircadb1" / f"3Dircadb1.{number}" for number in (1, 7)]
        liver, first, second, cyst = label(1), label(0, 1), label(0, 0, 1), label(0, 0, 0, 1)
        masks = (
            {"liver": liver | first, "livertumor01": first, "livertumor02": second, "liverkyste": cyst, "skin": liver},
            {"liver": liver, "tumor": first, "leftkidney": second},
        )
        for number, (folder, structures) in enumerate(zip(folders, masks, strict=True)):
            write_series(folder / "PATIENT_DICOM", scan(number), "image_{}", True)
            for name, values in structures.items():
                write_series(folder / "MASKS_DICOM" / name, values * 255, "image_{}", True)
        return folders

    def test_masks_are_painted(self, downloads, patients):
        assert downloads.convert("3D-IRCADb") == 0
        dataset = "Dataset011_3DIRCADb"
        np.testing.assert_array_equal(written(downloads, dataset, "3DIRCADb_1"), label(1, 8, 8, 7))
        np.testing.assert_array_equal(written(downloads, dataset, "3DIRCADb_7"), label(1, 0, 3))
        cases = json.loads((downloads.raw / dataset / "dataset.json").read_text())["mastpro"]["cases"]
        assert cases["3DIRCADb_1"]["annotated"] == ["liver", "liver_cyst", "liver_tumor"]
        assert cases["3DIRCADb_7"]["annotated"] == ["liver", "kidney_left", "liver_tumor"]

    def test_inner_folders_of_the_same_name(self, downloads, patients):
        for part in ("PATIENT_DICOM", "MASKS_DICOM"):
            (patients[0] / part).rename(patients[0] / "inner")
            (patients[0] / part).mkdir()
            (patients[0] / "inner").rename(patients[0] / part / part)
        assert downloads.convert("3D-IRCADb") == 0
        label_values = sitk.GetArrayFromImage(downloads.label("Dataset011_3DIRCADb", "3DIRCADb_1"))
        np.testing.assert_array_equal(label_values, label(1, 8, 8, 7))

    def test_a_folder_unpacked_into_one_of_its_name(self, downloads, patients, capsys):
        outer = downloads.folder / "3Dircadb1.1"
        outer.mkdir()
        patients[0].rename(outer / "3Dircadb1.1")
        assert downloads.convert("3D-IRCADb") == 0
        assert len(list((downloads.raw / "Dataset011_3DIRCADb" / "labelsTr").iterdir())) == 2

    def test_a_patient_twice(self, downloads, patients, capsys):
        shutil.copytree(patients[0], downloads.folder / "again" / "3Dircadb1.1")
        assert downloads.convert("3D-IRCADb") == 2
        assert "has 3DIRCADb_1 twice, " in capsys.readouterr().err
        assert list(downloads.raw.iterdir()) == []

    def test_packed_archives(self, downloads, capsys):
        folder = downloads.folder / "3Dircadb1.1"
        folder.mkdir()
        (folder / "PATIENT_DICOM.zip").touch()
        assert downloads.convert("3D-IRCADb") == 2
        assert "has no folder PATIENT_DICOM; unpack PATIENT_DICOM.zip" in capsys.readouterr().err

    def test_a_mask_with_other_slices(self, downloads, patients, capsys):
        (patients[0] / "MASKS_DICOM" / "livertumor02" / "image_3").unlink()
        assert downloads.convert("3D-IRCADb") == 2
        assert "livertumor02 and" in capsys.readouterr().err

    def test_no_liver(self, downloads, patients, capsys):
        (patients[1] / "MASKS_DICOM" / "liver").rename(patients[1] / "MASKS_DICOM" / "renamed")
        assert downloads.convert("3D-IRCADb") == 2
        assert "has no mask of the liver" in capsys.readouterr().err

    def test_an_empty_folder(self, downloads, capsys):
        assert downloads.convert("3D-IRCADb") == 2
        assert "has no 3Dircadb1.N/PATIENT_DICOM; it is empty" in capsys.readouterr().err


def test_a_truncated_slice(downloads, capsys):
    folder = downloads.folder / "Train_Sets" / "CT" / "1"
    write_series(folder / "DICOM_anon", scan(1), "i{:04d},0000b.dcm", True)
    (folder / "Ground").mkdir()
    for number in range(SHAPE[0]):
        sitk.WriteImage(sitk.GetImageFromArray(label(1)[0]), str(folder / "Ground" / f"liver_GT_{number:03d}.png"))
    path = folder / "DICOM_anon" / "i0003,0000b.dcm"
    path.write_bytes(path.read_bytes()[:-150])
    assert downloads.convert("CHAOS") == 2
    assert "i0004,0000b.dcm and i0002,0000b.dcm are 5 mm apart" in capsys.readouterr().err

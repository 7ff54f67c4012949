"""What the command refuses, and how it goes on after an interruption."""

import os
import shutil
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.convert.table import find, known
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts import knowledge_base

from .conftest import label, lits, scan, write


def refused(downloads, capsys, *given) -> str:
    """The one sentence; nothing is written, but for what a run may go on with."""
    assert downloads.convert(*given) == 2
    error = capsys.readouterr().err
    errors = [line for line in error.splitlines() if line.startswith("mastpro: error:")]
    assert len(errors) == 1
    assert not list(downloads.raw.glob("Dataset*"))
    return errors[0]


def test_classes_are_those_of_the_knowledge_base():
    without = {name for dataset in known().values() for name in dataset.labels if not knowledge_base.find(name)}
    assert without == {"bone"}
    for dataset in known().values():
        for name in set(dataset.labels) - without:
            assert knowledge_base.find(name).name == name


def test_list_names_all_and_nnunets_own(capsys):
    assert cli.main(["convert", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in known())
    assert "nnUNetv2_convert_MSD_dataset -i TaskXX_NAME -overwrite_id ID" in shown


def test_nnunets_own_converters_are_there():
    """Those that the list names."""
    from importlib.util import find_spec

    for dataset in known().values():
        if dataset.nnunet:
            assert find_spec(dataset.nnunet.split()[2]), dataset.name


def test_unknown_names():
    with pytest.raises(MASTProError, match=r"no data set is called 'KiTS'; did you mean 'KiTS\d\d'\? known: LiTS, "):
        find("KiTS")
    with pytest.raises(MASTProError, match="nnU-Net's to convert; run nnUNetv2_convert_MSD_dataset"):
        find("MSD_Liver")


def test_missing_options(capsys):
    assert cli.main(["convert", "LiTS", "-d", "4"]) == 2
    assert "-i DOWNLOAD is missing" in capsys.readouterr().err


def test_a_folder_without_the_files(downloads, capsys):
    assert "has no volume-N.nii.gz; it is empty" in refused(downloads, capsys, "LiTS")
    write(downloads.folder / "other.nii.gz", scan(0))
    assert "has no volume-N.nii.gz; it holds other.nii.gz; give the unpacked" in refused(downloads, capsys, "LiTS")
    write(downloads.folder / "volume-0.nii", scan(0))
    assert "has no segmentation-N.nii.gz; it holds" in refused(downloads, capsys, "LiTS")


def test_a_label_without_its_image(downloads, capsys):
    lits(downloads.folder)
    (downloads.folder / "Training Batch 1" / "volume-1.nii").unlink()
    assert "segmentation-1.nii has no image volume-1.nii.gz; complete" in refused(downloads, capsys, "LiTS")


def test_a_case_that_is_there_twice(downloads, capsys):
    lits(downloads.folder)
    lits(downloads.folder / "copy", (1,))
    assert "are both volume-N of case 1; remove one" in refused(downloads, capsys, "LiTS")


def test_a_value_that_the_data_set_does_not_have(downloads, capsys):
    lits(downloads.folder)
    write(downloads.folder / "Training Batch 1" / "segmentation-1.nii", label(1, 2, 3))
    error = refused(downloads, capsys, "LiTS")
    assert "segmentation-1.nii holds the values 3, where 0, 1, 2 are known; is this another release" in error


def test_a_label_between_two_values(downloads, capsys):
    lits(downloads.folder, (0,))
    write(downloads.folder / "Training Batch 1" / "segmentation-0.nii", label(1, 2).astype(np.float32) * 0.75)
    assert "holds the values 0.75, 1.5, where" in refused(downloads, capsys, "LiTS")


def test_a_file_that_cannot_be_read(downloads, capsys):
    lits(downloads.folder)
    path = downloads.folder / "Training Batch 1" / "segmentation-1.nii"
    path.write_bytes(b"no volume")
    assert "segmentation-1.nii cannot be read as a volume" in refused(downloads, capsys, "LiTS")


def test_a_truncated_file_ends_the_run_and_a_repaired_one_goes_on(downloads, capsys):
    lits(downloads.folder)
    path = downloads.folder / "Training Batch 1" / "segmentation-1.nii"
    whole = path.read_bytes()
    path.write_bytes(whole[:400])
    assert "segmentation-1.nii is damaged or ends early" in refused(downloads, capsys, "LiTS")
    done = downloads.raw / ".Dataset011_LiTS.converting" / "labelsTr" / "LiTS_0.nii.gz"
    os.utime(done, (1, 1))
    path.write_bytes(whole)
    assert downloads.convert("LiTS") == 0
    labels = downloads.raw / "Dataset011_LiTS" / "labelsTr"
    assert (labels / "LiTS_0.nii.gz").stat().st_mtime == 1
    assert sorted(file.name for file in labels.iterdir()) == ["LiTS_0.nii.gz", "LiTS_1.nii.gz"]
    assert not list(downloads.raw.glob(".*"))
    downloads.verify("Dataset011_LiTS")
    capsys.readouterr()
    assert downloads.convert("LiTS") == 0
    assert "finished earlier" in capsys.readouterr().out
    for kind in ("segmentation", "volume"):  # as where a second batch was unpacked later
        shutil.copy(path.with_name(f"{kind}-1.nii"), path.with_name(f"{kind}-2.nii"))
    assert downloads.convert("LiTS") == 2
    assert "Dataset011_LiTS is there and lacks LiTS_2; remove it" in capsys.readouterr().err


def test_an_earlier_run_of_another_download_is_none_of_this(downloads, capsys):
    write(downloads.folder / "case_00000" / "segmentation.nii.gz", label(1, 2))
    write(downloads.folder / "case_00000" / "imaging.nii.gz", scan(0))
    assert downloads.convert("KiTS19") == 0
    moved = downloads.folder.with_name("moved")
    shutil.copytree(downloads.folder, moved)
    again = ["convert", "KiTS19", "-i", str(moved), "-d", "11"]
    capsys.readouterr()
    assert cli.main(again) == 2
    assert f"was made from {downloads.folder.resolve()}; give that for -i" in capsys.readouterr().err
    shutil.rmtree(downloads.folder)
    assert cli.main(again) == 2
    assert "with links to images that are no longer where they were (KiTS19_00000_0000" in capsys.readouterr().err


def test_a_linked_image_is_read_through(downloads, capsys):
    write(downloads.folder / "case_00000" / "segmentation.nii.gz", label(1, 2))
    path = downloads.folder / "case_00000" / "imaging.nii.gz"
    write(path, scan(0))
    path.write_bytes(path.read_bytes()[:-100])
    assert "imaging.nii.gz is damaged or ends early" in refused(downloads, capsys, "KiTS19")


def test_another_download_does_not_go_on_with_the_first(downloads, capsys):
    lits(downloads.folder)
    path = downloads.folder / "Training Batch 1" / "segmentation-1.nii"
    path.write_bytes(path.read_bytes()[:400])
    refused(downloads, capsys, "LiTS")
    other = downloads.folder.with_name("other")
    lits(other)
    assert cli.main(["convert", "LiTS", "-i", str(other), "-d", "11", "-np", "1"]) == 2
    assert "was begun from another download; remove it" in capsys.readouterr().err


def test_an_id_that_is_taken(downloads, capsys):
    lits(downloads.folder)
    for folder in ("nnUNet_raw", "nnUNet_results"):
        there = downloads.raw.parent / folder / "Dataset011_Mine"
        there.mkdir()
        assert downloads.convert("LiTS") == 2
        assert "the id 11 belongs to Dataset011_Mine; give another -d" in capsys.readouterr().err
        there.rmdir()
    (downloads.raw / "Dataset011_LiTS").mkdir()
    assert downloads.convert("LiTS") == 2
    assert "was not written by mastpro convert" in capsys.readouterr().err
    assert downloads.convert("LiTS", 1000) == 2
    assert "-d 1000 is not within 1 and 999" in capsys.readouterr().err


def test_two_processes_as_a_user_starts_them(downloads, run_command):
    lits(downloads.folder, range(3))
    given = ["convert", "LiTS", "-i", downloads.folder, "-d", 11, "-np", 2]
    done = run_command([sys.executable, "-m", "nnunetv2_mastpro", *given], env=dict(os.environ))
    assert "wrote" in done.stdout
    assert "convert LiTS: 100%" in done.stderr
    volume = sitk.GetArrayFromImage(downloads.image("Dataset011_LiTS", "LiTS_2"))
    np.testing.assert_array_equal(volume, scan(2))


def test_what_a_killed_run_left_is_no_case(downloads, capsys):
    """Half-written files, and a case that was taken out of the download since."""
    lits(downloads.folder, (0, 1, 2))
    broken = downloads.folder / "Training Batch 1" / "segmentation-2.nii"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:400])
    refused(downloads, capsys, "LiTS")
    scratch = downloads.raw / ".Dataset011_LiTS.converting"
    for left in ("imagesTr/.77.LiTS_1_0000.nii.gz", "labelsTr/.77.LiTS_1.nii.gz"):
        (scratch / left).write_bytes(b"cut off")
    broken.write_bytes(whole)
    for kind in ("volume", "segmentation"):
        (broken.parent / f"{kind}-0.nii").unlink()
    assert downloads.convert("LiTS") == 0
    made = downloads.raw / "Dataset011_LiTS"
    assert sorted(path.name for path in (made / "imagesTr").iterdir()) == ["LiTS_1_0000.nii.gz", "LiTS_2_0000.nii.gz"]
    assert sorted(path.name for path in (made / "labelsTr").iterdir()) == ["LiTS_1.nii.gz", "LiTS_2.nii.gz"]
    downloads.verify("Dataset011_LiTS")

"""What mastpro report says where something is not there, and what its processes do."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from .command import allow_ignoring, arguments, change, run, with_value_3, with_value_9


def test_a_model_that_lies_elsewhere_is_predicted_from_its_folder(folders, tmp_path):
    """As what mastpro unpack writes."""
    shutil.copy(folders.model / "plans.json", folders.predictions)
    folders.model.rename(tmp_path / "mine")
    given = arguments(folders, tmp_path / "out", "--panels", "0", "--viewer-cases", "0")
    assert run(*given[:2], tmp_path / "mine", *given[3:]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"nnUNetv2_predict_from_modelfolder -m {tmp_path / 'mine'} -i" in page
    assert "nnUNetv2_train " not in page


def test_what_is_absent_is_said(folders, tmp_path, capsys):
    """A model of a stock trainer, without truth, maps and log."""
    plans = json.loads((folders.model / "plans.json").read_text())
    del plans["mastpro"]
    (folders.model / "plans.json").write_text(json.dumps(plans))
    fold = folders.model / "fold_0"
    for path in (fold / "expert_usage.json", *fold.glob("*.txt")):
        path.unlink()
    assert run(*arguments(folders, tmp_path / "out", "--viewer-cases", "1", "--panels", "2")) == 0
    bare = (tmp_path / "out" / "index.html").read_text()
    for sentence in (
        "no reference labels, so no Dice.",
        "No host-organ maps (--maps) were given",
        "so it has no experts.",
        "so it takes no prompts.",
        "The number of parameters by part stands in a training",
        "by case, since no truth was given",
        "3 more rows were left out; --panels shows more.",
        "Not in the viewer: case_b (--viewer-cases 1), case_c (--viewer-cases 1).",
    ):
        assert sentence in bare
    assert bare.count("No reference labels (-ref) were given") == 2
    said = capsys.readouterr().out
    assert "3 panels were left out (--panels)" in said
    assert "not in the viewer (--viewer-cases 1): case_b, case_c" in said


def test_a_prediction_of_nothing_has_a_page(folders, tmp_path):
    for path in folders.predictions.iterdir():
        change(path, lambda volume: volume * 0)
    assert run(*arguments(folders, tmp_path / "out", "--viewer-cases", "0")) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Neither truth nor prediction has a class to show." in page
    assert "No case is in the viewer (--viewer-cases 0)." in page
    assert "niivue.Niivue" not in page


def test_the_viewer_keeps_its_budget(folders, tmp_path, monkeypatch, capsys):
    from nnunetv2_mastpro.report import draw
    from nnunetv2_mastpro.report.cases import Case, read_case

    files = (folders.images / "case_a_0000.nii.gz", folders.predictions / "case_a.nii.gz")
    one = draw.embed("case_a", read_case(Case("case_a", *files, None, None)), is_ct=True).megabytes
    budget = round(1.5 * one, 4)
    monkeypatch.setattr(draw, "BUDGET_MB", budget)
    assert run(*arguments(folders, tmp_path / "out", "--panels", "0")) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    expected = {
        "case_b": f"the page would hold more than {budget:g} MB of volumes",
        "case_c": "the cases before filled the page",
    }
    assert f"Not in the viewer: {', '.join(f'{name} ({reason})' for name, reason in expected.items())}." in page
    said = capsys.readouterr().out
    for name, reason in expected.items():
        assert f"not in the viewer ({reason}): {name}\n" in said
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', page)
    assert [case["name"] for case in json.loads(data)["cases"]] == ["case_a"]


def test_mr_is_shown_by_percentiles(folders, tmp_path):
    dataset = json.loads((folders.model / "dataset.json").read_text())
    (folders.model / "dataset.json").write_text(json.dumps({**dataset, "channel_names": {"0": "T1"}}))
    assert run(*arguments(folders, tmp_path / "out")) == 0
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(folders.images / "case_a_0000.nii.gz"))
    low, high = np.percentile(voxels[voxels != 0], (1, 99))
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"percentiles 1 to 99, {low:.4g} to {high:.4g}" in page
    assert "window, -160 to 240 HU" not in page


def test_a_volume_of_one_slice_has_a_page(folders, tmp_path):
    """As nnU-Net's 2d data sets have them; such a case has no volume in ml."""
    for folder in (folders.images, folders.predictions, folders.reference):
        for path in folder.iterdir():
            change(path, lambda volume: volume[:, :, 4:5])
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference)) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "case_b, liver tumor, Dice 0.00: slice 1 of 1" in page


def test_a_finding_in_a_case_without_it_is_told(folders, tmp_path):
    change(folders.reference / "case_b.nii.gz", lambda volume: volume * 0)
    change(folders.predictions / "case_b.nii.gz", lambda volume: volume * 0 + 1)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference)) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "case_b, liver tumor marked, though the case has none: slice" in page
    assert "case_b, liver tumor, Dice" not in page


@pytest.mark.parametrize("names", [{"0": "PET", "1": "CT"}, {"1": "CT", "0": "PET"}])
def test_the_ct_is_shown_whatever_the_order_of_the_channels(names):
    from nnunetv2_mastpro.report.cases import Channel, shown_channel

    assert shown_channel({"channel_names": names}) == Channel(1, "channel 1 (CT)", True)
    assert shown_channel({"modality": names}) == Channel(1, "channel 1 (CT)", True)  # the key of older data sets


def test_another_channel_is_shown_and_named(folders, tmp_path, capsys):
    dataset = json.loads((folders.model / "dataset.json").read_text())
    (folders.model / "dataset.json").write_text(json.dumps({**dataset, "channel_names": {"0": "CT", "1": "PET"}}))
    for path in [*folders.images.iterdir()]:
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))
    assert run(*arguments(folders, tmp_path / "ct")) == 0
    page = (tmp_path / "ct" / "index.html").read_text()
    assert "of 14, channel 0 (CT), soft-tissue window" in page
    assert "channel 0 (CT) in the window of the organ that hosts the class, with all" in page
    assert run(*arguments(folders, tmp_path / "pet", "--channel", "1")) == 0
    page = (tmp_path / "pet" / "index.html").read_text()
    assert "of 14, channel 1 (PET), percentiles 1 to 99" in page
    assert "channel 1 (PET) from percentile 1 to 99 of its grey values, with all" in page
    assert "The image is channel 1 (PET)." in page
    assert "window of the organ" not in page
    for number in ("2", "-1"):
        assert run(*arguments(folders, tmp_path / "none", "--channel", number)) == 2
        said = f"--channel {number} is none of the model's channels; give one of 0 (CT), 1 (PET)"
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ablate", "told"),
    [
        (["text", "experts"], ["It was trained without experts", "so it does not read them."]),
        (["text_shuffled"], ["a class reads the sentence of the next", "share of training patches"]),
    ],
)
def test_what_is_ablated_is_said(folders, tmp_path, ablate, told):
    path = folders.model / "plans.json"
    plans = json.loads(path.read_text())
    plans["mastpro"]["network"]["ablate"] = ablate
    path.write_text(json.dumps(plans))
    assert run(*arguments(folders, tmp_path / "out", "--panels", "0", "--viewer-cases", "0")) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(sentence in page for sentence in told)
    assert ("share of training patches" in page) == ("experts" not in ablate)


def test_several_processes_find_the_same(folders, tmp_path, monkeypatch, capsys):
    """Case by case in workers, each of which tells its shares in host organs."""
    from nnunetv2_mastpro.report import job

    given = ["-ref", folders.reference, "--maps", folders.maps, "--panels", "0", "--viewer-cases", "0"]
    assert run(*arguments(folders, tmp_path / "one", *given)) == 0
    monkeypatch.setattr(job, "check_case", None)  # not called in this process
    assert run(*arguments(folders, tmp_path / "two", *given, "-np", "2")) == 0
    pages = [(tmp_path / name / "index.html").read_text() for name in ("one", "two")]
    hosts = [re.search(r'<section id="hosts".*?</section>', page, re.DOTALL)[0] for page in pages]
    assert hosts[0] == hosts[1]
    assert "100%" in hosts[1]
    change(folders.predictions / "case_c.nii.gz", with_value_9)
    assert run(*arguments(folders, tmp_path / "two", *given, "-np", "2")) == 2
    assert "case_c.nii.gz has the unknown label 9" in capsys.readouterr().err


def test_shares_in_host_organs_are_of_the_label_maps_that_were_checked(folders, monkeypatch):
    """No file is read twice, and of the image the header alone."""
    from nnunetv2_mastpro.report import cases, job
    from nnunetv2_mastpro.report.draw import host_shares
    from nnunetv2_mastpro.report.model import read_model

    allow_ignoring(folders)
    change(folders.reference / "case_a.nii.gz", with_value_3)
    read = []
    files = [folder / "case_a.nii.gz" for folder in (folders.predictions, folders.reference, folders.maps)]
    case = cases.Case("case_a", folders.images / "case_a_0000.nii.gz", *files)
    model = read_model(folders.model, None, with_maps=True)
    expected = host_shares("case_a", cases.read_case(case, model.ignored), model)
    load = cases._read
    monkeypatch.setattr(cases, "_read", lambda path, *more: read.append(path) or load(path, *more))
    assert job.look_at((case, model)) == ({0, 1, 2}, expected)
    assert read == files
    assert [entry["host_ml"] > 0 for entry in expected] == [True, True]


def test_the_jobs_do_not_grow_with_what_dataset_json_says_of_cases(folders, tmp_path, monkeypatch):
    from nnunetv2_mastpro.report import job

    sizes, each = [], job.each
    monkeypatch.setattr(
        job, "each", lambda f, jobs, *more: sizes.append(len(pickle.dumps(jobs[0]))) or each(f, jobs, *more)
    )
    path = folders.model / "dataset.json"
    content = json.loads(path.read_text())
    for number in (0, 500):
        cases = {f"case_{n}": {"annotated": ["liver_tumor"]} for n in range(number)}
        path.write_text(json.dumps({**content, "mastpro": {"cases": cases}}))
        assert run(*arguments(folders, tmp_path / "out", "--panels", "0", "--viewer-cases", "0")) == 0
    assert sizes[0] == sizes[1] < 4000


def test_pictures_go_into_a_folder(folders, tmp_path, capsys):
    file, output = tmp_path / "file", tmp_path / "out"
    file.touch()
    assert run(*arguments(folders, output, "--pictures", file)) == 2
    assert f"--pictures {file} is a file; give a folder" in capsys.readouterr().err
    assert not output.exists()
    pictures = tmp_path / "pictures"
    given = [*arguments(folders, output, "--pictures", pictures), "--panels", "1"]
    assert run(*given) == run(*given) == 0  # again, over its own
    (first,) = pictures.iterdir()
    first.rename(pictures / "02_case_liver_tumor.png")  # as an earlier report with other scores wrote it
    shutil.copy(pictures / "02_case_liver_tumor.png", pictures / "100_case_liver_tumor.png")
    kept = [pictures / "01_my_own.png", pictures / "figure2.png"]
    Image.new("RGB", (2, 2)).save(kept[0])
    shutil.copy(pictures / "02_case_liver_tumor.png", kept[1])
    assert run(*given) == 0
    assert sorted(pictures.iterdir()) == sorted([first, *kept])
    other = shutil.copytree(folders.predictions, tmp_path / "others")
    capsys.readouterr()
    assert run(*[other if word == folders.predictions else word for word in given]) == 2
    assert f"holds {first.name} of {folders.predictions}; give another folder" in capsys.readouterr().err

"""What mastpro report refuses, and what it says where something is not there."""

import base64
import gzip
import json
import pickle
import re
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnunetv2_mastpro import cli


def arguments(folders, output, *more):
    return [
        "report",
        "-m",
        folders.model,
        "-i",
        folders.images,
        "-pred",
        folders.predictions,
        "-o",
        output,
        "-np",
        "1",
        *more,
    ]


def run(*given):
    return cli.main([str(one) for one in given])


def change(path, function):
    volume = sitk.ReadImage(path)
    sitk.WriteImage(function(volume), path)


def moved(volume):
    volume.SetOrigin([place + 5 for place in volume.GetOrigin()])
    return volume


def with_value_9(volume):
    volume[3, 3, 3] = 9
    return volume


def remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


SPOILS = {
    "another grid": (
        lambda f: change(f.predictions / "case_b.nii.gz", moved),
        r"predictions/case_b.nii.gz has size .* its image case_b_0000.nii.gz has .*; give files of the same",
    ),
    "another grid of the labels": (
        lambda f: change(f.reference / "case_c.nii.gz", lambda volume: volume[:-1]),
        r"labels/case_c.nii.gz has size \(31 30 14\)",
    ),
    "missing predictions": (
        lambda f: [(f.predictions / f"case_{name}.nii.gz").unlink() for name in "ac"],
        r"-pred \S+ lacks case_a, case_c of 3 cases",
    ),
    "another's predictions": (
        lambda f: [path.rename(path.with_name(f"x_{path.name}")) for path in f.predictions.glob("case_*")],
        r"-pred \S+ and -i \S+ have no case in common; one of them is another's",
    ),
    "missing labels": (lambda f: (f.reference / "case_a.nii.gz").unlink(), r"-ref \S+ lacks case_a of 3 cases"),
    "missing images": (lambda f: (f.images / "case_a_0000.nii.gz").unlink(), r"-i \S+ lacks case_a of 3 cases"),
    "missing maps": (lambda f: (f.maps / "case_a.nii.gz").unlink(), r"--maps \S+ lacks case_a of 3 cases"),
    "maps of other hosts": (
        lambda f: (f.maps / "anatomy.json").write_text('{"hosts": [{"value": 1, "structures": ["pancreas"]}]}'),
        r"maps has maps for 1 \(pancreas\), wanted are 1 \(liver\), .*; give --maps what mastpro anatomy -m MODEL",
    ),
    "unknown label": (
        lambda f: change(f.predictions / "case_b.nii.gz", with_value_9),
        r"case_b.nii.gz has the unknown label 9; the model knows 0, 1, 2",
    ),
    "unknown label of a map": (lambda f: change(f.maps / "case_b.nii.gz", with_value_9), r"has the unknown label 9"),
    "no number": (
        lambda f: change(f.reference / "case_b.nii.gz", lambda v: sitk.Cast(v, sitk.sitkFloat32) * 0.5),
        r"case_b.nii.gz has the unknown label 0.5",
    ),
    "no images": (lambda f: remove_all(f.images), r"-i \S+ has no cases \(files such as CASE_0000.nii.gz"),
    "no predictions": (lambda f: remove_all(f.predictions), r"-pred \S+ has no cases \(files such as CASE.nii.gz"),
    "no folder": (lambda f: shutil.rmtree(f.reference), r"-ref \S+ is no folder"),
    "no model": (lambda f: (f.model / "plans.json").unlink(), r"it has no plans.json\); give nnUNet_results"),
    "no training": (
        lambda f: (f.model / "fold_0" / "checkpoint_final.pth").rename(f.model / "fold_0" / "checkpoint_start.pth"),
        "has no fold with checkpoint_final.pth or",
    ),
    "no fold": (lambda f: shutil.rmtree(f.model / "fold_0"), "has no fold with checkpoint_final.pth or"),
    "torn": (
        lambda f: (f.predictions / "case_a.nii.gz").write_bytes(b"torn"),
        r"case_a.nii.gz is damaged or ends early",
    ),
    "cut short": (
        lambda f: (f.maps / "case_a.nii.gz").write_bytes((f.maps / "case_a.nii.gz").read_bytes()[:-20]),
        r"maps/case_a.nii.gz is damaged or ends early",
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_bad_input_is_one_sentence_and_no_page(folders, tmp_path, capsys, name):
    spoil, message = SPOILS[name]
    spoil(folders)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, "--maps", folders.maps)) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "error" in line]
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


BAD_OPTIONS = {
    ("--tolerance-mm", "-1"): "the tolerance -1 is no distance; give millimetres from 0 on",
    ("--lesion-overlap", "1.5"): "the lesion overlap 1.5 is no share",
    ("--patients", "case"): "--patients has 0 groups",
    ("--patients", "^(patient.)"): "finds no patient in the cases, such as case_a",
    ("--cases", "none.json"): "--cases none.json cannot be read",
}


@pytest.mark.parametrize("given", BAD_OPTIONS)
def test_options_about_scores_are_checked_before_volumes_are_read(folders, tmp_path, monkeypatch, capsys, given):
    from nnunetv2_mastpro.report import job

    monkeypatch.setattr(job, "look_at", None)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, *given)) == 2
    assert BAD_OPTIONS[given] in capsys.readouterr().err
    assert run(*arguments(folders, tmp_path / "out", *given)) == 2
    said = capsys.readouterr().err
    assert f"without -ref nothing is scored, and {given[0]} can change nothing; give -ref, or leave" in said
    assert not (tmp_path / "out").exists()


def test_a_page_of_another_is_not_overwritten(folders, tmp_path, capsys):
    (tmp_path / "index.html").write_text("<p>mine")
    assert run(*arguments(folders, tmp_path)) == 2
    assert "index.html is no report of mastpro" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "<p>mine"
    for _ in range(2):  # its own is
        assert run(*arguments(folders, tmp_path / "other", "--panels", "0", "--viewer-cases", "0")) == 0


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


def allow_ignoring(folders):
    path = folders.model / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": {**content["labels"], "ignore": 3}}))


def with_value_3(volume):
    volume[7, 11, 4] = 3
    return volume


def test_a_finding_is_not_called_made_up_where_the_tumour_may_be_ignored(folders, tmp_path):
    allow_ignoring(folders)
    change(folders.reference / "case_b.nii.gz", lambda volume: (volume == 1) * 3)
    change(folders.predictions / "case_b.nii.gz", lambda volume: volume * 0 + 1)
    maps = ("--maps", folders.maps)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, *maps, "--viewer-cases", "0")) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "case_b, liver tumor marked, though the case has none where it was looked for: slice" in page
    assert "Striped grey what the truth says to ignore" in page
    assert "What the truth says to ignore has no part in them." in page


def test_nothing_is_said_of_ignoring_where_labels_have_no_such_value(report):
    assert "ignore" not in re.sub(r"<script.*?</script>", "", report[1].read_text(), flags=re.DOTALL)


def test_what_the_truth_ignores_is_not_shown_as_a_class(folders, tmp_path):
    allow_ignoring(folders)

    def with_ignored(volume):
        volume[:, :, 0] = 3
        return volume

    change(folders.reference / "case_a.nii.gz", with_ignored)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, "--panels", "0")) == 0
    assert "What the truth says to ignore is not marked." in (tmp_path / "out" / "index.html").read_text()
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', (tmp_path / "out" / "index.html").read_text())
    truths = {case["name"]: case["truth"] for case in json.loads(data)["cases"]}
    voxels = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(truths["case_a"]))).get_fdata()
    assert set(np.unique(voxels)) == {0, 1, 2}


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


def test_a_class_counts_where_the_test_cases_annotate_it(folders, tmp_path):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({f"case_{name}": {"annotated": ["liver_tumor"]} for name in "ab"}))
    assert run(*arguments(folders, tmp_path / "report", "-ref", folders.reference, "--cases", file)) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    counts = re.findall(r">(\d of \d)<", page)
    assert counts == ["3 of 3", "1 of 1"]  # liver and lung tumours
    captions = re.findall(r"<figcaption>(case_\w), (\w+) tumor.*?HU(.*?)</figcaption>", page)
    told = {case: rest for case, organ, rest in captions if organ == "liver"}
    assert told == {"case_a": "", "case_b": "", "case_c": ""}, "of what the slice does not show nothing is said"


def test_a_class_that_a_case_does_not_annotate_is_told_where_it_is_predicted(folders, tmp_path):
    def with_lung_tumour_beside(volume):
        volume[1:3, 1:3, :] = 2
        return volume

    for name in "ab":
        change(folders.predictions / f"case_{name}.nii.gz", with_lung_tumour_beside)
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"case_a": {"annotated": ["liver_tumor"]}}))
    given = ["-ref", folders.reference, "--cases", file, "--viewer-cases", "0", "--pictures", tmp_path / "pictures"]
    assert run(*arguments(folders, tmp_path / "report", *given)) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    captions = re.findall(r"<figcaption>(case_\w), liver tumor.*?HU(.*?)</figcaption>", page)
    assert dict(captions) == {"case_a": "; not annotated in this case: lung tumor", "case_b": "", "case_c": ""}

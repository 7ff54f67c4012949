"""`mastpro plan` from its arguments to plans and output."""

import json

import pytest

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.config import MASTProConfig

HOSTS = {"a": {"host_structures": ["x", "y"]}, "b": {"host_structures": ["y", "z"]}}


def plan(*arguments):
    return cli.main(["plan", "-d", "777", *arguments])


def read(folder, name="MASTProPlans"):
    return json.loads((folder / f"{name}.json").read_text())


def block():
    return {key: value for key, value in MASTProConfig().to_dict().items() if key != "resolved"}


@pytest.mark.parametrize("dataset", ["777", "Dataset777_Test"])
def test_copy_holds_the_whole_block(write_dataset, plans, capsys, dataset):
    folder = write_dataset()
    assert cli.main(["plan", "-d", dataset]) == 0
    assert read(folder) == {**plans, "plans_name": "MASTProPlans", "mastpro": block()}
    out = capsys.readouterr().out
    assert out.split("Next:\n")[1].splitlines() == [
        "  nnUNetv2_preprocess -d 777 -plans_name MASTProPlans -c 3d_fullres",
        "  nnUNetv2_train 777 3d_fullres 0 -p MASTProPlans -tr nnUNetTrainerMASTPro",
    ]


def test_own_block_is_kept_and_completed(write_dataset, plans):
    folder = write_dataset()
    plans["mastpro"] = {"network": {"rank": 3}, "resolved": None}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert plan("-n", "mine") == 0
    expected = block()
    expected["network"]["rank"] = 3
    assert read(folder, "mine")["mastpro"] == expected


def test_anatomy_shows_the_table_and_the_way(write_dataset, capsys):
    folder = write_dataset()
    (folder / "nnUNetPlans_3d_fullres").mkdir()
    (folder / "nnUNetPlans_3d_fullres" / "case.pkl").touch()
    assert plan("--anatomy", "-n", "mine") == 0
    assert read(folder, "mine")["configurations"]["3d_fullres"]["previous_stage"] == "anatomy"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith(("value", "1 ", "2 "))] == [
        ["value", "label", "structures", "classes"],
        ["1", "liver_tumor", "liver", "liver_tumor"],
        ["2", "kidney_tumor", "kidney_right,", "kidney_left", "kidney_tumor"],
    ]
    assert any(line.startswith("warning: no host structure: thing;") for line in lines)
    assert lines[-3:] == [
        "Next:",
        "  mastpro anatomy -d 777 -p mine --masks FOLDER",
        "  nnUNetv2_train 777 3d_fullres 0 -p mine -tr nnUNetTrainerMASTPro",
    ]


def test_regions_name_all_labels_of_a_value(write_dataset, capsys):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": [1, 2], "liver_tumor": 2}}
    write_dataset(content)
    assert plan("--anatomy") == 0
    assert "1      liver  liver       liver, liver_tumor" in capsys.readouterr().out


def test_overlay_and_anatomy_together(write_dataset, capsys):
    folder = write_dataset()
    assert plan("--anatomy", "--overlay", "sts_small") == 0
    configuration = read(folder)["configurations"]["3d_fullres"]
    assert (configuration["spacing"], configuration["previous_stage"]) == ([3.0, 3.0, 3.0], "anatomy")
    assert configuration["data_identifier"].startswith("MASTProPlans_3d_fullres_")
    assert "nnUNetv2_preprocess -d 777 -plans_name MASTProPlans -c 3d_fullres" in capsys.readouterr().out


def test_other_plans_of_the_name_are_overwritten_on_request_only(write_dataset, capsys):
    folder = write_dataset()
    assert plan() == 0
    assert plan() == 0  # the same again
    first = read(folder)
    assert plan("--anatomy") == 2
    assert "MASTProPlans.json is there and differs" in capsys.readouterr().err
    assert read(folder) == first
    assert plan("--anatomy", "--overwrite") == 0
    assert read(folder) != first


def test_copies_of_dataset_json_that_differ_are_told(write_dataset, capsys):
    folder = write_dataset()
    content = json.loads((folder / "dataset.json").read_text())
    content["mastpro"] = {"prompts": {"thing": {"sentence": "A thing.", "host_structures": ["colon"]}}}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert plan("--anatomy") == 0
    out = capsys.readouterr().out
    assert "3      thing         colon" in out  # of the preprocessed copy
    assert "the mastpro sections of" in out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["-p", "absent"], "absent.json does not exist; run nnUNetv2_plan_and_preprocess"),
        (["-p", "dataset"], "does not hold nnU-Net plans"),
        (["-n", "nnUNetPlans"], "give another name"),
        (["-n", "dataset", "--overwrite"], "does not hold nnU-Net plans"),
        (["-n", "a__b"], "'a__b' cannot be the plans' name"),
        (["-n", "../a"], "cannot be the plans' name"),
        (["--overlay", "demmo"], "no plans overlay is called 'demmo'"),
    ],
)
def test_bad_input(write_dataset, capsys, arguments, match):
    folder = write_dataset()
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert plan(*arguments) == 2
    captured = capsys.readouterr()
    assert match in captured.err
    assert captured.out == ""
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("hosts", "match"),
    [
        ({}, "none of the classes a, b has a host structure"),
        (HOSTS, "form 3 sets, but a map can hold only the 2 labels"),
    ],
)
def test_hosts_that_a_map_cannot_hold(write_dataset, capsys, hosts, match):
    section = {name: {"sentence": f"This is {name}.", **hosts.get(name, {})} for name in "ab"}
    labels = {"background": 0, "a": 1, "b": 2}
    folder = write_dataset({"channel_names": {"0": "CT"}, "labels": labels, "mastpro": {"prompts": section}})
    assert plan("--anatomy") == 2
    assert match in capsys.readouterr().err
    assert not (folder / "MASTProPlans.json").exists()


def test_folders_that_are_not_there(write_dataset, monkeypatch, capsys):
    write_dataset()
    assert cli.main(["plan", "-d", "5"]) == 2
    assert "no single dataset 5" in capsys.readouterr().err
    monkeypatch.delenv("nnUNet_preprocessed")
    assert plan() == 2
    assert "nnUNet_preprocessed is not set" in capsys.readouterr().err

"""`mastpro prompts` from its arguments to its output."""

import argparse
import json

import pytest

from nnunetv2_mastpro.commands import prompts as command
from nnunetv2_mastpro.errors import MASTProError

CONTENT = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "spleen": 1, "liver_tumor": 2},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
ANSWER = {"tumor": "renal angiomyolipoma", "organ": "kidney", "shape": "round", "edge": "sharp", "modality": "CT"}


def run(*argv):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(argv))


@pytest.mark.parametrize("name", ["777", "Dataset777_Test"])
def test_lists_every_label(write_dataset, capsys, name):
    write_dataset(CONTENT)
    assert run("-d", name) == 0
    spleen, tumor = capsys.readouterr().out.split("\n\n")
    assert spleen.startswith("spleen\n")
    assert "other class" in spleen
    for part in (
        "knowledge base (liver_tumor)",
        "This is a liver tumor in the liver, appearing as",
        "kind       tumour type",
        "hosts      liver",
        "shipped (sentence-transformers/all-MiniLM-L6-v2)",
    ):
        assert part in tumor
    assert "nothing but the name" not in tumor


def test_label_by_name_only_is_shown_without_a_warning(write_dataset, capsys, monkeypatch, recwarn):
    import torch

    from nnunetv2_mastpro.prompts.encoder import Embeddings

    monkeypatch.setattr(command, "embed", lambda listed, name: Embeddings(torch.zeros(len(listed), 2), ("encoded",)))
    write_dataset({**CONTENT, "labels": {"background": 0, "elbow": 1}})
    assert run("-d", "777", "--encoder", "some/model") == 0
    shown = capsys.readouterr().out
    assert "label name only" in shown
    assert "encoded (some/model)" in shown
    assert "hosts      none" in shown
    assert "\nelbow: nothing but the name is known; fill in mastpro.prompts" in shown
    assert run("-d", "777", "--write", "--encoder", "some/model") == 0
    shown = capsys.readouterr().out
    assert '\nelbow: nothing but the name is known; put "tumor"' in shown, "writing it down made it no better"
    assert not [warning for warning in recwarn if "knowledge base" in str(warning.message)]


def test_the_copy_that_training_reads_is_shown(write_dataset, capsys):
    prompts = {"liver_tumor": {"sentence": "Only in the raw copy."}}
    raw, *_ = write_dataset({**CONTENT, "mastpro": {"prompts": prompts}}, ["nnUNet_raw"])
    run("-d", "777")
    assert "Only in the raw copy." in capsys.readouterr().out
    preprocessed, *_ = write_dataset(CONTENT, ["nnUNet_preprocessed"])
    run("-d", "777")
    shown = capsys.readouterr().out
    assert "Only in the raw copy." not in shown
    assert f"The mastpro sections of {raw} and {preprocessed} differ; training reads the latter" in shown


def test_plans_with_an_encoder_of_their_own_are_told(write_dataset, capsys):
    file, *_ = write_dataset(CONTENT, ["nnUNet_preprocessed"])
    plans = {"configurations": {}, "mastpro": {"prompts": {"encoder": "some/model"}}}
    for name, content in (("Mine", plans), ("nnUNetPlans", {"configurations": {}})):
        (file.parent / f"{name}.json").write_text(json.dumps(content))
    run("-d", "777")
    lines = [line for line in capsys.readouterr().out.splitlines() if "--encoder" in line]
    assert lines == ["Mine.json names the text encoder some/model; --encoder some/model shows its embeddings"]


def test_plans_that_name_no_encoder_or_are_bad_are_left_alone(write_dataset, capsys):
    """mastpro doctor tells of the second."""
    file, *_ = write_dataset(CONTENT, ["nnUNet_preprocessed"])
    for name, block in (("nnUNetPlans", {}), ("Bad", {"mastpro": {"netwrok": {}}})):
        (file.parent / f"{name}.json").write_text(json.dumps({"configurations": {}, **block}))
    command._say(command._other_encoders(file.parent, "some/model"))
    assert capsys.readouterr().out == ""


def test_nothing_is_written_unless_asked(write_dataset):
    paths = write_dataset(CONTENT)
    run("-d", "777")
    assert [json.loads(path.read_text()) for path in paths] == [CONTENT, CONTENT]


@pytest.mark.parametrize("copies", [["nnUNet_raw", "nnUNet_preprocessed"], ["nnUNet_raw"]])
def test_write(write_dataset, capsys, copies):
    paths = write_dataset(CONTENT, copies)
    assert run("-d", "777", "--write") == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("wrote")] == [f"wrote {path}" for path in paths]
    assert shown.count("from       dataset.json") == 2
    for path in paths:
        assert set(json.loads(path.read_text())["mastpro"]["prompts"]) == {"spleen", "liver_tumor"}


def test_describe_prints_entry_and_sentence(monkeypatch, capsys):
    monkeypatch.setenv("MASTPRO_LLM_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("MASTPRO_LLM_MODEL", "tiny")
    asked = []
    monkeypatch.setattr(command, "describe", lambda *args: asked.append(args) or ANSWER)
    assert run("--describe", "angiomyolipoma", "--timeout", "3") == 0
    assert asked[0][0] == "angiomyolipoma"
    assert asked[0][2] == 3.0
    entry, _, sentence = capsys.readouterr().out.rpartition("}\n")
    assert json.loads(f"{entry}}}") == {**ANSWER, "is_tumor": True, "host_structures": ["kidney_right", "kidney_left"]}
    assert sentence.startswith("This is a renal angiomyolipoma in the kidney")


def test_model_is_never_called_unless_asked(write_dataset, monkeypatch):
    monkeypatch.setenv("MASTPRO_LLM_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("MASTPRO_LLM_MODEL", "tiny")
    monkeypatch.setattr(command, "describe", lambda *args: pytest.fail("asked a model"))
    write_dataset(CONTENT)
    assert run("-d", "777", "--write") == 0


def test_a_misspelt_host_is_told(write_dataset, capsys):
    entry = {"is_tumor": True, "host_structures": ["brainn", "skull", "total_mr:brain"]}
    write_dataset({**CONTENT, "mastpro": {"prompts": {"liver_tumor": entry}}})
    assert run("-d", "777") == 0
    shown = capsys.readouterr().out
    assert "TotalSegmentator makes no brainn; did you mean 'brain'? Masks of your own may be called so." in shown
    assert "makes no skull" not in shown
    assert "makes no total_mr:brain" not in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing to do; give a dataset with -d"),
        (["--write"], "--write needs a dataset"),
        (["-d", "777", "--timeout", "0"], "--timeout 0 is not within 0 and 3600"),
        (["-d", "777", "--timeout", "nan"], "--timeout nan is not within"),
        (["-d", "999"], "no single dataset 999 in .*; give the id or the name"),
        (["-d", "liver"], "no single dataset liver in"),
        (["-d", "Dataset999_No"], "Dataset999_No has no dataset.json in .*; check"),
        (["--describe", "x"], "MASTPRO_LLM_URL is not set"),
    ],
)
def test_bad_arguments(nnunet_folders, argv, message):
    with pytest.raises(MASTProError, match=message):
        run(*argv)


def test_ambiguous_id(write_dataset):
    write_dataset(CONTENT, name="Dataset777_A")
    write_dataset(CONTENT, name="Dataset777_B")
    with pytest.raises(MASTProError, match="no single dataset 777 in .*, such as Dataset777_A, Dataset777_B"):
        run("-d", "777")


def test_nnunet_raw_not_set(nnunet_folders, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(MASTProError, match="nnUNet_raw is not set; export nnUNet_raw=FOLDER"):
        run("-d", "777")


def test_bad_section_is_one_sentence(write_dataset):
    write_dataset({**CONTENT, "mastpro": {"prompts": {"spleen": {"orgn": "spleen"}}}})
    with pytest.raises(MASTProError, match='unknown key "orgn"; did you mean "organ"'):
        run("-d", "777")


def test_encoder_that_cannot_be_had(write_dataset):
    pytest.importorskip("sentence_transformers")
    write_dataset(CONTENT)
    with pytest.raises(MASTProError, match="encoder nobody/nothing cannot be had offline"):
        run("-d", "777", "--encoder", "nobody/nothing")

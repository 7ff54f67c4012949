"""plans/recipes/paper.json against what it names: converters, classes, commands, and its dry run."""

import argparse
import importlib
import json
import shlex
from pathlib import Path

import pytest

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.convert.table import known
from nnunetv2_mastpro.planning.overlay import known_overlays
from nnunetv2_mastpro.processes import find_executable
from nnunetv2_mastpro.prompts import knowledge_base
from nnunetv2_mastpro.recipes.experiment import known_recipes, load_recipe

MSD = {  # labels of dataset.json in nnU-Net's conversion
    3: {"liver", "cancer"},
    6: {"cancer"},
    7: {"pancreas", "cancer"},
    8: {"Vessel", "Tumour"},
    9: {"spleen"},
    10: {"colon cancer primaries"},
}
WANTED = (  # of the experiment, and their order
    "mastpro convert",
    "mastpro merge",
    "nnUNetv2_plan_and_preprocess",
    "mastpro plan",
    "nnUNetv2_preprocess",
    "mastpro anatomy",
    "nnUNetv2_train",
    "mastpro merge",
    "mastpro weights",
    "nnUNetv2_train",
    "mastpro cv",
    "nnUNetv2_predict",
    "nnUNetv2_evaluate_folder",
)


@pytest.fixture(scope="module")
def paper():
    return load_recipe("paper")


def dry_run(capsys, *given) -> list[list[str]]:
    """The commands that it prints."""
    assert cli.main(["recipe", "paper", "--dry-run", *given]) == 0
    text = capsys.readouterr().out
    for start in text.split("<<'END'\n")[1:]:
        body = start.split("\nEND\n")[0]
        json.loads(body)
        text = text.replace(body, "")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(("mastpro", "nnUNetv2"))]


def test_recipes_are_no_overlays():
    assert known_recipes() == ["paper"]
    assert "paper" not in known_overlays()


def test_data_sets_are_those_of_the_paper(paper):
    section = {"BTCV", "CT-ORG", "Pancreas-CT", "CHAOS", "3D-IRCADb", "WORD", "AMOS", "AbdomenCT-1K", "LiTS", "KiTS"}
    assert section == {name for name in paper.data if not name.startswith("MSD_")}
    table_1 = {
        "MSD_Liver",
        "MSD_Lung",
        "MSD_Pancreas",
        "MSD_HepaticVessel",
        "MSD_Colon",
        "LiTS",
        "KiTS",
        "AbdomenCT-1K",
    }
    assert table_1 == {name for name, dataset in paper.data.items() if 2 in dataset.stages}
    assert all(1 in dataset.stages for dataset in paper.data.values())
    assert len({dataset.id for dataset in paper.data.values()} | {stage.id for stage in paper.stages}) == 18
    order = [2 in dataset.stages for dataset in paper.data.values()]
    assert order == sorted(order, reverse=True)  # a case that several sets have is called alike in both stages


def test_labels_are_those_that_the_converters_write(paper):
    for dataset in paper.data.values():
        if dataset.convert[0] == "mastpro":
            converter = known()[dataset.convert[2]]
            assert set(dataset.labels) == set(converter.labels), dataset.name
            assert dataset.folder == f"Dataset{dataset.id:03d}_{converter.name.replace('-', '')}"
            assert (dataset.page, dataset.licence) == (converter.page, converter.licence)
        else:
            assert set(dataset.labels) == MSD[dataset.id], dataset.name
            assert dataset.folder.removeprefix("Dataset0") == dataset.download.removeprefix("Task")
        for target in filter(None, dataset.labels.values()):
            assert knowledge_base.find(target).name == target


def test_mapping_leaves_out_what_is_not_there(paper):
    chosen = paper.choose(["LiTS", "BTCV", "CT-ORG"])
    mapping = paper.mapping(chosen)
    assert list(mapping["sources"]) == ["Dataset021_LiTS", "Dataset024_BTCV", "Dataset025_CTORG"]
    assert mapping["sources"]["Dataset025_CTORG"]["labels"]["bone"] is None
    assert mapping["nest"] == {"liver": ["liver_tumor"]}


def test_dry_run_prints_the_whole_sequence(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = dry_run(capsys)
    names = [" ".join(command[: 2 if command[0] == "mastpro" else 1]) for command in commands]
    place = 0
    for name in WANTED:
        place = names.index(name, place) + 1
    assert names.count("mastpro convert") == 10
    assert names.count("nnUNetv2_convert_MSD_dataset") == 6
    first, second = (command for command in commands if command[0] == "nnUNetv2_train")
    assert first[first.index("-tr") + 1] == "nnUNetTrainerMASTProPretrain"
    assert second[second.index("-tr") + 1] == "nnUNetTrainerMASTPro"
    weights = next(command for command in commands if command[:2] == ["mastpro", "weights"])
    assert second[second.index("-pretrained_weights") + 1] == weights[weights.index("-o") + 1]
    assert weights[weights.index("--from") + 1].endswith(
        "Dataset901_MASTProPretrain/nnUNetTrainerMASTProPretrain__MASTProPlans__3d_fullres/fold_0/checkpoint_final.pth"
    )
    assert all(command[-2:] == ["-num_gpus", "4"] for command in (first, second))
    overlay = next(command for command in commands if command[:2] == ["mastpro", "plan"])
    assert overlay[-3:] == ["--overlay", "swinunetr", "--anatomy"]
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_known_and_parses(capsys):
    """nnU-Net's are scripts of this environment; ours take the arguments."""
    for command in dry_run(capsys, "--epochs", "5", "--device", "cpu", "-np", "2"):
        if command[0] != "mastpro":
            assert Path(find_executable(command[0])).is_file()
            continue
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(cli.COMMANDS[command[1]]).add_arguments(parser)
        args = parser.parse_args(command[2:])
        assert getattr(args, "num_processes", 2) == 2, command


def test_subset_and_options(capsys):
    given = ["--overlay", "swinunetr_small", "--epochs", "1", "--device", "cpu", "-f", "3", "--masks", "."]
    commands = dry_run(capsys, "--only", "BTCV", "LiTS", *given)
    assert [command[2] for command in commands if command[1] == "convert"] == ["LiTS", "BTCV"]
    merges = [command for command in commands if command[1] == "merge"]
    assert [merge[merge.index("-d") + 1 : merge.index("-o")] for merge in merges] == [["21", "24"], ["21"]]
    assert merges[1][merges[1].index("--folds-of") + 1] == "901"
    trainings = [command for command in commands if command[0] == "nnUNetv2_train"]
    assert [command[command.index("-tr") + 1] for command in trainings] == [
        "nnUNetTrainerMASTProPretrain_1epoch",
        "nnUNetTrainerMASTPro_1epoch",
    ]
    assert all(
        command[1:4] == [str(number), "3d_fullres", "3"] for command, number in zip(trainings, (901, 902), strict=True)
    )
    assert all(command[-2:] == ["-device", "cpu"] for command in trainings)
    maps = next(command for command in commands if command[1] == "anatomy")
    assert maps[-2:] == ["--masks", str(Path().resolve())]


def test_organs_alone_have_no_second_stage(capsys):
    commands = dry_run(capsys, "--only", "BTCV")
    assert not any("902" in command for command in commands)
    assert commands[-1][0] == "nnUNetv2_train"

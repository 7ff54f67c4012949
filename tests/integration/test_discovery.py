"""nnU-Net finds what this installation brings: run from an unrelated folder, on an editable install and on a wheel."""

import json
import os
import re
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote, urlparse

from nnunetv2_mastpro.cli import COMMANDS
from nnunetv2_mastpro.resources import plans_dir, trainers_dir

MASTPRO = Path(sys.prefix) / "bin" / "mastpro"
MASTPRO_TRAINER = "nnUNetTrainerMASTPro"
LENGTHS = ("1epoch", "5epochs", "10epochs", "50epochs", "100epochs", "250epochs")
WITHOUT = ("NoText", "NoAnatomy", "NoExperts", "NoTextNoAnatomy", "NoTextNoExperts", "NoAnatomyNoExperts")
OTHERS = [f"{MASTPRO_TRAINER}{name}" for name in (*WITHOUT, "NoTextNoAnatomyNoExperts", "ShuffledText", "Pretrain")]
OTHERS += [f"nnUNetTrainer{name}" for name in ("Stock", "StockAdamW", "StockPartial", "Universal")]
TRAINERS = [MASTPRO_TRAINER, *(f"{MASTPRO_TRAINER}_{length}" for length in LENGTHS)]
TRAINERS += [name + length for name in OTHERS for length in ("", "_10epochs")]
SEARCH = """
import inspect, json, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
found = {name: find(name) for name in sys.argv[1:]}
print(json.dumps({name: [cls.__name__, cls.__module__, inspect.getfile(cls)] for name, cls in found.items()}))
"""


def without_plugin(env):
    return {name: value for name, value in env.items() if name != "nnUNet_extTrainer"}


def test_folders_belong_to_this_installation():
    """A wheel that found the checkout's folders would work here and nowhere else."""
    texts = [found.read_text("direct_url.json") for found in distributions(name="nnunetv2_mastpro")]
    origin = json.loads(next(filter(None, texts), "{}"))  # an egg-info that a build left in the checkout has none
    home = (
        Path(unquote(urlparse(origin["url"]).path))
        if origin.get("dir_info", {}).get("editable")
        else Path(sysconfig.get_path("purelib"), "nnunetv2_mastpro")
    )
    assert trainers_dir() == home.resolve() / "trainers"
    assert plans_dir() == home.resolve() / "plans"


def test_plans_are_json():
    overlays, recipes = (sorted(plans_dir().glob(pattern)) for pattern in ("*.json", "recipes/*.json"))
    assert overlays
    assert recipes
    for path in overlays + recipes:
        assert isinstance(json.loads(path.read_text()), dict), path


def test_evaluated_env_lets_nnunet_find_every_trainer(workspace, run_command, tmp_path):
    script = f'eval "$({MASTPRO} env)" && exec {sys.executable} -c "$0" "$@"'
    done = run_command(
        ["bash", "-c", script, SEARCH, *TRAINERS], env=without_plugin(workspace.env), cwd=tmp_path, timeout=300
    )
    found = json.loads(done.stdout.splitlines()[-1])
    package = Path(sys.modules["nnunetv2_mastpro"].__file__).resolve().parent
    for name in TRAINERS:
        class_name, module, file = found[name]
        assert class_name == name
        assert module.startswith("nnunetv2_mastpro."), module
        assert Path(file).resolve().is_relative_to(package), file


def test_env_keeps_folders_of_others(workspace, run_command, tmp_path):
    theirs = tmp_path / "their trainers"
    script = f'eval "$({MASTPRO} env)" && eval "$({MASTPRO} env)" && printf %s "$nnUNet_extTrainer"'
    done = run_command(["bash", "-c", script], env={**workspace.env, "nnUNet_extTrainer": str(theirs)}, cwd=tmp_path)
    assert done.stdout == os.pathsep.join([str(theirs), str(trainers_dir())])


def test_without_env_the_search_fails(workspace, run_command, tmp_path):
    argv = [sys.executable, "-c", SEARCH, TRAINERS[0]]
    done = run_command(argv, env=without_plugin(workspace.env), cwd=tmp_path, rc=1)
    assert f"Could not find requested nnunet trainer {TRAINERS[0]}" in done.stderr


def test_doctor_finds_the_trainer(workspace, run_command, tmp_path):
    """By nnU-Net's own search; what it says without the plugin is in tests/doctor."""
    lines = run_command(["mastpro", "doctor"], env=workspace.env, cwd=tmp_path).stdout.splitlines()
    assert any(line.startswith("OK    nnU-Net finds nnUNetTrainerMASTPro") for line in lines)
    assert not any(line.startswith("FAIL") for line in lines)


def test_every_command_came_along(run_command):
    shown = run_command(["mastpro", "--help"]).stdout
    for name in COMMANDS:
        assert re.search(rf"\n    {name}\s", shown)

"""The command line: exit status, what goes to which stream, and one command not holding up another."""

import os
import re
import shlex
import subprocess
import sys
from types import ModuleType

import pytest

from nnunetv2_mastpro import __version__, cli
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.resources import ext_trainers, trainers_dir

BROKEN_PIPE = """
import sys, time
from nnunetv2_mastpro import cli
time.sleep(0.5)
sys.exit(cli.main(["env"]))
"""
HEAVY = ("torch", "nnunetv2", "sentence_transformers", "totalsegmentator", "SimpleITK", "matplotlib", "scipy")


@pytest.fixture
def fail_with(monkeypatch):
    """`fail_with(error)` makes `mastpro env` raise it."""

    def prepare(error):
        def run(args):
            raise error

        module = ModuleType("failing", "Fails.")
        module.add_arguments, module.run = lambda parser: None, run
        monkeypatch.setitem(sys.modules, "failing", module)
        monkeypatch.setitem(cli.COMMANDS, "env", "failing")

    return prepare


def test_bad_input_is_one_sentence_and_2(fail_with, capsys):
    fail_with(MASTProError("top_k=9 exceeds\n  the 8 experts; lower it"))
    assert cli.main(["env"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "mastpro: error: top_k=9 exceeds the 8 experts; lower it\n"
    assert captured.out == ""


def test_a_misspelt_option_has_the_commands_usage_and_what_may_be_meant(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "-ref", "a", "-pred", "b", "--tolerence-mm", "3"])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("usage: mastpro evaluate")
    assert "unrecognized arguments: --tolerence-mm 3; did you mean '--tolerance-mm'?" in shown


def test_a_misspelt_command_is_told_what_may_be_meant(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["promts", "-d", "7"])
    assert left.value.code == 2
    assert "there is no command 'promts'; did you mean 'prompts'? `mastpro --help`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "predict"])
def test_what_nnunet_does_is_told(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "-d", "7"])
    assert f"nnU-Net's own does it, nnUNetv2_{name} " in capsys.readouterr().err


def test_american_spelling(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["add-tumor", "--help"])
    assert ended.value.code == 0
    assert "--write-prompts" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--debug", "env"], ["env", "--debug"]])
@pytest.mark.parametrize("error", [MASTProError("bad"), KeyboardInterrupt()])
def test_debug_shows_the_traceback(fail_with, arguments, error):
    fail_with(error)
    with pytest.raises(type(error)):
        cli.main(arguments)


def test_a_file_error_is_one_sentence_and_2(tmp_path):
    (tmp_path / "file").touch()
    mastpro = [sys.executable, "-m", "nnunetv2_mastpro", "demo", "-o", tmp_path / "file" / "demo"]
    done = subprocess.run(mastpro, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("mastpro: error: ")
    assert "check the path" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_error():
    """`mastpro prompts -d 7 | head -1`."""
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(BROKEN_PIPE)} | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert "Error" not in done.stderr


def test_interrupt_is_130(fail_with, capsys):
    fail_with(KeyboardInterrupt())
    assert cli.main(["env"]) == 130
    assert capsys.readouterr().err == "mastpro: interrupted\n"


def test_unexpected_errors_keep_their_traceback(fail_with):
    fail_with(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["env"])


def test_without_a_command_all_are_listed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^    {name}\b", shown, re.MULTILINE) for name in cli.COMMANDS)


@pytest.mark.parametrize("arguments", [["unknown"], ["env", "--unknown"], ["--debug"]])
def test_misuse_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: mastpro" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"nnunetv2_mastpro {__version__}\n"


def test_help_lists_every_command_without_heavy_imports():
    code = (
        "import sys\nfrom nnunetv2_mastpro import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in cli.COMMANDS:
        assert re.search(rf"\n    {name}\s", done.stdout)
    assert done.stdout.endswith("HEAVY []\n")


def test_one_broken_command_leaves_the_others_alone(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "demo", "nnunetv2_mastpro.commands.no_such_module")
    assert cli.main(["env"]) == 0
    assert capsys.readouterr().out.startswith("export nnUNet_extTrainer=")


def test_python_m_is_mastpro(run_command):
    done = run_command([sys.executable, "-m", "nnunetv2_mastpro", "--version"])
    assert done.stdout == f"nnunetv2_mastpro {__version__}\n"


@pytest.mark.parametrize(
    ("before", "kept"), [(None, []), ("", []), ("/a b:/c", ["/a b", "/c"]), ("/a::/c:", ["/a", "/c"])]
)
def test_env_appends(monkeypatch, capsys, before, kept):
    if before is None:
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    else:
        monkeypatch.setenv("nnUNet_extTrainer", before.replace(":", os.pathsep))
    assert cli.main(["env"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    export, assignment = shlex.split(line)
    assert export == "export"
    assert assignment == "nnUNet_extTrainer=" + os.pathsep.join([*kept, str(trainers_dir())])


def test_env_knows_its_folder_under_another_spelling(tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(trainers_dir())
    before = os.pathsep.join([str(link), "/other"])
    monkeypatch.setenv("nnUNet_extTrainer", before)
    assert ext_trainers() == before


def test_env_notes_unset_folders_on_stderr(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setenv("nnUNet_preprocessed", "")
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert cli.main(["env"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "nnUNet_raw" not in captured.err
    assert "nnUNet_preprocessed is not set" in captured.err
    assert "nnUNet_results is not set" in captured.err

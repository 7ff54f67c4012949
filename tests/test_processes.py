"""Work on many cases at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_mastpro.processes import each

SLOW = "xml.dom.pulldom"  # stands for it: nothing else imports it


def whats_there(name: str) -> tuple:
    return os.environ.get(name), SLOW in sys.modules, os.getpid()


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="workers are spawned here")
def test_workers_share_imports_and_have_todays_environment(tmp_path):
    """In an interpreter of its own, since the clean process lives as long as its parent."""
    code = f"""
import os, sys
sys.path.append({os.path.dirname(__file__)!r})
from nnunetv2_mastpro.processes import each
import test_processes
for value in ("first", "second"):
    os.environ["MASTPRO_TOLD"] = value
    found = list(each(test_processes.whats_there, ["MASTPRO_TOLD"] * 4, 2, "look", [test_processes.SLOW]))
    assert all(entry[:2] == (value, True) for entry in found), found
    assert os.getpid() not in [entry[2] for entry in found]
assert test_processes.SLOW not in sys.modules
"""
    run_python(code, tmp_path)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core, one thread")
@pytest.mark.parametrize("preload", [["numpy", "torch"], []], ids=["loaded before", "loaded later"])
def test_a_worker_computes_with_one_thread(tmp_path, preload):
    """Threads of as many workers as there are cores would wait for each other."""
    code = f"""
import sys
sys.path.append({os.path.dirname(__file__)!r})
from nnunetv2_mastpro.processes import each
import test_processes
here = test_processes.threads(None)
assert len(here) > 3 and set(here.values()) == {{2}}, here
for found in each(test_processes.threads, [0, 1], 2, "count", {preload}):
    assert len(found) > 3 and set(found.values()) == {{1}}, found
"""
    run_python(code, tmp_path, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2")


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="workers are spawned here")
def test_a_folder_of_the_packages_name_is_not_taken_for_it(tmp_path):
    """As a clone is, in the folder in which it was made: there the clean process found no module of the package."""
    (tmp_path / "nnunetv2_mastpro").mkdir()
    (tmp_path / "told.txt").write_text("here")
    code = f"""
import sys
sys.path[0] = {os.path.dirname(__file__)!r}
from nnunetv2_mastpro.processes import each
import test_processes
assert list(each(test_processes.read_here, ["told.txt"] * 2, 2, "look", ["nnunetv2_mastpro.listing"])) == ["here"] * 2
"""
    run_python(code, tmp_path)


def read_here(name: str) -> str:
    """By a path that is relative to where the parent is."""
    from nnunetv2_mastpro import __version__

    return Path(name).read_text() if __version__ else ""


def run_python(code: str, folder, **variables: str) -> None:
    env = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def threads(_) -> dict[str, int]:
    """Of every numerical library that is loaded, torch included, and of one that would be loaded now."""
    import numpy  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    found = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
    return found | {"torch": torch.get_num_threads(), "later": int(os.environ["OMP_NUM_THREADS"])}


def test_one_process_is_this_one():
    assert [entry[2] for entry in each(whats_there, ["HOME"], 1, "look")] == [os.getpid()]


def be_killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_an_error_and_not_a_wait(tmp_path):
    """As where memory runs out."""
    code = f"""
import sys
sys.path.append({os.path.dirname(__file__)!r})
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.processes import each
import test_processes
try:
    list(each(test_processes.be_killed, range(4), 2, "score cases"))
except MASTProError as error:
    assert 'a process of "score cases" ended unexpectedly after' in str(error), error
    assert "smaller -np" in str(error), error
else:
    raise AssertionError("no error")
"""
    run_python(code, tmp_path)

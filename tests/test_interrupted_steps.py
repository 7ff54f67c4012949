"""Runs that a signal ends, and two at once: no command stays behind, and none runs beside another."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps

SLEEPER = """
import os, sys
from pathlib import Path
from nnunetv2_mastpro.state import State
from nnunetv2_mastpro.steps import Step, run_steps
folder = Path(sys.argv[1])
code = "import os, pathlib, time; pathlib.Path(r'{}').write_text(str(os.getpid())); time.sleep(120)"
step = Step("a", "Sleep", (folder / "a",), ("python", "-c", code.format(folder / "pid")))
run_steps([step], State(folder, {"seed": 0}), folder / "logs", os.environ)
"""


@pytest.fixture
def sleeper(tmp_path):
    """A run in a process of its own, and the number of the command that it has started."""
    folder = tmp_path / "demo"
    heeding = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also where the tests run under nohup
    process = subprocess.Popen([sys.executable, "-c", heeding + SLEEPER, str(folder)], stderr=subprocess.DEVNULL)
    started = wait_for(lambda: (folder / "pid").is_file() and (folder / "pid").read_text())
    yield process, int(started)
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):
        os.kill(int(started), signal.SIGKILL)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def is_gone(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_too(sleeper, sent):
    process, command = sleeper
    process.send_signal(sent)
    assert process.wait(timeout=60) == 128 + sent
    assert is_gone(command)


def run_another(folder, wait=False):
    """In the same folder, a step that is quick."""
    step = Step("a", "Write", (folder / "a",), ("python", "-c", f"open({str(folder / 'a')!r}, 'w').close()"))
    state = State(folder, {"seed": 0})
    run_steps([step], state, folder / "logs", os.environ, wait)
    return state


def test_one_run_at_a_time(sleeper, tmp_path):
    (process, command), folder = sleeper, tmp_path / "demo"
    with pytest.raises(MASTProError, match=r"another run goes on in .*demo, or a command that it started; wait for it"):
        run_another(folder)
    process.kill()
    process.wait()
    with pytest.raises(MASTProError, match="another run goes on"):
        run_another(folder)  # the command has outlived its run
    os.kill(command, signal.SIGKILL)
    wait_for(lambda: is_gone(command))
    assert run_another(folder).steps["a"]


def test_another_run_is_waited_for_on_request(sleeper, tmp_path):
    process, command = sleeper
    ends = threading.Timer(1, process.terminate)
    ends.start()
    state = run_another(tmp_path / "demo", wait=True)
    ends.join()
    assert is_gone(command)
    assert state.steps["a"]

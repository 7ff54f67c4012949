"""Starts console scripts in processes of their own that need not import torch and the like anew.

nnU-Net's imports take ten seconds before a command does anything, and the tests run a hundred commands. So a server
(multiprocessing's) imports what nnU-Net builds on, once, and each command is a fork of it: with an environment, folder,
arguments and output of its own, and no module of nnU-Net or of this plugin imported yet.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PRELOADED = (
    "torch._dynamo",
    "torch.nn.parallel",
    "scipy.ndimage",
    "scipy.stats",
    "skimage.morphology",
    "pandas",
    "seaborn",
    "SimpleITK",
    "nibabel",
    "tifffile",
    "acvl_utils.cropping_and_padding.padding",
    "batchgenerators.dataloading.nondet_multi_threaded_augmenter",
    "batchgeneratorsv2.transforms.spatial.spatial",
    "dynamic_network_architectures.architectures.unet",
)
SERVER = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "Agg"}  # read by what is preloaded
AT_START = ("PYTHON", "LD_", "OMP_", "MKL_")  # variables that an interpreter or those modules read when they start


def can_fork(script: Path, env: Mapping[str, str] | None) -> bool:
    """Whether a command may be a fork: a script of this environment that asks for no other interpreter settings."""
    given = os.environ if env is None else env
    asked = {name: value for name, value in given.items() if name.startswith(AT_START)}
    served = {name: value for name, value in {**os.environ, **SERVER}.items() if name.startswith(AT_START)}
    return _is_python(script) and all(served.get(name) == value for name, value in asked.items())


def _is_python(script: Path) -> bool:
    if not script.is_file():
        return False
    with script.open("rb") as stream:
        first = stream.readline(200)
    return first.startswith(b"#!") and b"python" in first


def run_forked(argv: list[str], env: Mapping[str, str] | None, cwd: Path, timeout: float, logs: Path):
    """`subprocess.run` of a script, output captured; raises TimeoutExpired after `timeout` seconds, all ended."""
    files = [logs / "stdout", logs / "stderr"]
    context = _context()
    given = dict(os.environ if env is None else env)
    process = context.Process(target=_become, args=(argv, given, cwd, files, _search_path()))
    process.start()
    try:
        process.join(timeout)
        late = process.is_alive()
    finally:  # after a test's own timeout too
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    stdout, stderr = (file.read_text(errors="replace") if file.exists() else "" for file in files)
    if late:
        raise subprocess.TimeoutExpired(argv, timeout, stdout.encode(), stderr.encode())
    return subprocess.CompletedProcess(argv, process.exitcode, stdout, stderr)


@functools.cache
def _context():
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    before = dict(os.environ)
    os.environ.update(SERVER)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@functools.cache
def _search_path() -> list[str]:
    """Where a script of this environment finds modules, its own folder apart."""
    code = "import json, sys; print(json.dumps(sys.path[1:]))"
    found = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def _become(argv: list[str], env: dict[str, str], cwd: Path, files: list[Path], search_path: list[str]) -> None:
    """In the fork: what a shell and the interpreter do before a script's first line."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the platform's, not the server's
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, file in enumerate(files, 1):
        with file.open("wb") as stream:
            os.dup2(stream.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = argv
    sys.path[:] = [str(Path(argv[0]).parent), *search_path]
    runpy.run_path(argv[0], run_name="__main__")

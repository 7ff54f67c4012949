"""Commands as a user types them, and the same work on many cases at once."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nnunetv2_mastpro.errors import MASTProError


def find_executable(name: str) -> str:
    """A console script of this environment, or of the PATH; "python" is this one. Raises MASTProError."""
    beside = Path(sys.executable).parent / name
    found = sys.executable if name == "python" else str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise MASTProError(f"{name} is neither beside {sys.executable} nor on the PATH; reinstall nnunetv2")
    return found


def environment(added: Mapping[str, str]) -> dict[str, str]:
    """Of a command that is run: ours, with these variables; commands beside this Python go before all others."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONUNBUFFERED": "1", **added, "PATH": path}


def shell_line(command: Sequence[str]) -> str:
    """As a user would type it."""
    return shlex.join(command)


def number_of_processes(given: int | None) -> int:
    """What -np says, or nnU-Net's own number. Raises MASTProError for less than one."""
    from nnunetv2.configuration import default_num_processes

    number = default_num_processes if given is None else given
    if number < 1:
        raise MASTProError(f"-np {number} is below 1; give the number of processes")
    return number


def each(function: Callable, jobs: Sequence, num_processes: int, title: str, preload: Sequence[str] = ()) -> Iterator:
    """Results in the order of the jobs, with a progress bar; in this process where one is enough.

    `preload`: modules that `function` imports when it runs, which are slow to import.
    """
    starting = "" if num_processes == 1 else f", starting {min(num_processes, len(jobs))} processes"
    with tqdm(total=len(jobs), desc=f"{title}{starting}", unit="case") as bar:
        if num_processes == 1:
            for job in jobs:
                yield function(job)
                bar.update()
            return
        context, options = clean_processes(function.__module__, *preload)
        pool = ProcessPoolExecutor(min(num_processes, len(jobs)), context, **options)
        try:
            for result in pool.map(function, jobs):
                bar.set_description(title, refresh=False)
                yield result
                bar.update()
        except BrokenProcessPool as error:  # multiprocessing's own pool would wait for ever
            raise MASTProError(
                f'a process of "{title}" ended unexpectedly after {bar.n} of {len(jobs)} cases; if there is no reason '
                "above, memory may have run out: run it again with a smaller -np"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def clean_processes(*modules: str) -> tuple[multiprocessing.context.BaseContext, dict]:
    """A context for workers that inherit no threads or locks, and what its pools are to be given.

    Where the platform can, workers are forks of a clean process that has imported `modules`: once for all of them, and
    not in each. Else they are spawned. Each computes with one thread, since there are as many of them as wanted.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    options = {"initializer": _start_worker, "initargs": ({**os.environ, **one_thread},)}
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn"), options
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules])  # of no effect once it runs: workers then import by themselves
    _start_clean_process()
    return context, options


def _start_clean_process() -> None:
    """From a folder without modules: it has the current one on its path, where a clone of this project, a folder of the
    package's name, would be taken for the package. Workers go to the folder of their parent.
    """
    from multiprocessing import forkserver

    here = os.getcwd()
    os.chdir(Path(sys.executable).parent)
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(here)


def _start_worker(environ: dict[str, str]) -> None:
    """Take the environment of now, in place of that in which the clean process was started, and one thread."""
    os.environ.clear()
    os.environ.update(environ)  # for libraries that are loaded later
    threadpool_limits(1)  # of those that are loaded

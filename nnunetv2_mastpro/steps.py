"""Steps of the demo and of recipes: each is run once, logged, and remembered; a second run goes on where one ended."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.processes import find_executable, shell_line
from nnunetv2_mastpro.state import State

TAIL_LINES = 15
POLL_S = 0.5


@dataclass(frozen=True)
class Step:
    """A command, or a function of a progress bar. `outputs` are removed before it runs and must be there after it.

    `resume`: of a step that was begun with the same command, gives the command that goes on with what it left, or None
    where it has to begin anew. `source`: it reads nothing that other steps write, so it stays when an earlier one runs.
    `keeps`: the command itself knows what of its outputs is up to date, so they stay.
    """

    name: str
    title: str
    outputs: tuple[Path, ...]
    command: tuple[str, ...] = ()
    function: Callable | None = None
    total: int | None = None  # units of the bar
    follow: Callable[[], tuple[int, str]] | None = None  # units done, and what to say beside the bar
    resume: Callable[[], tuple[str, ...] | None] | None = None
    source: bool = False
    keeps: bool = False


def unfinished(steps: Sequence[Step], state: State) -> list[Step]:
    """Those that have to run: once one has run, all that follow it, but for sources."""
    found: list[Step] = []
    for step in steps:
        if state.seconds(step) is None or (found and not step.source):
            found.append(step)
    return found


def check_nothing_is_lost(steps: Sequence[Step], state: State) -> None:
    """Raise MASTProError before anything runs where a step that can go on, such as a training, would begin anew."""
    running = False
    for step in unfinished(steps, state):
        goes_on = step.source or (not running and state.was_begun(step))
        if step.resume and not goes_on and step.resume():
            raise MASTProError(
                f"{step.title}: {step.outputs[0]} was made with other options, or of what is now made anew, and would "
                "be lost; give the options of then, move it away to begin anew, or give -o another folder"
            )
        running = True


def run_steps(steps: Sequence[Step], state: State, logs: Path, environ: Mapping[str, str], wait: bool = False) -> None:
    """In order; finished ones are skipped, and once one has run, all that follow it run again, but for sources.

    `wait`: for another run in this folder. Raises MASTProError where a command fails, and before any where one would
    remove what another could go on with, and where another run goes on and is not waited for.
    """
    if not unfinished(steps, state):
        tell_finished(steps, state)
        return
    logs.mkdir(parents=True, exist_ok=True)
    with alone(state.path.with_suffix(".lock"), wait) as lock, ended_by_signals():
        state.refresh()
        check_nothing_is_lost(steps, state)
        _run(steps, state, logs, environ, lock)


def tell_finished(steps: Sequence[Step], state: State) -> None:
    for step in steps:
        print(f"\n{step.title}: finished earlier, in {spell(state.seconds(step))}", flush=True)


def _run(steps: Sequence[Step], state: State, logs: Path, environ: Mapping[str, str], lock: int) -> None:
    for number, step in enumerate(steps):
        seconds = state.seconds(step)
        if seconds is not None:
            tell_finished([step], state)
            continue
        state.forget([later.name for later in steps[number + 1 :] if not later.source])
        going_on = step.resume() if state.begin(step) and step.resume else None
        for path in () if going_on or step.keeps else step.outputs:
            remove(path)
        print(f"\n{step.title}", flush=True)
        started = time.monotonic()
        if step.command:
            command = going_on or step.command
            print(f"$ {shell_line(command)}", flush=True)
            run_command(step, command, logs / f"{step.name}.log", environ, lock)
        else:
            with progress(step.total) as show:
                step.function(show)
        missing = [path for path in step.outputs if not path.exists()]
        if missing:
            raise MASTProError(f"{step.title}: ended without writing {missing[0]}; see {logs / step.name}.log")
        seconds = time.monotonic() - started
        state.finish(step, seconds)
        print(f"  done in {spell(seconds)}", flush=True)


@contextmanager
def alone(file: Path, wait: bool) -> Iterator[int]:
    """Holds a lock on the file, and gives its descriptor: a command that has it, too, keeps the lock if it outlives us.

    Raises MASTProError where another run, or a command that it left behind, has it.
    """
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise MASTProError(
                f"another run goes on in {file.parent}, or a command that it started; wait for it, or end it "
                f"(fuser {file} tells its process)"
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            yield stream.fileno()
        finally:
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_UN)  # of whatever still has the descriptor, too


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP, of kill and of a closed terminal, end this run as an exception does, and so its command."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(step: Step, command: Sequence[str], log: Path, environ: Mapping[str, str], lock: int) -> None:
    """Output goes to the log; raises MASTProError with its tail when the command fails."""
    executable = find_executable(command[0])
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [executable, *command[1:]],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            with progress(step.total) as show:
                while process.poll() is None:
                    show(*(step.follow() if step.follow else (0, "")))
                    time.sleep(POLL_S)
                if process.returncode == 0 and step.total:
                    show(step.total, "")
        finally:
            stop(process)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()[-TAIL_LINES:]
        print("\n".join(f"  | {line}" for line in tail), file=sys.stderr, flush=True)
        raise MASTProError(
            f"{command[0]} ended with status {process.returncode}; its whole output is in {log}; "
            "repair what it names and run the same again: it goes on where it was"
        )


def stop(process: subprocess.Popen) -> None:
    """End what still runs of the command, its workers included."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def progress(total: int | None):
    """Gives show(done, note): a bar on a terminal, up to ten lines elsewhere."""
    from tqdm import tqdm

    on_terminal = sys.stdout.isatty()
    layout = None if total else "  {desc}{elapsed}"
    bar = tqdm(total=total, disable=not on_terminal, file=sys.stdout, leave=False, bar_format=layout)
    last = [0]

    def show(done: int, note: str = "") -> None:
        if on_terminal:
            bar.n = done
            if total:
                bar.set_postfix_str(note, refresh=False)
            bar.refresh()
        elif total and done * 10 // total != last[0]:
            print(f"  {done}/{total} {note}".rstrip(), flush=True)
            last[0] = done * 10 // total

    with bar:
        yield show


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def spell(seconds: float) -> str:
    """4 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

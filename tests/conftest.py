"""What every test may ask for: data, a nnU-Net workspace of its own, and the console scripts of this environment."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunetv2_mastpro.resources import trainers_dir

CALLERS_SETTINGS = ("nnUNet_", "MASTPRO_", "TOTALSEG_")  # of whoever runs the tests; none may leak in
TAIL_CHARACTERS = 6000


@dataclass(frozen=True)
class Workspace:
    """The three nnU-Net folders, empty, and an environment for subprocesses that points at them."""

    raw: Path
    preprocessed: Path
    results: Path
    env: dict[str, str]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with hippocampus, sts, totalsegmentator: $MASTPRO_TEST_DATA, else ../shared/data of the checkout."""
    named = os.environ.get("MASTPRO_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; set MASTPRO_TEST_DATA to one that has hippocampus/")
    return folder.resolve()


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory) -> Callable[[], Workspace]:
    """Call it for a fresh workspace; for fixtures that outlive one test, since planning and training are slow."""

    def make() -> Workspace:
        root = tmp_path_factory.mktemp("workspace")
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        folders = {name: root / name for name in names}
        for folder in folders.values():
            folder.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith(CALLERS_SETTINGS)}
        env |= {name: str(folder) for name, folder in folders.items()}
        env |= {
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "2",
            "MASTPRO_CACHE": str(root / "cache"),
            "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "Agg",
        }
        env.pop("PYTHONWARNINGS", None)
        return Workspace(folders["nnUNet_raw"], folders["nnUNet_preprocessed"], folders["nnUNet_results"], env)

    return make


@pytest.fixture
def workspace(make_workspace) -> Workspace:
    """A workspace for one test."""
    return make_workspace()


@pytest.fixture(scope="session")
def run_command(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """`run_command(["nnUNetv2_train", ...], env=..., cwd=..., timeout=..., rc=0)`: stdout and stderr apart, as text.

    Runs a console script of this environment, or anything else by its path, with stdin closed, and fails the test
    with the end of the output where it ends otherwise than by `rc` (None accepts any). Without cwd: an empty folder.
    """

    def run(cmd, env=None, cwd=None, timeout=300, rc=0) -> subprocess.CompletedProcess:
        script = Path(sys.prefix) / "bin" / str(cmd[0])
        argv = [str(script) if script.is_file() else str(cmd[0]), *map(str, cmd[1:])]
        try:
            done = subprocess.run(
                argv,
                env=env,
                cwd=cwd or tmp_path_factory.mktemp("cwd"),
                timeout=timeout,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired as error:
            shown = "".join(part.decode(errors="replace") for part in (error.stdout, error.stderr) if part)
            pytest.fail(f"{' '.join(argv)} ran past {timeout} s\n{shown[-TAIL_CHARACTERS:]}")
        if rc is not None and done.returncode != rc:
            shown = f"--- stdout\n{done.stdout[-TAIL_CHARACTERS:]}\n--- stderr\n{done.stderr[-TAIL_CHARACTERS:]}"
            pytest.fail(f"{' '.join(argv)} ended with {done.returncode}, not {rc}\n{shown}")
        return done

    return run

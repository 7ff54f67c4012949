"""What every test may ask for: data, a nnU-Net workspace of its own, and the console scripts of this environment."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunetv2_mastpro.resources import trainers_dir

sys.path.append(str(Path(__file__).parent))  # pytest's import mode leaves it out
import launcher  # noqa: E402

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: there are as many workers as cores

CALLERS_SETTINGS = ("nnUNet_", "MASTPRO_", "TOTALSEG_")  # of whoever runs the tests; none may leak in
TAIL_CHARACTERS = 6000
INTEGRATION = "tests/integration/"


@dataclass(frozen=True)
class Workspace:
    """The three nnU-Net folders, empty, and an environment for subprocesses that points at them."""

    raw: Path
    preprocessed: Path
    results: Path
    env: dict[str, str]


def real_data_folder() -> Path:
    """Folder with hippocampus, sts, totalsegmentator: $MASTPRO_TEST_DATA, else ../shared/data of the checkout."""
    named = os.environ.get("MASTPRO_TEST_DATA")
    return Path(named).resolve() if named else Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="start each command in a new interpreter, which takes longer")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process; so do all of tests/integration, which share what is slow to make."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, _ = nodeid.partition("::")
            return INTEGRATION if file.startswith(INTEGRATION) else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest, tests/integration, begins first."""
    items.sort(key=lambda item: not item.nodeid.startswith(INTEGRATION))


def pytest_report_header() -> str:
    folder = real_data_folder()
    if (folder / "hippocampus").is_dir():
        return f"real data: {folder}"
    return f"no real data in {folder} (MASTPRO_TEST_DATA names another folder): stock commands run on made-up images"


@pytest.fixture
def small_plans() -> dict:
    """Plans as nnU-Net writes them, of a two-dimensional network of some thousand parameters."""
    return json.loads(Path(__file__).with_name("small_plans.json").read_text())


@pytest.fixture
def small_dataset() -> dict:
    """Their dataset.json: an organ and two tumour types of the knowledge base, so that no encoder is loaded."""
    return json.loads(Path(__file__).with_name("small_dataset.json").read_text())


@pytest.fixture(scope="session")
def write_model() -> Callable[[Path, dict], Path]:
    """`write_model(folder, dataset_json)`: what a training of three epochs leaves, without weights of any use."""

    def write(folder: Path, dataset_json: dict) -> Path:
        import torch

        from nnunetv2_mastpro.config import ClassSpec, MASTProConfig, Resolved
        from nnunetv2_mastpro.planning.hosts import host_values
        from nnunetv2_mastpro.prompts.resolve import resolve_prompts

        prompts = resolve_prompts(dataset_json)
        classes = tuple(ClassSpec(p.label, p.sentence, p.is_tumor, tuple(p.host_structures)) for p in prompts)
        resolved = Resolved(classes, 384, True, host_values(dataset_json, classes))
        small_plans = json.loads(Path(__file__).with_name("small_plans.json").read_text())
        plans = {**small_plans, "mastpro": MASTProConfig(resolved=resolved).to_dict()}
        fold = folder / "fold_0"
        fold.mkdir(parents=True)
        for name, content in (("plans", plans), ("dataset", dataset_json)):
            (folder / f"{name}.json").write_text(json.dumps(content))
        logging = {
            "train_losses": [0.5, 0.1, -0.2],
            "val_losses": [0.4, 0.2, -0.1],
            "dice_per_class_or_region": [[0.1 * epoch] * len(classes) for epoch in range(3)],
            "lrs": [1e-3, 5e-4, 1e-4],
            "epoch_start_timestamps": [0.0, 10.0, 20.0],
            "epoch_end_timestamps": [9.0, 19.0, 29.0],
        }
        saved = {
            "network_weights": {},
            "init_args": {"configuration": "2d"},
            "trainer_name": "nnUNetTrainerMASTPro",
            "logging": logging,
        }
        torch.save(saved, fold / "checkpoint_final.pth")
        table = "MAST-Pro: parameters by part\npart   total   trainable\nbackbone  1,000  0\nall  1,234  234\n"
        (fold / "training_log_2026_1_1_00_00_00.txt").write_text(
            f"Length: 3 epochs of 7 training steps\n{table}Stages with experts: none\n"
        )
        tumors = [entry.label for entry in classes if entry.is_tumor]
        owners = {"generic": [0.9, 0.9, 0.1, 0.1], **{name: [0.5, 0.5] for name in tumors}}
        rows = {name: owners for name in ("all", *tumors)}
        usage = {"epoch": 2, "patches": dict.fromkeys(rows, 40), "kept": {"encoder_1": rows}}
        (fold / "expert_usage.json").write_text(json.dumps(usage))
        return folder

    return write


@pytest.fixture(scope="session")
def hippocampus(tmp_path_factory) -> Path:
    """Ten or more small MR images with two labels in nnU-Net's raw format; made up where the real ones are absent."""
    real = real_data_folder() / "hippocampus"
    return real if real.is_dir() else make_up_images(tmp_path_factory.mktemp("made_up"))


@pytest.fixture(scope="session")
def real_scan() -> Path:
    """Folder with ct.nii.gz and total_multilabel.nii.gz, TotalSegmentator's own masks of it; skips where absent."""
    return real_folder("totalsegmentator", "ct.nii.gz")


@pytest.fixture(scope="session")
def sarcoma() -> Path:
    """CT of soft-tissue sarcoma in nnU-Net's raw format; skips where absent."""
    return real_folder("sts", "dataset.json")


def real_folder(name: str, file: str) -> Path:
    """A folder of real CT that has the file; skips the test where it has not."""
    folder = real_data_folder() / name
    if not (folder / file).is_file():
        pytest.skip(f"no real CT in {folder}; MASTPRO_TEST_DATA names the folder of real data")
    return folder


def make_up_images(folder: Path, count: int = 10) -> Path:
    """A bright ellipsoid, its two halves of different brightness, in noise."""
    import numpy as np
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for index in range(count):
        shape = rng.integers((30, 46, 30), (38, 56, 38))
        place = [np.linspace(-1, 1, size) for size in shape]
        z, y, x = np.meshgrid(*place, indexing="ij")
        inside = (z / 0.5) ** 2 + (y / rng.uniform(0.6, 0.8)) ** 2 + (x / 0.4) ** 2 < 1
        label = inside * np.where(y < 0, 1, 2)
        image = rng.normal(100, 15, shape) + 60.0 * label
        for kind, values, ending in (("images", image, "_0000"), ("labels", label, "")):
            file = folder / f"{kind}Tr" / f"made_up_{index:03d}{ending}.nii.gz"
            sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.float32 if ending else np.uint8)), file)
    return folder


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
def run_command(tmp_path_factory, request) -> Callable[..., subprocess.CompletedProcess]:
    """`run_command(["nnUNetv2_train", ...], env=..., cwd=..., timeout=..., rc=0)`: stdout and stderr apart, as text.

    Runs a console script of this environment, or anything else by its path, with stdin closed, and fails the test
    with the end of the output where it ends otherwise than by `rc` (None accepts any). Without cwd: an empty folder.
    Scripts start by a fork (launcher.py), or in a new interpreter with --cold.
    """

    cold = request.config.getoption("cold")

    def run(cmd, env=None, cwd=None, timeout=300, rc=0) -> subprocess.CompletedProcess:
        script = Path(sys.prefix) / "bin" / str(cmd[0])
        argv = [str(script) if script.is_file() else str(cmd[0]), *map(str, cmd[1:])]
        folder = cwd or tmp_path_factory.mktemp("cwd")
        try:
            if not cold and launcher.can_fork(script, env):
                done = launcher.run_forked(argv, env, folder, timeout, tmp_path_factory.mktemp("run"))
            else:
                pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
                done = subprocess.run(argv, env=env, cwd=folder, timeout=timeout, **pipes)
        except subprocess.TimeoutExpired as error:
            shown = "".join(part.decode(errors="replace") for part in (error.stdout, error.stderr) if part)
            pytest.fail(f"{' '.join(argv)} ran past {timeout} s\n{shown[-TAIL_CHARACTERS:]}")
        if rc is not None and done.returncode != rc:
            shown = f"--- stdout\n{done.stdout[-TAIL_CHARACTERS:]}\n--- stderr\n{done.stderr[-TAIL_CHARACTERS:]}"
            pytest.fail(f"{' '.join(argv)} ended with {done.returncode}, not {rc}\n{shown}")
        return done

    return run

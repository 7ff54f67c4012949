"""Check that stock nnU-Net commands will run with the plugin; exit 1 if one would fail.

One line each: OK, WARN or FAIL, what was found, and the remedy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nnunetv2_mastpro.commands.doctor_anatomy import check_anatomy
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN, Finding
from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.edit import read_dataset_json
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.prompts.store import DEFAULT_ENCODER

TRAINER = "nnUNetTrainerMASTPro"
EVAL_REMEDY = 'run eval "$(mastpro env)" in this shell'
PACKAGES = ("torch", "torchvision", "dynamic-network-architectures", "sentence-transformers", "safetensors")
PROBE_TIMEOUT_S = 180
MARK = "mastpro-doctor:"  # before the line that a probe answers with: libraries print lines of their own
PROBES = {  # in processes of their own: as nnU-Net starts, with the user's environment, and nothing leaks between them
    "device": f"""
import torch, torchvision
mps = getattr(torch.backends, "mps", None)
kind = "cuda" if torch.cuda.is_available() else "mps" if mps is not None and mps.is_available() else "cpu"
print("{MARK}" + kind)
""",
    "trainer": f"""
import inspect
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
print("{MARK}" + inspect.getfile(recursive_find_trainer_class_by_name("{TRAINER}")))
""",
    "encoder": f"""
from nnunetv2_mastpro.prompts.encoder import embed
vectors = embed(["A sentence that neither ships with the package nor is cached."], *sys.argv[1:]).vectors
print("{MARK}" + str(vectors.shape[1]))
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set is optional: the rest of the report needs none."""
    parser.add_argument("-d", metavar="DATASET", dest="dataset", help="also check the prompts of this data set")


def run(args: argparse.Namespace) -> int:
    """Prints each finding as it is made; 1 if any failed."""
    failed = False
    for finding in findings(os.environ, args.dataset):
        print(finding, flush=True)
        failed |= finding.status == FAIL
    return int(failed)


def findings(environ: Mapping[str, str], dataset: str | None = None) -> Iterator[Finding]:
    """All checks; the slow ones run side by side while the quick ones are reported."""
    with tempfile.TemporaryDirectory() as scratch:
        extra = {"encoder": {"HF_HUB_OFFLINE": "1", "MASTPRO_CACHE": scratch}}
        probes = {name: _start(code, {**environ, **extra.get(name, {})}) for name, code in PROBES.items()}
        try:
            yield check_python(sys.version_info[:3])
            yield from check_packages()
            yield from check_folders(environ)
            yield from check_workers(environ)
            if dataset is not None:
                yield from check_dataset(dataset, environ)
            yield judge_device(*_answer(probes["device"]))
            yield judge_trainer(*_answer(probes["trainer"]), environ)
            yield judge_encoder(*_answer(probes["encoder"]))
        finally:
            for probe in probes.values():
                probe.kill()
                probe.communicate()


def check_python(found: tuple[int, ...]) -> Finding:
    """3.10 to 3.12."""
    text = f"Python {'.'.join(map(str, found))}"
    if (3, 10) <= tuple(found[:2]) <= (3, 12):
        return Finding(OK, text)
    return Finding(FAIL, text, "make the environment anew with Python 3.10 to 3.12")


def check_packages() -> Iterator[Finding]:
    """nnU-Net's release, since we build on its internals; the others need only be there."""
    installed = {name: _version(name) for name in ("nnunetv2", *PACKAGES)}
    nnunet = installed.pop("nnunetv2")
    if nnunet is not None and nnunet.startswith("2.8.") and nnunet != "2.8.0":
        yield Finding(OK, f"nnunetv2 {nnunet}")
    else:
        yield Finding(FAIL, f"nnunetv2 is {nnunet or 'not installed'}", 'pip install "nnunetv2>=2.8.1,<2.9"')
    missing = [name for name, found in installed.items() if found is None]
    if missing:
        yield Finding(FAIL, f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Finding(OK, ", ".join(f"{name} {found}" for name, found in installed.items()))


def check_folders(environ: Mapping[str, str]) -> Iterator[Finding]:
    """nnU-Net reads nnUNet_raw, and makes the other two where they are missing."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        made_by_nnunet = name != "nnUNet_raw"
        value = environ.get(name)
        if not value:
            yield Finding(FAIL, f"{name} is not set", f"export {name}=/path/to/{name}")
            continue
        folder = Path(value)
        if folder.is_dir():
            if os.access(folder, os.W_OK | os.X_OK):
                yield Finding(OK, f"{name} {folder}")
            else:
                status = FAIL if made_by_nnunet else WARN
                yield Finding(status, f"{name} {folder} cannot be written", f"chmod u+rwx {folder}, or choose another")
        elif made_by_nnunet and not folder.exists() and os.access(_nearest_folder(folder), os.W_OK | os.X_OK):
            yield Finding(WARN, f"{name} {folder} does not exist", "nnU-Net makes it; check the spelling")
        else:
            yield Finding(FAIL, f"{name} {folder} is no folder that can be used", f"mkdir -p {folder}")


def check_workers(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Numbers of processes: nnU-Net's planning refuses 0 data augmentation processes, its pools refuse 0 as well."""
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        value = environ.get(name)
        if value is None:
            continue
        try:
            sound = int(value) > 0
        except ValueError:
            sound = False
        if sound:
            yield Finding(OK, f"{name} {value}")
        else:
            yield Finding(FAIL, f"{name} is {value!r}: planning fails", f"export {name}=1, or unset {name}")


def check_dataset(dataset: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The prompts of the raw copy of dataset.json, of the preprocessed copy, and whether the two agree."""
    sections = {}
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        try:
            path = _dataset_json(dataset, environ.get(name))
            if path is None:
                continue
            content = read_dataset_json(path)
            prompts, notes = _resolve(content, path.parent.name)
        except MASTProError as error:
            yield Finding(FAIL, str(error))
            continue
        sections[name] = content.get("mastpro")
        tumors = sum(prompt.is_tumor for prompt in prompts)
        yield Finding(OK, f"{path}: {len(prompts)} classes, {tumors} of them tumours")
        yield from (Finding(WARN, note) for note in notes)
    yield from check_plans(dataset, environ)
    yield from check_anatomy(*(_folder(dataset, environ.get(name)) for name in ("nnUNet_raw", "nnUNet_preprocessed")))
    if not sections:
        yield Finding(FAIL, f"no readable dataset.json of {dataset}", "give an id or name that nnUNet_raw holds")
    elif len(sections) == 2 and sections["nnUNet_raw"] != sections["nnUNet_preprocessed"]:
        remedy = "training reads the preprocessed one: copy the section there"
        yield Finding(WARN, "the mastpro sections of the raw and the preprocessed dataset.json differ", remedy)


def check_plans(dataset: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The "mastpro" blocks of the data set's plans, and encoders of their own."""
    try:
        dataset_json = _dataset_json(dataset, environ.get("nnUNet_preprocessed"))
    except MASTProError:
        return  # told already
    for path in sorted(dataset_json.parent.glob("*.json")) if dataset_json else ():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield Finding(FAIL, f"{path} cannot be read as JSON ({error})", "restore or remove it")
            continue
        if not isinstance(content, dict) or not {"mastpro", "configurations"} <= content.keys():
            continue  # splits_final.json, say
        try:
            encoder = MASTProConfig.from_dict(content["mastpro"]).prompts.encoder
        except MASTProError as error:
            yield Finding(FAIL, f"{path}: {error}")
            continue
        if encoder == DEFAULT_ENCODER:
            yield Finding(OK, f"{path}: mastpro block")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            answer, error = _answer(_start(PROBES["encoder"], {**environ, "MASTPRO_CACHE": scratch}, encoder))
        if answer is None:
            yield Finding(FAIL, f"{path}: text encoder {encoder} does not run ({error})")
        else:
            yield Finding(OK, f"{path}: mastpro block, text encoder {encoder}, {answer} dimensions")


def judge_device(answer: str | None, error: str) -> Finding:
    """nnU-Net takes cuda unless it is told otherwise."""
    if answer is None:
        remedy = "install torch and torchvision of releases that belong together"
        return Finding(FAIL, f"torch and torchvision do not import ({error})", remedy)
    if answer == "cuda":
        return Finding(OK, "device cuda")
    return Finding(
        WARN, f"no CUDA device, {answer} only", f"add -device {answer} to nnUNetv2_train and nnUNetv2_predict"
    )


def judge_trainer(answer: str | None, error: str, environ: Mapping[str, str]) -> Finding:
    """nnU-Net's own search, so that what it finds is what nnUNetv2_train gets."""
    folders = environ.get("nnUNet_extTrainer")
    if answer is None:
        if not folders:
            return Finding(FAIL, f"nnU-Net does not find {TRAINER}: nnUNet_extTrainer is not set", EVAL_REMEDY)
        if "Could not find requested" in error:
            return Finding(FAIL, f"nnU-Net does not find {TRAINER} in nnUNet_extTrainer={folders}", EVAL_REMEDY)
        return Finding(FAIL, f"nnU-Net's search for {TRAINER} fails ({error})", "repair or remove what it names")
    package = Path(__file__).resolve().parents[1]
    if package not in Path(answer).resolve().parents:
        return Finding(WARN, f"{TRAINER} comes from {answer}, not from {package}", "remove the other from the list")
    return Finding(OK, f"nnU-Net finds {TRAINER}")


def judge_encoder(answer: str | None, error: str) -> Finding:
    """A sentence that is new must be embedded with no network, else labels that we do not know stop a training."""
    if answer is None:
        return Finding(FAIL, f"the default text encoder does not run offline ({error})", "reinstall nnunetv2_mastpro")
    return Finding(OK, f"text encoder runs offline, {answer} dimensions")


def _start(code: str, environ: Mapping[str, str], *arguments: str) -> subprocess.Popen:
    """Without the current folder on the path: console scripts do not have it either."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.pop(0)\n{code}", *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _answer(probe: subprocess.Popen) -> tuple[str | None, str]:
    """The marked line, or None and the last line of the error."""
    try:
        stdout, stderr = probe.communicate(timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {PROBE_TIMEOUT_S} s"
    marked = [line.removeprefix(MARK) for line in stdout.splitlines() if line.startswith(MARK)]
    if probe.returncode == 0 and marked:
        return marked[-1], ""
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), f"exit status {probe.returncode}")
    return None, last.strip()


def _dataset_json(dataset: str, folder: str | None) -> Path | None:
    """By nnU-Net's rule: a name that starts with Dataset, else the number in it. None where there is none."""
    if not folder or not Path(folder).is_dir():
        return None
    if dataset.startswith("Dataset"):
        names = [dataset]
    elif dataset.isdecimal():
        names = sorted(path.name for path in Path(folder).glob(f"Dataset{int(dataset):03d}_*"))
    else:
        raise MASTProError(f"-d {dataset} is neither an id nor a name that starts with Dataset; give 4 or Dataset004_X")
    if len(names) > 1:
        raise MASTProError(f"{folder} has {' and '.join(names)}; give each data set an id of its own")
    path = Path(folder, names[0], "dataset.json") if names else None
    return path if path is not None and path.is_file() else None


def _folder(dataset: str, folder: str | None) -> Path | None:
    """The data set's folder; None where there is none, or where that was told already."""
    try:
        path = _dataset_json(dataset, folder)
    except MASTProError:
        return None
    return None if path is None else path.parent


def _resolve(dataset_json: dict, dataset_name: str) -> tuple[tuple, list[str]]:
    """Prompts, and what their resolution warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompts = resolve_prompts(dataset_json, dataset_name)
    return prompts, [str(warning.message) for warning in caught]


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

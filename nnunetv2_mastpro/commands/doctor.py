"""Check that stock nnU-Net commands will run with the plugin; exit 1 if one would fail.

One line each: OK, WARN or FAIL, what was found, and the remedy.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from nnunetv2_mastpro.commands import probes
from nnunetv2_mastpro.commands.doctor_dataset import check_dataset
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN, Finding

EVAL_REMEDY = 'run eval "$(mastpro env)" in this shell'
TOLD = ("nnunetv2", "torch", "torchvision", "monai", "totalsegmentator")  # releases that a report of a fault needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set is optional: the rest of the report needs none."""
    parser.add_argument(
        "-d", metavar="DATASET", dest="dataset", help="also check this data set: prompts, plans, cases, maps"
    )


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
        running = {name: probes.start(code, {**environ, **extra.get(name, {})}) for name, code in probes.PROBES.items()}
        try:
            yield check_python(sys.version_info[:3])
            yield from check_packages()
            yield from check_folders(environ)
            yield from check_workers(environ)
            if dataset is not None:
                yield from check_dataset(dataset, environ)
            yield judge_device(*probes.answer(running["device"]))
            yield judge_trainer(*probes.answer(running["trainer"]), environ)
            yield judge_encoder(*probes.answer(running["encoder"]))
        finally:
            for probe in running.values():
                probe.kill()
                probe.communicate()


def check_python(found: tuple[int, ...]) -> Finding:
    """3.10 to 3.12."""
    text = f"Python {'.'.join(map(str, found))}"
    if (3, 10) <= tuple(found[:2]) <= (3, 12):
        return Finding(OK, text)
    return Finding(FAIL, text, "make the environment anew with Python 3.10 to 3.12")


def check_packages() -> Iterator[Finding]:
    """Each requirement of the installed package, by pip's own rules: later installations may have replaced one."""
    if _version("nnunetv2_mastpro") is None:
        yield Finding(FAIL, "nnunetv2_mastpro is not installed", "pip install . in its checkout")
        return
    needed = [Requirement(text) for text in requires("nnunetv2_mastpro") or ()]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    installed = {requirement.name: _version(requirement.name) for requirement in needed}
    unmet = False
    for requirement in needed:
        found = installed[requirement.name]
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            unmet = True
            told = f"{requirement.name} {found}" if found else f"{requirement.name} is not installed"
            yield Finding(FAIL, told, f'pip install "{requirement}"')
    if not unmet:
        yield Finding(OK, ", ".join(f"{name} {installed[name]}" for name in TOLD))


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


def judge_device(answer: str | None, error: str) -> Finding:
    """nnU-Net takes cuda unless it is told otherwise."""
    if error == probes.SLOW:
        return _slow("import torch and torchvision")
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
    if error == probes.SLOW:
        return _slow(f"search for {probes.TRAINER}")
    if answer is None:
        if not folders:
            return Finding(FAIL, f"nnU-Net does not find {probes.TRAINER}: nnUNet_extTrainer is not set", EVAL_REMEDY)
        if "Could not find requested" in error:
            return Finding(FAIL, f"nnU-Net does not find {probes.TRAINER} in nnUNet_extTrainer={folders}", EVAL_REMEDY)
        return Finding(FAIL, f"nnU-Net's search for {probes.TRAINER} fails ({error})", "repair or remove what it names")
    package = Path(__file__).resolve().parents[1]
    if package not in Path(answer).resolve().parents:
        return Finding(
            WARN, f"{probes.TRAINER} comes from {answer}, not from {package}", "remove the other from the list"
        )
    return Finding(OK, f"nnU-Net finds {probes.TRAINER}")


def judge_encoder(answer: str | None, error: str) -> Finding:
    """A sentence that is new must be embedded with no network, else labels that we do not know stop a training."""
    if error == probes.SLOW:
        return _slow("run the default text encoder")
    if answer is None:
        return Finding(FAIL, f"the default text encoder does not run offline ({error})", "reinstall nnunetv2_mastpro")
    return Finding(OK, f"text encoder runs offline, {answer} dimensions")


def _slow(what: str) -> Finding:
    return Finding(
        WARN, f"could not {what} within {probes.PROBE_TIMEOUT_S} s", "run it again when the machine is less busy"
    )


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""Folders, data sets and probes for `mastpro doctor`."""

import json
from pathlib import Path

import pytest

from nnunetv2_mastpro.commands import doctor, probes

LABELS = {"background": 0, "liver": 1, "liver_tumor": 2}


@pytest.fixture
def environ(tmp_path):
    """The three folders of nnU-Net, there and writable."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        folder.mkdir()
    return {name: str(folder) for name, folder in folders.items()}


@pytest.fixture
def write_dataset(environ):
    """`write_dataset("nnUNet_raw", mastpro=...)` writes a dataset.json into one of the folders."""

    def write(variable, name="Dataset004_Liver", **extra):
        folder = Path(environ[variable], name)
        folder.mkdir()
        content = {"labels": LABELS, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz", **extra}
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder / "dataset.json"

    return write


@pytest.fixture
def quick_probes(monkeypatch):
    """`quick_probes(name=code)` runs that code in place of the probe; by default all answer at once, and well."""

    def replace(**codes):
        answers = {"device": "cuda", "trainer": doctor.__file__, "encoder": "384"}
        codes = {name: f"print({probes.MARK + text!r})" for name, text in answers.items()} | codes
        monkeypatch.setattr(probes, "PROBES", codes)

    replace()
    return replace

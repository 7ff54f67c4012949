"""Fixtures of the prompts' tests: no test reads or writes the user's cache, calls a network, or asks a model."""

import json

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MASTPRO_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("MASTPRO_LLM_URL", "MASTPRO_LLM_KEY", "MASTPRO_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    """Empty nnUNet_raw and nnUNet_preprocessed, set in the environment."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    return folders


@pytest.fixture
def write_dataset(nnunet_folders):
    """Writes a dataset.json into the raw folder, the preprocessed one, or both; gives the files' paths."""

    def write(content, copies=("nnUNet_raw", "nnUNet_preprocessed"), name="Dataset777_Test"):
        paths = [nnunet_folders[copy] / name / "dataset.json" for copy in copies]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        return paths

    return write

"""A checkpoint carries its embeddings: prediction needs no text encoder, no cache, no network."""

import sys

import numpy as np
import pytest


@pytest.fixture
def no_encoder(tmp_path):
    """Environment in which sentence_transformers cannot be imported, and the cache is empty."""
    package = tmp_path / "blocked" / "sentence_transformers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('blocked by a test')\n")
    return {"PYTHONPATH": str(package.parent), "MASTPRO_CACHE": str(tmp_path / "empty")}


def test_predictions_are_bit_identical(lab, kinds, no_encoder, tmp_path):
    """Of a class whose sentence does not ship with the package either."""
    expected = lab.predicted("regions")
    blocked = lab.command(sys.executable, "-c", "import sentence_transformers", env=no_encoder, rc=1)
    assert "blocked by a test" in blocked.stderr
    lab.predict(kinds["regions"], tmp_path / "out", "-npp", "0", "-nps", "0", env=no_encoder)
    files = sorted(path.name for path in expected.glob("*.np[z]"))
    assert len(files) == 2
    for name in files:
        found, wanted = np.load(tmp_path / "out" / name), np.load(expected / name)
        assert np.array_equal(found["probabilities"], wanted["probabilities"])
        image = name.replace(".npz", ".nii.gz")
        assert (tmp_path / "out" / image).read_bytes() == (expected / image).read_bytes()
    assert not (tmp_path / "empty").exists()

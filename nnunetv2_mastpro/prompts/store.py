"""Embeddings that are known already: those that ship with the package, and the user's cache. D dimensions."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.prompts.knowledge_base import KNOWLEDGE_FOLDER

if TYPE_CHECKING:
    import torch

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SHIPPED_FILE = KNOWLEDGE_FOLDER / "all-MiniLM-L6-v2.safetensors"


def sentences_hash(sentences: tuple[str, ...]) -> str:
    """SHA-256 of an ordered list of sentences."""
    return hashlib.sha256(json.dumps(list(sentences)).encode()).hexdigest()


@cache
def shipped() -> dict[str, torch.Tensor]:
    """Vectors (D,) of the default encoder by sentence. Raises MASTProError where the file is not as we made it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(SHIPPED_FILE, framework="pt") as file:
            metadata, vectors = file.metadata(), file.get_tensor("vectors")
    except (OSError, SafetensorError) as error:
        raise MASTProError(f"{SHIPPED_FILE} cannot be read ({error}); reinstall nnunetv2_mastpro") from error
    sentences = tuple(json.loads(metadata["sentences"]))
    expected = (DEFAULT_ENCODER, DEFAULT_WEIGHTS_SHA256, sentences_hash(sentences))
    if (metadata["encoder"], metadata["weights_sha256"], metadata["sentences_sha256"]) != expected:
        raise MASTProError(f"{SHIPPED_FILE} was made by another encoder or altered; reinstall nnunetv2_mastpro")
    return dict(zip(sentences, vectors, strict=True))


def write_shipped(sentences: tuple[str, ...], vectors: torch.Tensor, path: Path = SHIPPED_FILE) -> None:
    """Writes the file that `shipped` reads: vectors (N, D), one per sentence."""
    from safetensors.torch import save

    metadata = {
        "encoder": DEFAULT_ENCODER,
        "weights_sha256": DEFAULT_WEIGHTS_SHA256,
        "sentences_sha256": sentences_hash(sentences),
        "sentences": json.dumps(list(sentences)),
    }
    write_atomically({path: save({"vectors": vectors.contiguous()}, metadata=metadata)})


def cache_folder() -> Path:
    """`$MASTPRO_CACHE`, else ~/.cache/nnunetv2_mastpro."""
    return Path(os.environ.get("MASTPRO_CACHE") or "~/.cache/nnunetv2_mastpro").expanduser()


def cache_file(identity: str, sentence: str) -> Path:
    """File of one sentence by one encoder; `identity` is its name, or a hash of a local folder's content."""
    return cache_folder() / f"{hashlib.sha256(json.dumps([identity, sentence]).encode()).hexdigest()}.safetensors"


def read_cached(identity: str, sentence: str) -> torch.Tensor | None:
    """The cached vector (D,), or None where there is none or the file is damaged."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        vector = load(cache_file(identity, sentence).read_bytes()).get("vector")
    except (OSError, SafetensorError):
        return None
    sound = vector is not None and vector.ndim == 1 and vector.dtype == torch.float32 and vector.isfinite().all()
    return vector if sound else None


def write_cached(identity: str, sentence: str, vector: torch.Tensor) -> None:
    """Keeps one vector (D,) for next time; a folder that cannot be written costs a warning, not the run."""
    from safetensors.torch import save

    path = cache_file(identity, sentence)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically({path: save({"vector": vector.contiguous()})})
    except OSError as error:
        warnings.warn(f"embedding not cached: {error}; set MASTPRO_CACHE to a folder you can write", stacklevel=2)

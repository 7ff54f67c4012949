"""Files of tensors, read without running code that they may hold: what torch.save wrote, and safetensors."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunetv2_mastpro import __version__
from nnunetv2_mastpro.errors import MASTProError

NUMBERS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)  # scores in logs
UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError)


def read_safely(file: Path, remedy: str):
    """What torch.save wrote: tensors, plain numbers and containers. Raises MASTProError for anything else."""
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # numpy 1, numpy 2
    allowed = [*names, np.dtype, *{type(np.dtype(number)) for number in NUMBERS}]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols; what cannot be read is told below
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        lines = str(error).strip().split("\n")  # torch's first line advises to run the code
        reason = next((line.strip() for line in lines if "Unpickler error" in line), lines[0])
        # torch asks for a report of the "bug" before it says what it found, which may be nothing
        reason = reason.rpartition("Unpickler error:")[2].strip()[:200] or "cut off, or of another kind"
        raise MASTProError(f"{file} cannot be read as a checkpoint ({reason}); {remedy}") from error


@contextmanager
def told_as(file: Path, kind: str, remedy: str) -> Iterator[None]:
    """MASTProError for whatever goes wrong while a safetensors file and what its header tells are read."""
    from safetensors import SafetensorError

    try:
        yield
    except MASTProError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise MASTProError(f"{file} cannot be read as {kind} ({reason}); {remedy}") from error


def read_with_header(file: Path, form: str, what: str, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file of this `form`; use it within told_as. Raises MASTProError."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stream:
        metadata = stream.metadata() or {}
        if metadata.get("format") != form:
            raise MASTProError(f"{file} is no {what} ({form}); {remedy}")
        return metadata, {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118


def hash_tensors(weights: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """SHA-256 over names, types, shapes and bytes, by sorted name."""
    digest = hashlib.sha256()
    for name in sorted(names):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def version_header() -> str:
    """For such a header, as JSON: of the plugin, nnU-Net and torch."""
    return json.dumps({"nnunetv2_mastpro": __version__, **{name: version(name) for name in ("nnunetv2", "torch")}})

"""Label maps read by nnU-Net's readers, (Z, Y, X), and whether two of them lie on one grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.geometry import TOLERANCE, origin_tolerance


def files_of(folder: Path, ending: str) -> list[Path]:
    """Files of a folder that end so, hidden ones left out, by name."""
    found = (path for path in folder.glob("*") if path.name.endswith(ending) and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def read(reader, path: Path) -> tuple[np.ndarray, dict]:
    """A segmentation (Z, Y, X) of whole numbers with the reader's properties. Raises MASTProError."""
    try:
        values, properties = reader.read_seg(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise MASTProError(f"{path} cannot be read ({error}); write it again") from error
    whole = values[0].astype(np.int32)
    if not np.array_equal(whole, values[0]):
        raise MASTProError(f"{path} holds values that are not whole numbers; give a label map, not an image")
    return whole, properties


def differences(ours: dict, theirs: dict) -> list[str]:
    """What differs between two geometries, in words: shape, spacing, origin, direction, affine."""
    found = []
    for key, value in ours.items():
        allowed = _allowed(key, value, ours)
        other = theirs.get(key)
        if isinstance(value, dict):
            found += differences(value, other)
        elif isinstance(value, str):
            found += [f"{key} {other}, not {value}"] if value != other else []
        elif np.shape(value) != np.shape(other) or not np.allclose(value, other, rtol=0, atol=allowed):
            found.append(f"{key} {_numbers(other)}, not {_numbers(value)}")
    return list(dict.fromkeys(found))


def _allowed(key: str, value, ours: dict) -> float | np.ndarray:
    """Of a geometry's part; an affine (4, 4) has the origin in its last column."""
    if key == "origin":
        return origin_tolerance(ours["spacing"])
    if np.shape(value) != (4, 4):
        return TOLERANCE
    allowed = np.full((4, 4), TOLERANCE)
    allowed[:3, 3] = origin_tolerance(np.linalg.norm(np.asarray(value)[:3, :3], axis=0))
    return allowed


def _numbers(values) -> str:
    return "(" + ", ".join(f"{value:g}" for value in np.ravel(values)) + ")"

"""Files of weights, read without running code that they may hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunetv2_mastpro.checkpoints import read_safely, told_as
from nnunetv2_mastpro.config import ClassSpec, MASTProConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some

STATES = ("network_weights", "state_dict", "net")  # of nnU-Net, of MONAI, of the Universal Model
WANTED = "give a checkpoint (.pth, .pt) or a .safetensors file that holds a network's weights"


@dataclass(frozen=True)
class Weights:
    """`content`: all that the file holds. `state`: the network's, without the "module." of a DDP wrapper."""

    file: Path
    content: dict
    state: dict[str, Tensor]

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """Of a MAST-Pro checkpoint; none where it does not tell them."""
        plans = self.content.get("init_args", {}).get("plans", {})
        resolved = MASTProConfig.from_dict(plans.get("mastpro", {})).resolved
        return () if resolved is None else resolved.classes


def read_weights(file: Path) -> Weights:
    """Raises MASTProError for a file that is not there, is damaged or holds no network's weights."""
    if not file.is_file():
        raise MASTProError(f"{file} is no file; {WANTED}")
    content = _read_safetensors(file) if _is_safetensors(file) else read_safely(file, WANTED)
    if not isinstance(content, dict):
        raise MASTProError(f"{file} holds a {type(content).__name__}, no network's weights; {WANTED}")
    found = next((content[name] for name in STATES if isinstance(content.get(name), dict)), content)
    state = {str(key).removeprefix("module."): value for key, value in found.items() if isinstance(value, Tensor)}
    if not state:
        raise MASTProError(f"{file} holds no network's weights but {some([*map(str, found)]) or 'nothing'}; {WANTED}")
    return Weights(file, content, state)


def _is_safetensors(file: Path) -> bool:
    """By its content: the length of the header in eight bytes, then JSON."""
    with file.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with told_as(file, "safetensors", WANTED):
        return load_file(file)

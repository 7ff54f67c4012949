"""datasets.json: per data set its layout, label values, classes by the knowledge base's names, and where that is told.

files: pairs of image and label, without their ending, below any folder; {case} stands for digits. highest_case: what
is numbered above is another modality. structures: regular expressions of mask folders. always: classes that were
looked for in every case, where others were only in the cases that have their masks. nnunet: nnU-Net's own converter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import nearest

MSD_COMMAND = "nnUNetv2_convert_MSD_dataset -i TaskXX_NAME -overwrite_id ID"


@dataclass(frozen=True)
class Dataset:
    """One entry. `labels`: class -> value in the files as they are downloaded."""

    name: str
    layout: str
    labels: dict[str, int]
    page: str
    licence: str
    source: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    highest_case: int | None = None
    structures: dict[str, str] = field(default_factory=dict)
    always: tuple[str, ...] = ()
    nnunet: str = ""

    @property
    def module(self) -> ModuleType:
        """What finds and reads its cases."""
        return import_module(f"nnunetv2_mastpro.convert.{self.layout}")

    @property
    def values(self) -> dict[str, int]:
        """class -> consecutive value, as nnU-Net asks."""
        return {name: number for number, name in enumerate(self.labels, 1)}

    def case_name(self, case: str) -> str:
        """Of the case with this number, unlike those of other data sets."""
        return f"{self.name.replace('-', '')}_{case}"


@dataclass(frozen=True)
class Case:
    """`image`: a file, or the folder of a DICOM series. `labels`: files or folders, as the layout has them.

    `annotated`: classes, where cases differ in what was looked for.
    """

    name: str
    image: Path
    labels: tuple[Path, ...]
    annotated: tuple[str, ...] = ()


@cache
def known() -> dict[str, Dataset]:
    """All data sets by name."""
    text = Path(__file__).with_name("datasets.json").read_text(encoding="utf-8")
    return {name: Dataset(name=name, **_tuples(entry)) for name, entry in json.loads(text).items()}


def find(name: str) -> Dataset:
    """Case and hyphens do not matter. Raises MASTProError naming the known ones."""
    for dataset in known().values():
        if _plain(dataset.name) == _plain(name):
            return dataset
    if _plain(name).startswith(("msd", "task")):
        raise MASTProError(f"{name} is nnU-Net's to convert; run {MSD_COMMAND}")
    raise MASTProError(f"no data set is called {name!r}; {nearest(name, list(known()))}known: {', '.join(known())}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _tuples(entry: dict) -> dict:
    return {
        key: tuple(tuple(one) if isinstance(one, list) else one for one in value) if isinstance(value, list) else value
        for key, value in entry.items()
    }

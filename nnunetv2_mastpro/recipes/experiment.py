"""plans/recipes/NAME.json, read and checked: data sets, how their classes merge, and the commands of each stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import nearest
from nnunetv2_mastpro.resources import plans_dir

FOLDER = "recipes"


@dataclass(frozen=True)
class DataSet:
    """`convert`: command with placeholders. `labels`: label of the converted set -> class of the merged one, or None.

    `download`: what the folder of the download has to be called, where the converter wants that.
    """

    name: str
    id: int
    folder: str
    stages: tuple[int, ...]
    page: str
    licence: str
    convert: tuple[str, ...]
    labels: dict[str, str | None]
    download: str = ""


@dataclass(frozen=True)
class Template:
    """A command with placeholders, and what it writes."""

    name: str
    title: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One merged data set, one training."""

    number: int
    id: int
    name: str
    trainer: str
    steps: tuple[Template, ...]

    @property
    def folder(self) -> str:
        """Of the merged data set."""
        return f"Dataset{self.id:03d}_{self.name}"


@dataclass(frozen=True)
class Experiment:
    """A recipe. `digest`: of what maps the classes, which no command tells."""

    name: str
    description: str
    paper: str
    notes: tuple[str, ...]
    settings: dict
    data: dict[str, DataSet]
    nest: dict[str, tuple[str, ...]]
    stages: tuple[Stage, ...]
    digest: str

    def choose(self, names: Sequence[str]) -> list[DataSet]:
        """In the recipe's order. Raises MASTProError for unknown names."""
        for name in names:
            if name not in self.data:
                known = list(self.data)
                raise MASTProError(
                    f"the recipe {self.name} has no data set {name!r}; {nearest(name, known)}known: {', '.join(known)}"
                )
        return [dataset for name, dataset in self.data.items() if name in names]

    def mapping(self, chosen: Sequence[DataSet]) -> dict:
        """What mastpro merge --map takes, for these data sets."""
        classes = {target for dataset in chosen for target in dataset.labels.values()}
        nest = {
            outer: [name for name in inside if name in classes]
            for outer, inside in self.nest.items()
            if outer in classes
        }
        return {
            "sources": {dataset.folder: {"labels": dataset.labels} for dataset in chosen},
            "nest": {outer: inside for outer, inside in nest.items() if inside},
        }


def known_recipes() -> list[str]:
    """Names that load_recipe takes."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def load_recipe(name: str) -> Experiment:
    """Raises MASTProError naming the known ones."""
    if name not in known_recipes():
        raise MASTProError(f"no recipe is called {name!r}; known: {', '.join(known_recipes())}")
    text = (_folder() / f"{name}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    stages = tuple(
        Stage(int(number), entry["id"], entry["name"], entry["trainer"], tuple(map(_template, entry["steps"])))
        for number, entry in content["stages"].items()
    )
    return Experiment(
        name=name,
        description=content["description"],
        paper=content["paper"],
        notes=tuple(content["notes"]),
        settings=content["settings"],
        data={key: _data_set(key, entry) for key, entry in content["data"].items()},
        nest={outer: tuple(inside) for outer, inside in content["nest"].items()},
        stages=stages,
        digest=_digest(content),
    )


def _digest(content: dict) -> str:
    labels = {entry["folder"]: entry["labels"] for entry in content["data"].values()}
    return hashlib.sha256(json.dumps([labels, content["nest"]]).encode()).hexdigest()[:12]


def _folder() -> Path:
    return plans_dir() / FOLDER


def _data_set(name: str, entry: dict) -> DataSet:
    return DataSet(name, **{**entry, "stages": tuple(entry["stages"]), "convert": tuple(entry["convert"])})


def _template(entry: dict) -> Template:
    return Template(entry["name"], entry["title"], tuple(entry["command"]), tuple(entry["outputs"]))

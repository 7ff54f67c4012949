"""The merged data set in nnUNet_raw, and its folds in nnUNet_preprocessed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.datasets import read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.merging.cases import MergedCase
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.sources import MARK, READER, Source
from nnunetv2_mastpro.merging.voxels import Rewrite, rewrite
from nnunetv2_mastpro.processes import each
from nnunetv2_mastpro.resources import nnunet_folder
from nnunetv2_mastpro.tasks import TESTS

SPLITS = "splits_final.json"
TEST_FOLDERS = ("imagesTs", "labelsTs")


@dataclass(frozen=True)
class Target:
    """Where the merged data set goes. `earlier`: its dataset.json of an earlier merge."""

    name: str
    raw: Path
    preprocessed: Path
    earlier: dict | None

    @property
    def values(self) -> dict[str, int]:
        """Of the classes of an earlier merge."""
        return self.earlier["mastpro"][MARK]["values"] if self.earlier else {}

    @property
    def sources(self) -> list[str]:
        """Of an earlier merge."""
        return self.earlier["mastpro"][MARK].get("sources", []) if self.earlier else []

    @property
    def tests(self) -> bool:
        """Whether the earlier merge was asked for test cases, as a later one then is."""
        return bool(self.earlier) and bool(self.earlier["mastpro"][MARK].get("tests"))


def find_target(identifier: int, name: str | None) -> Target:
    """Raises MASTProError for a bad name, and where a data set of this id is there that no merge wrote."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    root, preprocessed = nnunet_folder("nnUNet_raw"), nnunet_folder("nnUNet_preprocessed")
    if not 0 < identifier < 1000:
        raise MASTProError(f"-o {identifier} is not within 1 and 999; give the id of the merged data set")
    there = [str(found) for found in find_candidate_datasets(identifier)]
    if name is None and len(there) != 1:
        raise MASTProError(f"the data set {identifier} needs a name; give one with -n")
    if name is not None and (not name.isascii() or not name.replace("_", "").replace("-", "").isalnum()):
        raise MASTProError(f"-n {name!r} cannot be the name of a data set; use letters, digits and _")
    if name is not None and re.match(r"Dataset\d{3}_", name):
        raise MASTProError(f"-n {name} begins with the id, which -o gives; give -n {name[11:] or 'NAME'}")
    full = there[0] if name is None else f"Dataset{identifier:03d}_{name}"
    others = [found for found in there if found != full]
    if others:
        raise MASTProError(
            f"the id {identifier} belongs to {others[0]}; give another -o (a merge is renewed by its name)"
        )
    raw, earlier = root / full, None
    if raw.exists():
        earlier = read_json_object(raw / "dataset.json") if (raw / "dataset.json").is_file() else {}
        mastpro = earlier.get("mastpro")
        mark = mastpro.get(MARK) if isinstance(mastpro, dict) else None
        if not isinstance(mark, dict) or "values" not in mark:
            raise MASTProError(f"{raw} is there and was not written by mastpro merge; give another -o or -n")
        for folder in (raw / "imagesTr", *[raw / "imagesTs"] * bool(mark.get("tests"))):
            own = [path.name for path in sorted(folder.glob("*")) if not path.is_symlink()]
            if own:
                raise MASTProError(f"{folder} holds more than the links of a merge: {some(own)}; move the images away")
    return Target(full, raw, preprocessed / full, earlier)


def make_dataset_json(
    target: Target,
    sources: Sequence[Source],
    classes: Classes,
    merged: Sequence[MergedCase],
    link: bool,
    tests: Sequence[MergedCase] | None = None,
) -> dict:
    """dataset.json; what else an earlier one says in "mastpro" stays. `tests`: None where they are not merged."""
    first, earlier = sources[0].content, target.earlier or {}
    prompts: dict[str, dict] = {}
    for source in sources:
        for label, entry in source.prompts.items():
            if classes.targets[source.name].get(label):
                prompts.setdefault(classes.targets[source.name][label], entry)
    prompts |= earlier.get("mastpro", {}).get("prompts", {})
    mark = {
        "sources": [source.name for source in sources],
        "values": classes.values,
        "duplicates": {case.name: list(case.origins) for case in (*merged, *(tests or ())) if len(case.origins) > 1},
        **({} if tests is None else {"tests": True}),
    }
    content = {
        "channel_names": {str(number): name for number, name in enumerate(sources[0].channels)},
        "labels": classes.labels(),
        "numTraining": len(merged),
        "file_ending": first["file_ending"],
        "name": target.name,
        "description": f"Merged by mastpro from {', '.join(mark['sources'])}",
    }
    order = classes.paint_order()
    if order is not None:
        content["regions_class_order"] = order
    if READER in first:
        content[READER] = first[READER]
    if not link:
        content["dataset"] = {
            case.name: {
                "images": [refer(image, target.raw) for image in case.raw[0].images],
                "label": f"labelsTr/{_file(case, content)}",
            }
            for case in merged
        }
    mastpro = {**earlier.get("mastpro", {}), **({"prompts": prompts} if prompts else {}), "cases": _entries(merged)}
    if tests is not None:
        mastpro[TESTS] = _entries(tests)
    return {**content, "mastpro": {**mastpro, MARK: mark}}


def _entries(merged: Sequence[MergedCase]) -> dict:
    return {case.name: {"source": case.source, "annotated": list(case.annotated)} for case in merged}


def refer(image: str, folder: Path) -> str:
    """Relative to the folder where both lie in nnUNet_raw, so that this may be moved; else absolute."""
    path = Path(os.path.abspath(image))
    root = Path(os.path.abspath(folder)).parent
    return os.path.relpath(path, root / folder.name) if root in path.parents else str(path)


def write_merged(
    target: Target,
    content: dict,
    splits: list[dict],
    merged: Sequence[MergedCase],
    classes: Classes,
    workers: int,
    tests: Sequence[MergedCase] | None = None,
) -> None:
    """All of it, first under another name; of an earlier merge other folders stay. dataset.json comes last.

    Images are linked where dataset.json does not refer to them. The copy of dataset.json in nnUNet_preprocessed, which
    nnU-Net preprocesses by and trains with, is replaced where there is one.
    """
    _remove_leftovers(target.raw)
    scratch = target.raw.with_name(f".{target.name}.{os.getpid()}")
    try:
        jobs = []
        for name, cases in {"labelsTr": merged, **({} if tests is None else {"labelsTs": tests})}.items():
            (scratch / name).mkdir(parents=True)
            files = [scratch / name / _file(case, content) for case in cases]
            jobs += [
                Rewrite(case.raw, case.annotated_by, classes, file) for case, file in zip(cases, files, strict=True)
            ]
        for _ in each(rewrite, jobs, workers, "write labels"):
            pass
        if "dataset" not in content:
            _link(merged, scratch / "imagesTr", content["file_ending"])
        if tests is not None:
            _link(tests, scratch / "imagesTs", content["file_ending"])
        (scratch / "dataset.json").write_text(_json(content), encoding="utf-8")
        target.preprocessed.mkdir(parents=True, exist_ok=True)
        files, copy = {target.preprocessed / SPLITS: _json(splits).encode()}, target.preprocessed / "dataset.json"
        if copy.is_file():
            files[copy] = _json(content).encode()
        write_atomically(files)
        if target.earlier is None:
            os.replace(scratch, target.raw)
        else:
            if tests is not None and not target.tests:  # or a next run would take the folders for the user's own
                write_atomically({target.raw / "dataset.json": _json(_marked(target.earlier)).encode()})
            _replace(scratch, target.raw, ("labelsTr", "imagesTr", *(() if tests is None else TEST_FOLDERS)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _marked(earlier: dict) -> dict:
    """A dataset.json that says that test cases are merged, as `Target.tests` reads it."""
    mastpro = earlier["mastpro"]
    return {**earlier, "mastpro": {**mastpro, MARK: {**mastpro[MARK], "tests": True}}}


def _remove_leftovers(raw: Path) -> None:
    """Scratch folders of runs that were killed: those named by a process that is no more, or by this one's number."""
    for folder in raw.parent.glob(f".{raw.name}.*"):
        number = folder.name.removeprefix(f".{raw.name}.")
        if number.isascii() and number.isdigit() and (int(number) == os.getpid() or not _is_alive(int(number))):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _file(case: MergedCase, content: dict) -> str:
    return f"{case.name}{content['file_ending']}"


def _link(merged: Sequence[MergedCase], folder: Path, ending: str) -> None:
    folder.mkdir()
    for case in merged:
        for channel, image in enumerate(case.raw[0].images):
            (folder / f"{case.name}_{channel:04d}{ending}").symlink_to(os.path.realpath(image))


def _replace(scratch: Path, raw: Path, folders: Sequence[str]) -> None:
    """These folders and dataset.json, in the place of the earlier ones."""
    for name in folders:
        if (raw / name).exists():
            os.replace(raw / name, scratch / f"earlier_{name}")
        if (scratch / name).exists():
            os.replace(scratch / name, raw / name)
    os.replace(scratch / "dataset.json", raw / "dataset.json")


def _json(content: Mapping | list) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

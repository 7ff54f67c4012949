"""`mastpro convert`: everything is found and compared, then written case by case into a hidden folder, then named.

A run that was interrupted goes on in the hidden folder; nnU-Net sees the data set when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mastpro.convert.table import Case, Dataset, find
from nnunetv2_mastpro.convert.volumes import rewrite_labels, write_volume
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.processes import each
from nnunetv2_mastpro.resources import nnunet_folder

MARK = "convert"  # mastpro.convert of dataset.json
CONVERTED_BY = "mastpro convert"
BEGUN = "convert.json"


@dataclass(frozen=True)
class Job:
    """One case, and where it goes."""

    case: Case
    dataset: Dataset
    folder: Path
    copy: bool


def convert(args: Namespace, workers: int) -> int:
    """The command; 0 on success. Raises MASTProError before a file is written, but for files that cannot be read."""
    dataset = find(args.name)
    if not args.input.is_dir():
        raise MASTProError(f"-i {args.input} is no folder; give the unpacked download of {dataset.name}")
    target = find_target(args.output, args.identifier, dataset)
    mark = {"name": dataset.name, "folder": str(args.input.resolve())}
    cases = sorted(dataset.module.find_cases(args.input, dataset, args.trust_size), key=lambda case: case.name)
    check_names(cases, args.input)
    if target.exists():
        check_made(target, cases, args)
        print(f"finished earlier: {target}")
        return 0
    scratch = open_scratch(target, mark)
    jobs = [Job(case, dataset, scratch, args.copy) for case in cases]
    for _ in each(convert_case, jobs, workers, f"convert {dataset.name}"):
        pass
    remove_others(scratch, cases)
    write_dataset_json(scratch, target.name, dataset, cases, mark)
    (scratch / BEGUN).unlink()
    os.replace(scratch, target)
    print(
        f"wrote {target}: {len(cases)} cases, {', '.join(dataset.labels)}\nlicence: {dataset.licence} ({dataset.page})"
    )
    return 0


def check_names(cases: Sequence[Case], folder: Path) -> None:
    """Raise MASTProError for two cases of one name, next to each other in `cases`."""
    for one, other in zip(cases, cases[1:], strict=False):
        if one.name == other.name:
            raise MASTProError(
                f"{folder} has {one.name} twice, {one.image} and {other.image}; take one of them out of it"
            )


def remove_others(scratch: Path, cases: Sequence[Case]) -> None:
    """What a run that was killed left half-written, and cases that the download no longer has."""
    files = {f"imagesTr/{case.name}_0000.nii.gz" for case in cases} | {f"labelsTr/{case.name}.nii.gz" for case in cases}
    for path in scratch.glob("*Tr/*.nii.gz"):  # hidden ones too; what else there is, nnU-Net does not read
        if path.relative_to(scratch).as_posix() not in files:
            path.unlink()


def check_made(target: Path, cases: Sequence[Case], args: Namespace) -> None:
    """Raise MASTProError unless an earlier conversion, which is there, made what is asked for now."""
    made = {path.name for path in (target / "labelsTr").iterdir()}
    new = [case.name for case in cases if f"{case.name}.nii.gz" not in made]
    if new:
        raise MASTProError(f"{target} is there and lacks {some(new)}; remove it to convert anew, or give another -d")
    links = [path for path in (target / "imagesTr").iterdir() if path.is_symlink()]
    lost = sorted(path.name for path in links if not path.exists())
    if lost:
        raise MASTProError(
            f"{target} is there with links to images that are no longer where they were ({some(lost)}); move these "
            "back, or remove it to convert anew"
        )
    before = Path(_mark_of(target).get("folder", args.input))
    if before.exists() and before.resolve() != args.input.resolve():
        raise MASTProError(
            f"{target} was made from {before}; give that for -i, or another -d, or remove it to convert anew"
        )
    if args.copy and links:
        raise MASTProError(f"{target} is there with links to images; remove it to convert with --copy")


def find_target(output: Path | None, identifier: int, dataset: Dataset) -> Path:
    """The folder to write, which exists only where a conversion of this data set wrote it. Raises MASTProError."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    root = nnunet_folder("nnUNet_raw", ", or give -o") if output is None else output
    if not 0 < identifier < 1000:
        raise MASTProError(f"-d {identifier} is not within 1 and 999; give the id of the new data set")
    if not root.is_dir():
        raise MASTProError(f"{root} is no folder; make it, or give another -o")
    target = root / f"Dataset{identifier:03d}_{dataset.name.replace('-', '')}"
    there = {str(name) for name in find_candidate_datasets(identifier)}
    there |= {path.name for path in root.glob(f"Dataset{identifier:03d}_*")}
    others = sorted(there - {target.name})
    if others:
        raise MASTProError(f"the id {identifier} belongs to {others[0]}; give another -d")
    if target.exists() and _mark_of(target).get("name") != dataset.name:
        raise MASTProError(f"{target} is there and was not written by mastpro convert; give another -d")
    return target


def _mark_of(folder: Path) -> dict:
    try:
        mark = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["mastpro"][MARK]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return mark if isinstance(mark, dict) else {}


def open_scratch(target: Path, mark: dict[str, str]) -> Path:
    """The hidden folder, new or of a run that was interrupted. Raises MASTProError where that read another download."""
    scratch = target.with_name(f".{target.name}.converting")
    begun = scratch / BEGUN
    if begun.is_file() and json.loads(begun.read_text(encoding="utf-8")) != mark:
        raise MASTProError(f"{scratch} was begun from another download; remove it, or give -i as then")
    if not begun.is_file():
        shutil.rmtree(scratch, ignore_errors=True)
    for name in ("imagesTr", "labelsTr"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    write_atomically({begun: json.dumps(mark).encode()})
    return scratch


def convert_case(job: Job) -> None:
    """Image, then label: a case whose label is there is finished."""
    image_file = job.folder / "imagesTr" / f"{job.case.name}_0000.nii.gz"
    label_file = job.folder / "labelsTr" / f"{job.case.name}.nii.gz"
    if label_file.exists() and image_file.exists() and not (job.copy and image_file.is_symlink()):
        return
    image, label = job.dataset.module.read(job.case, job.dataset)
    table = {0: 0, **{value: job.dataset.values[name] for name, value in job.dataset.labels.items()}}
    label = rewrite_labels(label, table, job.case.labels[0])
    image_file.unlink(missing_ok=True)
    if image is not None:
        write_volume(image, image_file)
    elif job.copy:
        staged = image_file.with_name(f".{image_file.name}")
        shutil.copyfile(job.case.image, staged)
        os.replace(staged, image_file)
    else:
        image_file.symlink_to(os.path.abspath(job.case.image))
    write_volume(label, label_file)


def write_dataset_json(folder: Path, name: str, dataset: Dataset, cases: Sequence[Case], mark: dict[str, str]) -> None:
    """As nnU-Net writes it; who looked for what goes to mastpro.cases where cases differ in it."""
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    mastpro: dict[str, dict] = {MARK: mark}
    annotated = {case.name: {"source": name, "annotated": list(case.annotated)} for case in cases if case.annotated}
    if annotated:
        mastpro["cases"] = annotated
    generate_dataset_json(
        str(folder),
        {0: "CT"},
        {"background": 0, **dataset.values},
        len(cases),
        ".nii.gz",
        dataset_name=name,
        reference=dataset.page,
        license=dataset.licence,
        converted_by=CONVERTED_BY,
        mastpro=mastpro,
    )

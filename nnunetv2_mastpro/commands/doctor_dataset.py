"""The data set's side of `mastpro doctor`: prompts, cases and plans."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from nnunetv2_mastpro.commands import probes
from nnunetv2_mastpro.commands.doctor_anatomy import check_anatomy
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN, Finding
from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.datasets import read_json_object, training_files
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.network.planned import refuse
from nnunetv2_mastpro.planning.anatomy import inherited, plans_files
from nnunetv2_mastpro.prompts.resolve import resolve_prompts
from nnunetv2_mastpro.prompts.store import DEFAULT_ENCODER
from nnunetv2_mastpro.tasks import TESTS, Cases, read_cases, with_cases

NETWORK_KEYS = ("architecture", "patch_size", "spacing", "data_identifier")


def check_dataset(dataset: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The prompts of the raw copy of dataset.json, of the preprocessed copy, and whether the two agree."""
    sections, bad = {}, set()
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        try:
            path = _dataset_json(dataset, environ.get(name))
            if path is None:
                continue
            content = read_json_object(path)
            prompts, notes = _resolve(content, path.parent.name)
            labels = [prompt.label for prompt in prompts]
            cases = read_cases(content, labels)
            read_cases(with_cases(content), labels)  # test cases too
        except MASTProError as error:
            if str(error) not in bad:  # of both copies
                yield Finding(FAIL, str(error))
            bad.add(str(error))
            continue
        sections[name] = {key: value for key, value in content.get("mastpro", {}).items() if key != TESTS}
        tumors = sum(prompt.is_tumor for prompt in prompts)
        classes = "1 class" if len(prompts) == 1 else f"{len(prompts)} classes"
        found = f"{path}: {classes}, {tumors} of them for tumours"
        if tumors:
            yield Finding(OK, found)
        else:
            yield Finding(WARN, f"{found}: no experts of their own", 'set "is_tumor": true in mastpro.prompts')
        yield from (Finding(WARN, note) for note in notes)
        if cases.partial:
            counts = f"{cases.number_partial()} of {len(cases.annotated)} named cases"
            yield Finding(OK, f"mastpro.cases: {counts} annotate some of the classes only")
        yield from check_case_names(path.parent, content, cases)
    yield from check_plans(dataset, environ)
    raw, preprocessed = (_folder(dataset, environ.get(name)) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    if raw is not None and not bad and not any(plans_files(preprocessed)):
        from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

        remedy = f"nnUNetv2_plan_and_preprocess -d {convert_dataset_name_to_id(raw.name)} -c 3d_fullres"
        yield Finding(WARN, f"{raw.name} has no plans, so nothing can be trained yet", remedy)
    yield from check_anatomy(raw, preprocessed)
    yield from check_preprocessed(raw, preprocessed)
    if not sections and not bad and environ.get("nnUNet_raw"):  # that it is not set is told already
        yield Finding(FAIL, f"no readable dataset.json of {dataset}", "give an id or name that nnUNet_raw holds")
    elif len(sections) == 2 and sections["nnUNet_raw"] != sections["nnUNet_preprocessed"]:
        raw, preprocessed = (section.get("cases") for section in sections.values())
        remedy = "training reads the preprocessed one: copy the section there"
        level = WARN if raw == preprocessed else FAIL  # then a class that nobody looked for may count as background
        what = "mastpro sections" if raw == preprocessed else "mastpro.cases"
        yield Finding(level, f"the {what} of the raw and the preprocessed dataset.json differ", remedy)


def check_case_names(folder: Path, content: dict, cases: Cases) -> Iterator[Finding]:
    """Whether mastpro.cases names training cases only: training refuses others."""
    try:
        there = training_files(folder, content) if (folder / "imagesTr").is_dir() or "dataset" in content else {}
    except (OSError, KeyError, AssertionError):
        return  # nnU-Net's own check of the data set tells it better
    yield from check_files(folder, there)
    missing = cases.not_among(there)
    if there and missing:
        text = f"mastpro.cases names {some(missing)}, which {folder} does not hold"
        yield Finding(FAIL, text, "correct the names, or remove the entries; training refuses them")


def check_preprocessed(raw: Path | None, preprocessed: Path | None) -> Iterator[Finding]:
    """Whether the preprocessed cases are those of the raw data set, which a later merge may have changed."""
    if raw is None or preprocessed is None:
        return
    try:
        there = training_files(raw, read_json_object(raw / "dataset.json"))
    except (MASTProError, OSError, KeyError, AssertionError):
        return  # told already
    for data in sorted({path.parent for path in preprocessed.glob("*/*.pkl")}):
        differ = sorted({path.stem for path in data.glob("*.pkl")} ^ {*there})
        if differ:
            text = f"{data} and dataset.json have not the same cases: {some(differ)}"
            yield Finding(WARN, text, "preprocess again, as after a later merge")


def check_files(folder: Path, there: Mapping[str, Mapping]) -> Iterator[Finding]:
    """Whether the files of training cases are there, and what the links of merge --test in imagesTs lead to."""
    lost = [path for path in sorted((folder / "imagesTs").glob("*")) if not path.exists()]
    if (folder / "labelsTr").is_dir():  # the preprocessed copy's paths are the raw one's
        lost += [path for one in there.values() for path in (*one["images"], one["label"]) if not path.is_file()]
    if lost:
        told = some([str(path) for path in lost])
        yield Finding(
            FAIL, f"{folder} names files that are not there: {told}", "move them back, or merge or convert anew"
        )


def check_plans(dataset: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The "mastpro" blocks of the data set's plans, and encoders of their own."""
    try:
        dataset_json = _dataset_json(dataset, environ.get("nnUNet_preprocessed"))
    except MASTProError:
        return  # told already
    for path in sorted(dataset_json.parent.glob("*.json")) if dataset_json else ():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield Finding(FAIL, f"{path} cannot be read as JSON ({error})", "restore or remove it")
            continue
        if not isinstance(content, dict) or not {"mastpro", "configurations"} <= content.keys():
            continue  # splits_final.json, say
        try:
            config = MASTProConfig.from_dict(content["mastpro"])
        except MASTProError as error:
            yield Finding(FAIL, f"{path}: {error}")
            continue
        refused = [*check_networks(path, content)]
        yield from refused
        encoder = config.prompts.encoder
        if encoder == DEFAULT_ENCODER:
            if not refused:
                yield Finding(OK, f"{path}: mastpro block")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            answer, error = probes.answer(
                probes.start(probes.PROBES["encoder"], {**environ, "MASTPRO_CACHE": scratch}, encoder)
            )
        if answer is None:
            yield Finding(FAIL, f"{path}: text encoder {encoder} does not run ({error})")
        else:
            yield Finding(OK, f"{path}: mastpro block, text encoder {encoder}, {answer} dimensions")


def check_networks(file: Path, plans: dict) -> Iterator[Finding]:
    """Configurations whose patch training refuses: a failure where none of those with data is left."""
    refused, sound = {}, False
    for name in plans["configurations"]:
        try:
            found = {key: inherited(plans["configurations"], name, key) for key in NETWORK_KEYS}
            data = file.parent / found.pop("data_identifier")
            reason = refuse({key: value for key, value in found.items() if value is not None})
        except (MASTProError, KeyError, TypeError):
            continue  # not whole, as an overlay; nnU-Net tells
        ready = any(data.glob("*.pkl"))
        sound = sound or (ready and reason is None)
        if reason:
            refused[name] = (reason, ready)
    for name, (reason, ready) in refused.items():
        yield Finding(FAIL if ready and not sound else WARN, f"{file}, {name}: {reason}")


def _dataset_json(dataset: str, folder: str | None) -> Path | None:
    """By nnU-Net's rule: a name that starts with Dataset, else the number in it. None where there is none."""
    if not folder or not Path(folder).is_dir():
        return None
    if re.match(r"Dataset\d{3}", dataset):
        names = [dataset]
    elif dataset.isdecimal():
        names = sorted(path.name for path in Path(folder).glob(f"Dataset{int(dataset):03d}_*"))
    else:
        raise MASTProError(f"-d {dataset} is neither an id nor a name that starts with Dataset; give 4 or Dataset004_X")
    if len(names) > 1:
        raise MASTProError(f"{folder} has {' and '.join(names)}; give each data set an id of its own")
    path = Path(folder, names[0], "dataset.json") if names else None
    return path if path is not None and path.is_file() else None


def _folder(dataset: str, folder: str | None) -> Path | None:
    """The data set's folder; None where there is none, or where that was told already."""
    try:
        path = _dataset_json(dataset, folder)
    except MASTProError:
        return None
    return None if path is None else path.parent


def _resolve(dataset_json: dict, dataset_name: str) -> tuple[tuple, list[str]]:
    """Prompts, and what their resolution warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompts = resolve_prompts(dataset_json, dataset_name)
    return prompts, [str(warning.message) for warning in caught]

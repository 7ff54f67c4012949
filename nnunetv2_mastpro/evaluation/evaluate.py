"""A folder of predictions against a folder of references, both in nnU-Net's format.

`evaluate` gives a JSON-ready dict; what is undefined or not known is None:

    reference, prediction    the folders
    tolerance_mm, lesion_overlap, confidence of the intervals, units that these draw ("cases" or "patients")
    number_of_units          all of them, whatever they annotate
    number_of_cases
    presumed_complete        cases that count as wholly annotated since mastpro.cases, which has others, lacks them
    unexpected               cases whose reference holds a class that they do not annotate by dataset.json
    classes, tumours         labels in the order of the network's outputs; those that are tumours
    rows                     per case and class: case, unit (patient), source (None: not known), class, annotated;
                             Dice, NSD, HD95_mm (conventions: metrics.py), has_reference, has_prediction,
                             has_ignored (voxels that are not scored), reference_ml, prediction_ml; of tumours
                             lesions, lesions_found, lesions_predicted, lesions_false, false_lesions_ml (volume of
                             the false lesions), and bands: the four counts by size (lesions.py). All None where the
                             case does not annotate the class; unexpected: then, whether the reference holds it
    summary                  see summary.py: classes, macro, sources; numbers are {"mean", "low", "high", "cases",
                             "units"}
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.datasets import label_values
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.cases import Job, Scoring, check_case, score_case, scored_classes
from nnunetv2_mastpro.evaluation.statistics import CONFIDENCE
from nnunetv2_mastpro.evaluation.summary import summarise
from nnunetv2_mastpro.label_maps import files_of
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.patients import find_patient, patient_pattern
from nnunetv2_mastpro.processes import each
from nnunetv2_mastpro.tasks import read_cases

SLOW_TO_IMPORT = ("nnunetv2_mastpro.evaluation.surfaces",)  # by the processes that check first, and score then


def evaluate(
    reference: Path,
    prediction: Path,
    dataset_json: Mapping,
    *,
    tolerance_mm: float = 2.0,
    workers: int = 2,
    lesion_overlap: float = 0.0,
    patients: str | None = None,
    chill: bool = False,
) -> dict:
    """See the module's docstring. Checks every case before it scores one. Raises MASTProError.

    `patients`: a pattern whose one group in a case's name is the patient, which the bootstrap then draws. `chill`:
    references without a prediction are left out, as nnU-Net's --chill.
    """
    jobs = make_jobs(
        reference,
        prediction,
        make_scoring(dataset_json, reference, tolerance_mm, lesion_overlap),
        dataset_json,
        patients=patients,
        chill=chill,
    )
    check(jobs, workers)
    return assemble(jobs, score(jobs, workers))


def make_scoring(dataset_json: Mapping, reference: Path, tolerance_mm: float, lesion_overlap: float) -> Scoring:
    """Raises MASTProError for bad options, labels, or a folder without references."""
    from nnunetv2_mastpro.prompts.resolve import resolve_quietly

    check_options(tolerance_mm, lesion_overlap)
    files = _files(reference, dataset_json, "references")
    prompts = resolve_quietly(dict(dataset_json))
    reader = _reader(dataset_json, files[0])
    values = label_values(dataset_json)
    return Scoring(
        classes=scored_classes(prompts, dataset_json),
        ignore_value=values["ignore"][0] if "ignore" in values else None,
        reader=reader,
        tolerance_mm=float(tolerance_mm),
        lesion_overlap=float(lesion_overlap),
    )


def check_options(tolerance_mm: float, lesion_overlap: float) -> None:
    """Raises MASTProError."""
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise MASTProError(f"the tolerance {tolerance_mm:g} is no distance; give millimetres from 0 on")
    if not 0 <= lesion_overlap <= 1:
        raise MASTProError(f"the lesion overlap {lesion_overlap:g} is no share; give one from 0 to 1")


def _reader(dataset_json: Mapping, file: Path):
    """nnU-Net's reader of such files. It tries the file, and prints a traceback for each that cannot read it."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return determine_reader_writer_from_dataset_json(dict(dataset_json), str(file))()
    except RuntimeError as error:
        raise MASTProError(
            f"none of nnU-Net's readers takes {file}; write it again, or correct file_ending in dataset.json"
        ) from error


def make_jobs(
    reference: Path,
    prediction: Path,
    scoring: Scoring,
    dataset_json: Mapping,
    *,
    patients: str | None = None,
    chill: bool = False,
) -> list[Job]:
    """One per case, by name. Raises MASTProError for cases that lack a file, and for a bad pattern of patients."""
    ending = dataset_json["file_ending"]
    references = {path.name: path for path in _files(reference, dataset_json, "references")}
    predictions = {path.name: path for path in _files(prediction, dataset_json, "predictions")}
    if reference.resolve() == prediction.resolve():
        raise MASTProError(f"-ref and -pred are the same folder, {reference}; give labels and predictions")
    if predictions.keys().isdisjoint(references):
        raise MASTProError(
            f"{prediction} and {reference} have no case in common; give the folder of predictions with -pred and that "
            "of their labels with -ref"
        )
    strange = sorted(predictions.keys() - references.keys())
    if strange:
        raise MASTProError(
            f"{reference} has no reference of {len(strange)} predicted cases, {some(_names(strange, ending))}; give "
            "the labels of the predicted images with -ref"
        )
    missing = sorted(references.keys() - predictions.keys())
    if missing and not chill:
        raise MASTProError(
            f"{prediction} lacks {len(missing)} of {len(references)} cases, {some(_names(missing, ending))}; predict "
            "them, or leave them out with --chill"
        )
    cases = read_cases(dict(dataset_json), [entry.label for entry in scoring.classes])
    units = units_of(patients, _names(sorted(predictions), ending))
    return [
        Job(
            case=case,
            unit=unit,
            source=cases.sources.get(case),
            reference=references[f"{case}{ending}"],
            prediction=predictions[f"{case}{ending}"],
            annotated=cases.annotated_in(case),
            scoring=scoring,
            presumed=cases.presumed(case),
        )
        for case, unit in units.items()
    ]


def check(jobs: Sequence[Job], workers: int) -> None:
    """Reads every file. Raises MASTProError for the first case that cannot be scored."""
    for _ in each(check_case, jobs, workers, "check predictions", SLOW_TO_IMPORT):
        pass


def score(jobs: Sequence[Job], workers: int) -> list[list[dict]]:
    """The rows of each checked case."""
    return list(each(score_case, jobs, workers, "score cases", SLOW_TO_IMPORT))


def assemble(jobs: Sequence[Job], scored: Sequence[Sequence[dict]]) -> dict:
    """The result for one folder of predictions; see the module's docstring."""
    rows = [row for found in scored for row in found]
    scoring, first = jobs[0].scoring, jobs[0]
    tumours = [entry.label for entry in scoring.classes if entry.tumour]
    return {
        "reference": str(first.reference.parent),
        "prediction": str(first.prediction.parent),
        "tolerance_mm": scoring.tolerance_mm,
        "lesion_overlap": scoring.lesion_overlap,
        "confidence": CONFIDENCE,
        "units": "cases" if all(job.unit == job.case for job in jobs) else "patients",
        "number_of_units": len({job.unit for job in jobs}),
        "number_of_cases": len(jobs),
        "presumed_complete": [job.case for job in jobs if job.presumed],
        "unexpected": sorted({row["case"] for row in rows if row["unexpected"]}),
        "classes": [entry.label for entry in scoring.classes],
        "tumours": tumours,
        "rows": rows,
        "summary": summarise(rows, tumours),
    }


def _files(folder: Path, dataset_json: Mapping, what: str) -> list[Path]:
    ending = dataset_json.get("file_ending")
    if not isinstance(ending, str):
        raise MASTProError('dataset.json has no "file_ending"; add one such as ".nii.gz"')
    if not folder.is_dir():
        raise MASTProError(f"{folder} is no folder; give a folder of {what} that end with {ending}")
    files = files_of(folder, ending)
    if not files:
        raise MASTProError(f"{folder} has no files that end with {ending}; give a folder of {what}")
    return files


def _names(files: Sequence[str], ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in files]


def units_of(patients: str | None, cases: Sequence[str]) -> dict[str, str]:
    """Case -> patient, as mastpro merge: the case itself where the expression finds none. Raises MASTProError."""
    pattern = patient_pattern(patients, "--patients")
    if pattern and not any(map(pattern.search, cases)):
        raise MASTProError(f"--patients {patients!r} finds no patient in the cases, such as {cases[0]}; correct it")
    units = {case: find_patient(pattern, case) or case for case in cases}
    if len(cases) > 1 and len({*units.values()}) == 1:
        raise MASTProError(
            f'--patients {patients!r} finds one patient, "{units[cases[0]]}", in all {len(cases)} cases; give one '
            "that tells patients apart, or none"
        )
    return units

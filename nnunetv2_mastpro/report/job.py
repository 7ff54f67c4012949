"""From folders to index.html: everything is checked, then scored, drawn and written, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_mastpro.datasets import with_name
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.processes import each
from nnunetv2_mastpro.report.cases import Case, check_case, find_cases, shown_channel
from nnunetv2_mastpro.report.draw import about_of, draw_cases, host_shares, ranked
from nnunetv2_mastpro.report.findings import Findings, Request
from nnunetv2_mastpro.report.model import Model, read_model
from nnunetv2_mastpro.report.origin import Origin, find_origin
from nnunetv2_mastpro.report.panels import said_about
from nnunetv2_mastpro.tasks import with_cases

PAGE = "index.html"
SCORING = {  # options about scores -> of Request
    "--tolerance-mm": "tolerance_mm",
    "--lesion-overlap": "lesion_overlap",
    "--patients": "patients",
    "--cases": "cases",
}
PICTURE = re.compile(r"\d{2,}_.+\.png")  # rank, case, class


def make_report(request: Request, additions=None) -> tuple[Path, list[str]]:
    """Writes the page; gives its path, and what to say of it. Raises MASTProError before a file is written.

    `additions`: page.Additions of another command.
    """
    from nnunetv2_mastpro.evaluation.evaluate import SLOW_TO_IMPORT
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.report.page import GENERATOR, make_page

    _check_request(request, GENERATOR)
    model = read_model(request.model, request.folds, request.maps is not None)
    origin = find_origin(request.predictions, model)
    if request.folds is not None:
        _check_folds(request, model, origin)
    channel = shown_channel(model.dataset_json, request.channel)
    cases = find_cases(
        model,
        channel,
        images=request.images,
        predictions=request.predictions,
        reference=request.reference,
        maps=request.maps,
        chill=request.chill,
    )
    if request.reference is not None:
        _check_scoring(request, model, cases)
    needed = replace(model, folds=(), plans={}, config=None, dataset_json={"labels": model.dataset_json["labels"]})
    jobs = [(case, needed) for case in cases]  # each goes to a process; dataset.json may name every case
    scoring = () if request.reference is None else SLOW_TO_IMPORT  # by the processes that score then
    looked = list(each(look_at, jobs, request.workers, "read images", ("SimpleITK", *scoring)))
    present = {case.name: values for case, (values, _) in zip(cases, looked, strict=True)}
    hosts = [entry for _, entries in looked for entry in entries]
    findings = Findings(model, request, channel, cases, evaluate_cases(request, model), origin, hosts=hosts)
    draw_cases(findings, ranked(findings, present))
    page = make_page(findings, additions)
    files, earlier = {request.output / PAGE: page.encode()}, set()
    if request.pictures is not None:
        files |= {request.pictures / panel.file_name: panel.png for panel in findings.panels}
        earlier = earlier_pictures(request)
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(files)
    for path in earlier - files.keys():
        path.unlink()
    return request.output / PAGE, notes(findings, len(page.encode()))


def look_at(job: tuple[Case, Model]) -> tuple[frozenset[int], list[dict]]:
    """Values in the prediction and shares in host organs of a case, in a process of its own. Raises MASTProError."""
    case, model = job
    present, volumes = check_case(case, model)
    return present, [] if case.host_map is None else host_shares(case.name, volumes, model)


def earlier_pictures(request: Request) -> set[Path]:
    """What an earlier report about these predictions wrote there: their numbers are ranks of that one.

    Raises MASTProError for pictures of other predictions.
    """
    found = set()
    for path in sorted(request.pictures.glob("*.png")):
        about = said_about(path)
        if about is None or not PICTURE.fullmatch(path.name):
            continue
        if about != about_of(request):
            raise MASTProError(f"--pictures {request.pictures} holds {path.name} of {about}; give another folder")
        found.add(path)
    return found


def _check_request(request: Request, generator: str) -> None:
    for option, number in (("--panels", request.most_panels), ("--viewer-cases", request.viewer_cases)):
        if number < 0:
            raise MASTProError(f"{option} {number} is below 0; give how many to show")
    idle = [option for option, name in SCORING.items() if getattr(request, name) != getattr(Request, name)]
    if idle and request.reference is None:
        raise MASTProError(
            f"without -ref nothing is scored, and {', '.join(idle)} can change nothing; give -ref, or leave them out"
        )
    for option, folder in (("-o", request.output), ("--pictures", request.pictures)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise MASTProError(f"{option} {folder} is a file; give a folder")
    if request.pictures is not None:
        earlier_pictures(request)
    page = request.output / PAGE
    if page.is_file() and generator not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise MASTProError(f"{page} is no report of mastpro; give -o another folder, or move it away")


def _check_folds(request: Request, model: Model, origin: Origin) -> None:
    """The folds of a validation are among those that the page is about."""
    if not {*origin.folds} <= {fold.name for fold in model.folds}:
        raise MASTProError(
            f"-pred {request.predictions} is of {some(origin.folds)}, -f is {' '.join(request.folds)}; give -f the "
            "folds that predicted, or leave it out"
        )


def _check_scoring(request: Request, model: Model, cases: Sequence[Case]) -> None:
    """What evaluate_cases would refuse of the options, before volumes are read."""
    from nnunetv2_mastpro.evaluation.evaluate import check_options, units_of

    check_options(request.tolerance_mm, request.lesion_overlap)
    units_of(request.patients, [case.name for case in cases])
    _described(request, model)


def _described(request: Request, model: Model) -> dict:
    """dataset.json with the data set's name, and with what the scored cases annotate."""
    content = with_name(model.dataset_json, model.plans.get("dataset_name", ""))
    return with_cases(content, request.cases, request.reference)


def evaluate_cases(request: Request, model: Model) -> dict | None:
    """What mastpro evaluate finds; None without reference labels."""
    if request.reference is None:
        return None
    from nnunetv2_mastpro.evaluation.evaluate import evaluate

    return evaluate(
        request.reference,
        request.predictions,
        _described(request, model),
        tolerance_mm=request.tolerance_mm,
        workers=request.workers,
        lesion_overlap=request.lesion_overlap,
        patients=request.patients,
        chill=True,
    )


def notes(findings: Findings, size: int) -> list[str]:
    """What the command says at its end."""
    from nnunetv2_mastpro.evaluation.tables import doubts

    lines = [f"{len(findings.cases)} cases, {len(findings.panels)} panels, {size / 1e6:.1f} MB"]
    if findings.evaluation is not None:
        lines += doubts(findings.evaluation)
    if findings.panels_left_out:
        lines.append(f"{findings.panels_left_out} panels were left out (--panels)")
    by_reason: dict[str, list[str]] = {}
    for name, reason in findings.not_embedded.items():
        by_reason.setdefault(reason, []).append(name)
    lines += [f"not in the viewer ({reason}): {some(names)}" for reason, names in by_reason.items()]
    return lines

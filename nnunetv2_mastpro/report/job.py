"""From folders to index.html: everything is checked, then scored, drawn and written, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_mastpro.datasets import with_name
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.report.cases import Case, Volumes, check_case, find_cases, read_case, shown_channel
from nnunetv2_mastpro.report.model import Model, Output, read_model
from nnunetv2_mastpro.report.panels import cut, draw_panels, encode, said_about, shown_slice
from nnunetv2_mastpro.report.viewer import BUDGET_MB, Embedded, embed
from nnunetv2_mastpro.report.windows import ct_window, percentile_window
from nnunetv2_mastpro.tasks import with_cases

PAGE = "index.html"
PICTURE = re.compile(r"\d\d_.+\.png")  # rank, case, class


@dataclass(frozen=True)
class Request:
    """What `mastpro report` was asked for."""

    model: Path
    images: Path
    predictions: Path
    output: Path
    reference: Path | None = None
    maps: Path | None = None
    folds: Sequence[str] | None = None
    most_panels: int = 30
    viewer_cases: int = 10
    workers: int = 2
    command: Sequence[str] = ()
    cases: Path | None = None  # JSON: what test cases annotate
    pictures: Path | None = None  # folder for the panels as PNG files, besides the page


@dataclass(frozen=True)
class Panel:
    """A row of pictures, as WebP, and as PNG where files are wanted."""

    title: str
    picture: bytes
    file_name: str = ""
    png: bytes = b""


@dataclass
class Findings:
    """All that the page tells of the cases."""

    model: Model
    request: Request
    cases: Sequence[Case]
    evaluation: Mapping | None = None
    panels: list[Panel] = field(default_factory=list)
    panels_left_out: int = 0
    hosts: list[dict] = field(
        default_factory=list
    )  # case, class, host_ml, share of prediction and of truth in the host
    embedded: list[Embedded] = field(default_factory=list)
    not_embedded: dict[str, str] = field(default_factory=dict)  # case -> why


def make_report(request: Request, additions=None) -> tuple[Path, list[str]]:
    """Writes the page; gives its path, and what to say of it. Raises MASTProError before a file is written.

    `additions`: page.Additions of another command.
    """
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.report.page import GENERATOR, make_page

    _check_request(request, GENERATOR)
    model = read_model(request.model, request.folds, request.maps is not None)
    cases = find_cases(model, request.images, request.predictions, request.reference, request.maps)
    present = {}
    for case in tqdm(cases, desc="read images", unit="case"):
        present[case.name] = check_case(case, model)
    findings = Findings(model, request, cases, evaluate_cases(request, model))
    pairs = ranked(findings, present)
    draw_cases(findings, pairs)
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


def about_of(request: Request) -> str:
    """What a picture says that it is about."""
    return str(request.predictions.resolve())


def _check_request(request: Request, generator: str) -> None:
    for option, number in (("--panels", request.most_panels), ("--viewer-cases", request.viewer_cases)):
        if number < 0:
            raise MASTProError(f"{option} {number} is below 0; give how many to show")
    for option, folder in (("-o", request.output), ("--pictures", request.pictures)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise MASTProError(f"{option} {folder} is a file; give a folder")
    if request.pictures is not None:
        earlier_pictures(request)
    page = request.output / PAGE
    if page.is_file() and generator not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise MASTProError(f"{page} is no report of mastpro; give -o another folder, or move it away")


def evaluate_cases(request: Request, model: Model) -> dict | None:
    """What mastpro evaluate finds; None without reference labels."""
    if request.reference is None:
        return None
    from nnunetv2_mastpro.evaluation.evaluate import evaluate

    content = with_name(model.dataset_json, model.plans.get("dataset_name", ""))
    content = with_cases(content, request.cases, request.reference)
    return evaluate(request.reference, request.predictions, content, workers=request.workers, chill=True)


def ranked(findings: Findings, present: Mapping[str, frozenset[int]]) -> list[tuple[float | None, str, Output]]:
    """(Dice, case, class) of what pictures show, largest error first; without truth all that was predicted, by case.

    `present`: values in each case's prediction.
    """
    shown = {output.label: output for output in findings.model.shown}
    if findings.evaluation is None:
        return [
            (None, case.name, output)
            for case in findings.cases
            for output in shown.values()
            if present[case.name] & set(output.values)
        ]
    rows = [row for row in findings.evaluation["rows"] if row["class"] in shown and row["Dice"] is not None]
    rows.sort(key=lambda row: (row["Dice"], -max(row["reference_ml"] or 0, row["prediction_ml"] or 0), row["case"]))
    return [(row["Dice"], row["case"], shown[row["class"]]) for row in rows]


def draw_cases(findings: Findings, pairs: Sequence[tuple[float | None, str, Output]]) -> None:
    """Reads each case that is shown once, and fills in panels, hosts and viewer."""
    request, model = findings.request, findings.model
    chosen = pairs[: request.most_panels]
    findings.panels_left_out = len(pairs) - len(chosen)
    order = list(dict.fromkeys([*(name for _, name, _ in pairs), *(case.name for case in findings.cases)]))
    cases = {case.name: case for case in findings.cases}
    is_ct = shown_channel(model.dataset_json)[1]
    panels: dict[int, Panel] = {}
    wanted = order if request.maps else order[: max(request.viewer_cases, len({name for _, name, _ in chosen}))]
    for name in tqdm(wanted, desc="draw panels", unit="case"):
        volumes = read_case(cases[name], model.ignored)
        for place, (dice, case, output) in enumerate(chosen):
            if case == name:
                panels[place] = _panel(place, dice, case, output, volumes, findings, is_ct)
        if request.maps:
            findings.hosts += host_shares(name, volumes, model)
        if order.index(name) < request.viewer_cases and not findings.not_embedded:
            _add_to_viewer(findings, embed(name, volumes, is_ct))
    findings.panels = [panels[place] for place in sorted(panels)]
    is_full = bool(findings.not_embedded)
    known = {entry.name for entry in findings.embedded} | set(findings.not_embedded)
    for place, name in enumerate(order):
        if name not in known:
            by_budget = is_full and place < request.viewer_cases
            reason = "the cases before filled the page" if by_budget else f"--viewer-cases {request.viewer_cases}"
            findings.not_embedded[name] = reason


def _panel(
    place: int, dice: float | None, case: str, output: Output, volumes: Volumes, findings: Findings, is_ct: bool
) -> Panel:
    index = shown_slice(output, volumes)
    window = ct_window(output.host_structures) if is_ct else percentile_window(volumes.image)
    score = "" if dice is None else f", Dice {dice:.2f}"
    if dice is not None and not np.isin(volumes.reference, output.values).any():
        score = " marked, though the case has none"
    title = f"{case}, {output.name}{score}: slice {index + 1} of {len(volumes.image)}, {window.title}"
    shown = cut(output, findings.model.shown, volumes, index)
    file_name = re.sub(r"[^\w.-]+", "_", f"{place + 1:02d}_{case}_{output.label}.png")
    png = b""
    if findings.request.pictures is not None:
        png = encode(draw_panels(shown, window, title, findings.model.shown_colors), "png", about_of(findings.request))
    return Panel(title, encode(draw_panels(shown, window), "webp"), file_name, png)


def _add_to_viewer(findings: Findings, entry: Embedded) -> None:
    used = sum(other.megabytes for other in findings.embedded)
    if used + entry.megabytes > BUDGET_MB:
        findings.not_embedded[entry.name] = f"the page would hold more than {BUDGET_MB:g} MB of volumes"
    else:
        findings.embedded.append(entry)


def host_shares(case: str, volumes: Volumes, model: Model) -> list[dict]:
    """Per class with a host organ: the organ's volume, and which share of prediction and truth lies in it."""
    ml = float(np.prod(volumes.spacing_mm)) / 1000
    found = []
    for output in model.classes:
        if not output.host_values:
            continue
        host = np.isin(volumes.host_map, output.host_values)
        entry = {"case": case, "class": output.label, "host_ml": float(host.sum() * ml)}
        for kind, labelmap in (("prediction", volumes.prediction), ("truth", volumes.reference)):
            mask = None if labelmap is None else np.isin(labelmap, output.values)
            entry[kind] = float((mask & host).sum() / mask.sum()) if mask is not None and mask.any() else None
        found.append(entry)
    return found


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

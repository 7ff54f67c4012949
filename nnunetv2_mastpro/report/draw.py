"""Cases to panels, volumes of the viewer, and shares of what was marked that lie in host organs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from nnunetv2_mastpro.report.cases import Volumes, read_case
from nnunetv2_mastpro.report.findings import Findings, Panel, Request
from nnunetv2_mastpro.report.model import Model, Output
from nnunetv2_mastpro.report.panels import cut, draw_panels, encode, shown_slice
from nnunetv2_mastpro.report.viewer import BUDGET_MB, Embedded, embed
from nnunetv2_mastpro.report.windows import ct_window, percentile_window


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
    """Reads each case that is shown once, and fills in panels and viewer."""
    request, model = findings.request, findings.model
    chosen = pairs[: request.most_panels]
    findings.panels_left_out = len(pairs) - len(chosen)
    order = list(dict.fromkeys([*(name for _, name, _ in pairs), *(case.name for case in findings.cases)]))
    cases = {case.name: case for case in findings.cases}
    panels: dict[int, Panel] = {}
    wanted = order[: max(request.viewer_cases, len({name for _, name, _ in chosen}))]
    for name in tqdm(wanted, desc="draw panels", unit="case"):
        volumes = read_case(cases[name], model.ignored)
        for place, (dice, case, output) in enumerate(chosen):
            if case == name:
                panels[place] = _panel(place, dice, case, output, volumes, findings)
        if order.index(name) < request.viewer_cases and not findings.not_embedded:
            _add_to_viewer(findings, embed(name, volumes, findings.channel.is_ct))
    findings.panels = [panels[place] for place in sorted(panels)]
    is_full = bool(findings.not_embedded)
    known = {entry.name for entry in findings.embedded} | set(findings.not_embedded)
    for place, name in enumerate(order):
        if name not in known:
            by_budget = is_full and place < request.viewer_cases
            reason = "the cases before filled the page" if by_budget else f"--viewer-cases {request.viewer_cases}"
            findings.not_embedded[name] = reason


def about_of(request: Request) -> str:
    """What a picture says that it is about."""
    return str(request.predictions.resolve())


def _panel(place: int, dice: float | None, case: str, output: Output, volumes: Volumes, findings: Findings) -> Panel:
    index = shown_slice(output, volumes)
    window = ct_window(output.host_structures) if findings.channel.is_ct else percentile_window(volumes.image)
    score = "" if dice is None else f", Dice {dice:.2f}"
    if dice is not None and not output.marks(volumes.reference):
        elsewhere = "" if volumes.ignored is None else " where it was looked for"
        score = f" marked, though the case has none{elsewhere}"
    shown_as = [f"slice {index + 1} of {len(volumes.image)}", findings.channel.title, window.title]
    title = f"{case}, {output.name}{score}: {', '.join(filter(None, shown_as))}"
    unknown = [entry.name for entry in not_annotated(findings, case) if entry.marks(volumes.prediction[index])]
    title += f"; not annotated in this case: {', '.join(unknown)}" if unknown else ""
    shown = cut(output, findings.model.shown, volumes, index)
    file_name = re.sub(r"[^\w.-]+", "_", f"{place + 1:02d}_{case}_{output.label}.png")
    png = b""
    if findings.request.pictures is not None:
        png = encode(draw_panels(shown, window, title, findings.model.shown_colors), "png", about_of(findings.request))
    return Panel(title, encode(draw_panels(shown, window), "webp"), file_name, png)


def not_annotated(findings: Findings, case: str) -> list[Output]:
    """Classes in pictures that the case's annotators did not look for, so that the truth cannot have them."""
    rows = findings.evaluation["rows"] if findings.evaluation is not None else ()
    labels = {row["class"] for row in rows if row["case"] == case and not row["annotated"]}
    return [output for output in findings.model.shown if output.label in labels]


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
            mask = None if labelmap is None else volumes.scored(np.isin(labelmap, output.values))
            entry[kind] = float((mask & host).sum() / mask.sum()) if mask is not None and mask.any() else None
        found.append(entry)
    return found

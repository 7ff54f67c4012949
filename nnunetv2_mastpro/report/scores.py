"""What was measured: means by class, scores by case, and box plots, as sections of the page."""

from __future__ import annotations

from collections.abc import Mapping

from nnunetv2_mastpro.report import html
from nnunetv2_mastpro.report.findings import Findings
from nnunetv2_mastpro.report.plots import draw_boxes

NO_REFERENCE = "No reference labels (-ref) were given, so there is no truth, and nothing is measured."
NUMBERS = {  # of the evaluation -> heading, digits
    "Dice": ("Dice", 2),
    "NSD": ("surface Dice", 2),
    "HD95_mm": ("HD95, mm", 1),
    "sensitivity": ("lesions found (sensitivity)", 2),
    "precision": ("findings right (precision)", 2),
    "false_lesions_ml": ("false lesions, ml a case", 2),
}
PER_CASE = ("Dice", "NSD", "HD95_mm")
MOST_ROWS = 1000  # of the table of cases


def summary(findings: Findings) -> str:
    """Means with intervals by class, and over tumour types."""
    from nnunetv2_mastpro.evaluation.tables import doubts, too_few

    evaluation = findings.evaluation
    if evaluation is None:
        return html.paragraph(NO_REFERENCE)
    head = ["class", "cases with it", "missed", "made up", *(title for title, _ in NUMBERS.values())]
    rows = []
    for output in findings.model.classes:
        told = evaluation["summary"]["classes"][output.label]
        cases = f"{told['with']} of {told['annotated']}"
        rows.append([output.name, cases, str(told["missed"]), str(told["made_up"]), *_numbers(told)])
    macro = evaluation["summary"]["macro"]
    title, key = ("mean of tumour types", "tumours") if evaluation["tumours"] else ("mean of classes", "classes")
    rows.append([title, "", "", "", *_numbers(macro[key])])
    text = (
        f"Means over cases, in brackets the {evaluation['confidence']:.0%} interval of a bootstrap over "
        f"{evaluation['units']}. Surface Dice has a tolerance of {evaluation['tolerance_mm']:g} mm. A case without the "
        "class in which it was marked (made up) counts as Dice 0, as one with it in which nothing was (missed); one "
        "without it in both has no Dice. HD95 is of the cases that have it in both, and so leaves out what was missed "
        "and made up. Cases count for the classes that they annotate. "
        f"{_overlap(evaluation['lesion_overlap'])} False lesions: the volume of all other findings."
    )
    warned = [html.paragraph(line) for line in (*too_few(evaluation, evaluation["summary"]), *doubts(evaluation))]
    names = {output.label: output.name for output in findings.model.classes}
    told = [html.paragraph(text, "soft"), by_case(evaluation, names)]
    return "".join([html.table("Scores by class", head, rows, "numbers"), *warned, *told])


def _overlap(share: float) -> str:
    """What finds a lesion."""
    if not share:
        return "A lesion is found, and a finding is right, where the two share a voxel, however little of it."
    return (
        f"A lesion is found where at least {share:.0%} of it is predicted, and a finding is right where at least as "
        "much of it lies in the truth."
    )


def _numbers(told: dict) -> list[str]:
    return [number(told.get(name), digits, "\n") for name, (_, digits) in NUMBERS.items()]


def number(found: dict | None, digits: int = 2, between: str = " ") -> str:
    """0.61 (0.50 to 0.70)."""
    if found is None or found["mean"] is None:
        return "-"
    text = f"{found['mean']:.{digits}f}"
    return text if found["low"] is None else f"{text}{between}({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def by_case(evaluation: Mapping, names: Mapping[str, str]) -> str:
    """A row per case and class that has scores, lowest Dice first. `names`: class -> how it is called."""
    rows = [row for row in evaluation["rows"] if row["Dice"] is not None]
    rows.sort(key=lambda row: (row["Dice"], row["case"]))
    cells = [
        [
            f"{row['case']}, {names[row['class']]}",
            *("-" if row[key] is None else f"{row[key]:.{NUMBERS[key][1]}f}" for key in PER_CASE),
        ]
        for row in rows[:MOST_ROWS]
    ]
    title = "Scores by case, lowest Dice first"
    left = len(rows) - len(cells)
    more = f"{left} more rows were left out; mastpro evaluate writes all of them to evaluation.csv." if left else ""
    head = ["case, class", *(NUMBERS[key][0] for key in PER_CASE)]
    return html.details(title, html.table(title, head, cells, "numbers") + (html.paragraph(more) if more else ""))


def boxes(findings: Findings) -> str:
    """Dice, surface Dice and HD95 by class."""
    if findings.evaluation is None:
        return html.paragraph(NO_REFERENCE)
    values = {}
    for metric in PER_CASE:
        values[NUMBERS[metric][0]] = {
            output.name: [
                row[metric]
                for row in findings.evaluation["rows"]
                if row["class"] == output.label and row[metric] is not None
            ]
            for output in findings.model.classes
        }
    text = "Box plots of Dice, surface Dice and HD95 by class; a point is a case, in brackets their number"
    return html.picture(draw_boxes(values), "svg+xml", text, text, "plot wide")

"""The sections of the page, one function each: Findings -> HTML. What is not known is said in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_mastpro.listing import kind
from nnunetv2_mastpro.report import html
from nnunetv2_mastpro.report.cases import Channel
from nnunetv2_mastpro.report.findings import Findings
from nnunetv2_mastpro.report.panels import CONTOURS, STRIPES
from nnunetv2_mastpro.report.plots import MOST_CLASSES, draw_curves
from nnunetv2_mastpro.report.windows import PERCENTILES

NO_BLOCK = "This is no MAST-Pro model (its plans have no resolved mastpro block)"
COLLAPSE = (
    "Usual after a short training. Where a long one shows it, some experts learn nothing: raise "
    "mastpro.training.balance_weight in the plans. Experts are numbered from 0, left to right, in each group."
)


def curves(findings: Findings) -> str:
    """nnU-Net's logging of each fold."""
    model, pieces = findings.model, []
    names = [output.name for output in model.classes]
    by = "by class" if len(names) <= MOST_CLASSES else "as mean and range of the classes"
    for fold in model.folds:
        if len(fold.curves.get("train_losses", ())):
            text = f"{fold.name}: losses, pseudo-Dice on patches {by}, and learning rate by epoch"
            pieces.append(html.picture(draw_curves(fold.curves, names), "svg+xml", text, text, "plot wide"))
        else:
            pieces.append(html.paragraph(f"{fold.name}: its checkpoint holds no training curves."))
    return "".join(pieces)


def panels(findings: Findings) -> str:
    """A row of pictures per case and class."""
    if not findings.panels:
        reason = "Neither truth nor prediction has a class to show." if findings.cases else ""
        return html.paragraph(reason if findings.request.most_panels else "--panels 0: none were asked for.")
    order = "largest error first" if findings.evaluation is not None else "by case, since no truth was given"
    where = "differ most" if findings.evaluation is not None else "is largest"
    subject = "truth and prediction" if findings.evaluation is not None else "the prediction"
    text = (
        f"A row per case and class, {order}: the axial slice where {subject} {where}, the patient's right on the left, "
        f"{_grey_values(findings.channel)}, with all that is marked there, each class in its "
        f"colour. Contours, in the dotted square: {CONTOURS[findings.evaluation is not None]}."
        f"{about_ignored(findings, f' {STRIPES.capitalize()}.')}"
    )
    rows = "".join(html.picture(panel.picture, "webp", panel.title, panel.title) for panel in findings.panels)
    more = (
        f"{findings.panels_left_out} more rows were left out; --panels shows more." if findings.panels_left_out else ""
    )
    pieces = [html.paragraph(text), html.legend(findings.model.shown_colors), rows]
    return "".join([*pieces, html.paragraph(more, "soft") if more else ""])


def _grey_values(channel: Channel) -> str:
    """Which channel the pictures show, and how."""
    percentiles = "from percentile {} to {} of its grey values".format(*PERCENTILES)
    window = "in the window of the organ that hosts the class" if channel.is_ct else percentiles
    return f"{channel.title} {window}".lstrip()


def about_ignored(findings: Findings, sentence: str) -> str:
    """Said where the labels have a value to ignore, and there are some."""
    return "" if findings.evaluation is None or findings.model.ignored is None else sentence


def hosts(findings: Findings) -> str:
    """Class, its host structures and map value; with maps how much lies in the host."""
    model = findings.model
    known = [output for output in model.classes if output.host_structures]
    if not known:
        return html.paragraph("No host organ is known for any class.")
    structures = [
        [output.name, ", ".join(output.host_structures), ", ".join(map(str, output.host_values)) or "-"]
        for output in known
    ]
    table = html.table("Host structures", ["class", "host structures (TotalSegmentator)", "value in maps"], structures)
    if not findings.request.maps:
        return table + html.paragraph("No host-organ maps (--maps) were given, so nothing is measured against them.")
    rows = []
    for output in known:
        entries = [entry for entry in findings.hosts if entry["class"] == output.label]
        shares = [[entry[key] for entry in entries if entry[key] is not None] for key in ("prediction", "truth")]
        volume = [entry["host_ml"] for entry in entries]
        rows.append([output.name, _mean(volume, "{:.0f} ml"), *(_mean(share, "{:.0%}") for share in shares)])
    head = ["class", "host organ, mean", "of the prediction in it", "of the truth in it"]
    return (
        table
        + html.table("What lies in the host organ", head, rows, "numbers")
        + html.paragraph(
            "Volumes: means over all cases; shares: over those in which the class is. "
            f"{about_ignored(findings, 'What the truth says to ignore has no part in them. ')}"
            "mastpro postprocess removes what was marked far from its organ.",
            "soft",
        )
    )


def _mean(values: list[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else "-"


def experts(findings: Findings) -> str:
    """Heat map of each fold, and experts that have collapsed."""
    from nnunetv2_mastpro.evaluation.experts import collapsed, draw, too_few

    if findings.model.config is None:
        return html.paragraph(f"{NO_BLOCK}, so it has no experts.")
    if "experts" in findings.model.config.network.ablate:
        return html.paragraph("It was trained without experts (mastpro.network.ablate of its plans).")
    pieces = []
    for fold in findings.model.folds:
        if fold.usage is None:
            pieces.append(
                html.paragraph(f"{fold.name} has no expert_usage.json: of experts, if it has any, nothing is known.")
            )
            continue
        text = f"{fold.name}, epoch {fold.usage['epoch']}: share of training patches with the type that keep the expert"
        pieces.append(html.picture(draw(fold.usage), "png", text, text, "plot"))
        found = collapsed(fold.usage)
        pieces += [html.paragraph(line, "warning") for line in found]
        pieces += [html.paragraph(COLLAPSE, "soft")] if found else []
        pieces += [html.paragraph(line) for line in too_few(fold.usage)]
    return "".join(pieces)


def prompts(findings: Findings) -> str:
    """Each class's sentence."""
    config = findings.model.config
    if config is None:
        return html.paragraph(f"{NO_BLOCK}, so it takes no prompts.")
    rows = [[output.name, kind(output.is_tumor), output.sentence] for output in findings.model.classes]
    added = f" Added to a trained model: {', '.join(config.prompts.added)}." if config.prompts.added else ""
    return html.table("Prompts", ["class", "kind", "sentence"], rows) + html.paragraph(
        f"Encoder: {config.prompts.encoder}.{added}{_ablated_text(config.network.ablate)}"
    )


def _ablated_text(ablate: Sequence[str]) -> str:
    """That the network reads other sentences than the table tells, or none."""
    if "text" in ablate:
        return " It was trained without text (mastpro.network.ablate of its plans), so it does not read them."
    if "text_shuffled" in ablate:
        text = "a class reads the sentence of the next, the last the first's"
        return f" Text is shuffled (mastpro.network.ablate of its plans): {text}."
    return ""

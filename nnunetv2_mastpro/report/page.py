"""The page: lead, sections, viewer, and the records of how model and page were made."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.processes import shell_line
from nnunetv2_mastpro.report import html, scores, sections
from nnunetv2_mastpro.report.findings import Findings, Request
from nnunetv2_mastpro.report.model import Model
from nnunetv2_mastpro.report.origin import Origin
from nnunetv2_mastpro.report.viewer import viewer_data
from nnunetv2_mastpro.steps import spell

HERE = Path(__file__).parent
STATIC = HERE / "static"
GENERATOR = "mastpro report"
PACKAGES = ("nnunetv2_mastpro", "nnunetv2", "dynamic_network_architectures", "torch")
RESEARCH = "Research software, not a medical device: nothing here is for diagnosis or treatment."


@dataclass(frozen=True)
class Additions:
    """What another command puts on its page: title, HTML below the first line, its own record of commands and facts."""

    title: str
    lead: str
    commands: str
    costs: Sequence[Sequence[str]] = ()  # title, value
    facts: Sequence[Sequence[str]] = ()


def make_page(findings: Findings, additions: Additions | None = None) -> str:
    """HTML that needs nothing beside it."""
    parts = {
        "summary": ("Summary", scores.summary(findings)),
        "curves": ("Training curves", sections.curves(findings)),
        "boxes": ("Classes", scores.boxes(findings)),
        "panels": ("Cases", sections.panels(findings)),
        "hosts": ("Host organs", sections.hosts(findings)),
        "experts": ("Experts by tumour type", sections.experts(findings)),
        "prompts": ("Prompts", sections.prompts(findings)),
        "cost": ("Cost", cost(findings, additions)),
        "commands": ("Commands and versions", commands(findings, additions)),
        "viewer-section": ("3D viewer", viewer(findings)),
    }
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>\n' for name, (title, _) in parts.items())
    return _template("report.html").substitute(
        generator=GENERATOR,
        title=escape(additions.title if additions else f"Report of {findings.model.plans['dataset_name']}"),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        lead=lead(findings) + (additions.lead if additions else ""),
        links=links,
        sections="".join(html.section(name, title, content) for name, (title, content) in parts.items()),
        scripts=scripts(findings),
    )


def lead(findings: Findings) -> str:
    """What was run on what, when, and how well it did."""
    model, request, evaluation = findings.model, findings.request, findings.evaluation
    trainer, plans, configuration = model.names
    fold = "".join(f", {name}" for name in findings.origin.folds)
    names = model.config.prompts.added if model.config else ()
    with_added = f", with {', '.join(names)} added," if names else ""
    text = (
        f"{trainer} ({plans}, {configuration}{fold}) of {model.plans['dataset_name']}{with_added} on "
        f"{len(findings.cases)} cases of {request.images.resolve()}, {datetime.date.today().isoformat()}: "
    )
    if evaluation is None:
        text += "no reference labels, so no Dice."
    else:
        kind = "tumours" if evaluation["tumours"] else "classes"
        what = "tumour types" if evaluation["tumours"] else "classes"
        text += f"mean Dice of {what} {scores.number(evaluation['summary']['macro'][kind]['Dice'])}."
    return "".join(
        [html.paragraph(text), *map(html.paragraph, unknown_origin(findings)), html.paragraph(RESEARCH, "soft")]
    )


def unknown_origin(findings: Findings) -> list[str]:
    """What is not known of who predicted."""
    folds, told = [fold.name for fold in findings.model.folds], []
    if not findings.origin.is_told:
        told.append(
            "The predictions have no plans.json beside them, which would tell of which data set and plans their model "
            "is; how they were made is not known."
        )
    if not findings.origin.folds:
        told.append(f"nnU-Net does not record which folds predicted; what follows of trainings is of {some(folds)}.")
    elif folds != [*findings.origin.folds]:
        told.append(f"What follows of trainings is of {some(folds)}.")
    return told


def cost(findings: Findings, additions: Additions | None) -> str:
    """Parameters, time and size of the trainings."""
    model, pieces = findings.model, []
    parts = next((fold.parts for fold in model.folds if fold.parts), {})
    if parts:
        rows = [[name, f"{total:,}", f"{trained:,}"] for name, (total, trained) in parts.items()]
        pieces.append(html.table("Parameters by part", ["parameters", "all", "trained"], rows, "numbers"))
    else:
        pieces.append(html.paragraph("The number of parameters by part stands in a training's log, which is not here."))
    configuration = model.configuration
    rows = [
        [title, " x ".join(f"{entry:.4g}" for entry in value) if isinstance(value, list) else str(value)]
        for title, key in (("patch, voxels", "patch_size"), ("spacing, mm", "spacing"), ("batch", "batch_size"))
        if (value := configuration.get(key)) is not None
    ]
    for fold in model.folds:
        rows += [[f"{fold.name}: {title}", value] for title, value in fold_costs(fold)]
    rows += additions.costs if additions else ()
    text = "nnU-Net records neither the time of prediction nor peak memory."
    return "".join(pieces) + html.table("Set-up and time", [], rows) + html.paragraph(text, "soft")


def fold_costs(fold) -> list[tuple[str, str]]:
    """What checkpoint and debug.json tell of a training."""
    rows = list(fold.machine.items())
    ends = fold.curves.get("epoch_end_timestamps", [])
    seconds = [end - start for start, end in zip(fold.curves.get("epoch_start_timestamps", []), ends, strict=False)]
    if seconds:
        steps = f" of {fold.steps_per_epoch} training steps" if fold.steps_per_epoch else ""
        rows.append(("epochs", f"{len(seconds)}{steps}"))
        rows.append(("time", f"{spell(sum(seconds))}, {sum(seconds) / len(seconds):.1f} s an epoch"))
    return [*rows, (fold.checkpoint.name, f"{fold.checkpoint.stat().st_size / 1e6:.1f} MB")]


def commands(findings: Findings, additions: Additions | None) -> str:
    """Of a demo as they were run; else as the folders' names tell."""
    model, request = findings.model, findings.request
    versions = [["Python", platform.python_version()], *([name, _version(name)] for name in PACKAGES)]
    facts = [*(additions.facts if additions else ()), *versions, ["niivue", niivue_version()]]
    facts = html.table("Versions", [], facts)
    if additions:
        return html.code("Commands", additions.commands) + facts
    lines = [*_nnunet_commands(model, request, findings.origin), *([list(request.command)] if request.command else [])]
    text = (
        "nnU-Net's commands as the names of the folders tell; options that change no name (-device, --c, "
        "-pretrained_weights, --disable_tta) and variables are not recorded, nor which of several folds predicted (-f)."
    )
    if findings.origin.is_validation:
        text += f" The predictions are the validation that the training of {some(findings.origin.folds)} wrote."
    return html.code("Commands", "\n".join(map(shell_line, lines))) + html.paragraph(text, "soft") + facts


def _nnunet_commands(model: Model, request: Request, origin: Origin) -> list[list[str]]:
    """Training of each fold, and prediction where nnUNetv2_predict wrote it; of a model that lies elsewhere the second
    alone.
    """
    trainer, plans, configuration = model.names
    dataset, folds = model.plans["dataset_name"], [fold.name.removeprefix("fold_") for fold in model.folds]
    predicting = ["-f", *(name.removeprefix("fold_") for name in origin.folds)] if origin.folds else []
    is_predicted = origin.is_told and not origin.is_validation
    given = ["-i", str(request.images), "-o", str(request.predictions), *predicting]
    maps = ["-prev_stage_predictions", str(request.maps)] if request.maps else []
    if not model.is_in_results:
        predict = ["nnUNetv2_predict_from_modelfolder", "-m", str(model.folder), *given, *maps]
        return [predict] if is_predicted else []
    named = ["-p", plans, "-tr", trainer]
    training = [["nnUNetv2_train", dataset, configuration, fold, *named] for fold in folds]
    predict = ["nnUNetv2_predict", "-d", dataset, "-c", configuration, *named, *given, *maps]
    return [*training, predict] if is_predicted else training


def viewer(findings: Findings) -> str:
    """The viewer's controls, and what it does not show."""
    if not findings.embedded:
        return html.paragraph(
            "No case is in the viewer" + (" (--viewer-cases 0)." if not findings.request.viewer_cases else ".")
        )
    left_out = [f"{name} ({reason})" for name, reason in findings.not_embedded.items()]
    thinned = [
        f"{entry.name}: every {' x '.join(map(str, entry.thinned))} voxels (z y x)"
        for entry in findings.embedded
        if set(entry.thinned) != {1}
    ]
    grey = "CT in steps of 4 HU" if findings.channel.is_ct else "the image in 8 bits"
    texts = [
        f"Not in the viewer: {', '.join(left_out)}." if left_out else "",
        f"The image is {findings.channel.title}." if findings.channel.title else "",
        f"To keep the page small, {grey}; thinned out: {'; '.join(thinned) or 'none'}.",
    ]
    pieces = [html.paragraph(text, "soft") for text in texts if text]
    truth = "Truth is drawn in the pale colours, the prediction in the full ones." if findings.request.reference else ""
    truth += sections.about_ignored(findings, " What the truth says to ignore is not marked.")
    licences = (STATIC / "niivue.licenses.txt").read_text(encoding="utf-8")
    controls = _template("viewer.html").substitute(truth=truth, version=niivue_version(), licences=escape(licences))
    return controls + "".join(pieces)


def scripts(findings: Findings) -> str:
    """niivue, volumes and controls; inline and classic, since a page on disk may fetch nothing."""
    if not findings.embedded:
        return ""
    library = (STATIC / "niivue.umd.js").read_text(encoding="utf-8")
    data = viewer_data(findings.embedded, findings.model, findings.channel.is_ct)
    return (
        f'<script type="application/json" id="viewer-data">{data}</script>\n<script>{library}</script>\n'
        f"<script>{(HERE / 'viewer.js').read_text(encoding='utf-8')}</script>\n"
    )


def niivue_version() -> str:
    """As static/niivue.txt has it."""
    lines = (STATIC / "niivue.txt").read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("version: ") for line in lines if line.startswith("version: "))


def _template(name: str) -> Template:
    return Template((HERE / name).read_text(encoding="utf-8"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

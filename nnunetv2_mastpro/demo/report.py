"""The demo's result: a table for the terminal, and what its page tells beside the report of the model."""

import os
import platform
from collections.abc import Mapping, Sequence

from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION
from nnunetv2_mastpro.processes import shell_line
from nnunetv2_mastpro.report import html
from nnunetv2_mastpro.report.page import Additions
from nnunetv2_mastpro.steps import spell

INTRODUCTION = (
    "Five synthetic data sets, which each annotate one or two of three tumour types, were merged into one; stock "
    "nnU-Net commands trained one network on it and predicted unseen cases, in which all types count. The phantom "
    "shows that the commands work and that the network learns; it says nothing about patients. So short a training "
    "leaves findings that are striped, too small or in the wrong place."
)
CONVENTIONS = (
    "Means of nnUNetv2_evaluate_folder. cases: those that have the type; false: those without it in which one was "
    "marked, which count as a Dice of 0."
)


def dice_rows(
    dice: Mapping[str, Mapping[str, float]], counts: Mapping[str, Mapping[str, tuple[int, int]]]
) -> list[list[str]]:
    """Header, a row per tumour type, the mean.

    `dice` is model -> type -> Dice; `counts` is model -> type -> cases with the type, false findings in the others.
    """
    models = list(dice)
    rows = [["Dice on unseen cases", "cases", *models, *(f"false, {model}" for model in models)]]
    for name in dice[models[0]]:
        values = ["-" if dice[model][name] != dice[model][name] else f"{dice[model][name]:.2f}" for model in models]
        rows.append(
            [
                name.replace("_", " ").replace("mean", "mean of types"),
                str(counts[models[0]][name][0]),
                *values,
                *(str(counts[model][name][1]) for model in models),
            ]
        )
    return rows


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def describe_demo(
    rows: Sequence[Sequence[str]], steps: Mapping[str, Mapping], exports: Sequence[str], seed: int, training_steps: int
) -> Additions:
    """For the page. `rows` as dice_rows gives them; `steps` is the demo's record: title, command, seconds of each."""
    head, *body = rows
    total = sum(step["seconds"] for step in steps.values())
    commands = [*exports, "", *(shell_line(step["command"]) for step in steps.values() if step["command"])]
    return Additions(
        title="MAST-Pro demo: tumours in a CT phantom",
        lead=html.paragraph(INTRODUCTION)
        + html.table("Dice by tumour type", head, body, "numbers")
        + html.paragraph(CONVENTIONS, "soft"),
        commands="\n".join(commands),
        costs=[
            *([step["title"].partition(": ")[0], spell(step["seconds"])] for step in steps.values()),
            ["these steps together", spell(total)],
        ],
        facts=[
            ["phantom", f"generator version {GENERATOR_VERSION}, seed {seed}"],
            ["training", f"{training_steps} steps, AdamW, device cpu"],
            ["processor", f"{os.cpu_count()} cores, {platform.machine()}"],
        ],
    )

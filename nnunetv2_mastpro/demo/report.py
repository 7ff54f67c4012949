"""The demo's result: a table for the terminal, and one HTML page that needs nothing beside it."""

import base64
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from nnunetv2_mastpro.demo.phantom import GENERATOR_VERSION
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.processes import shell_line
from nnunetv2_mastpro.steps import spell

PACKAGES = ("nnunetv2_mastpro", "nnunetv2", "dynamic_network_architectures", "torch")


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


def write_page(
    path: Path,
    rows: Sequence[Sequence[str]],
    picture: Path,
    steps: Mapping[str, Mapping],
    exports: Sequence[str],
    facts: Mapping[str, str],
) -> None:
    """The page, whole or not at all. `steps` is the demo's record: title, command and seconds of each step."""
    head, *body = rows
    table = _row("th", head) + "".join(_row("td", row) for row in body)
    timed = "".join(_row("td", [step["title"], spell(step["seconds"])]) for step in steps.values())
    total = _row("td", ["all steps", spell(sum(step["seconds"] for step in steps.values()))])
    commands = "\n".join([*exports, "", *(shell_line(step["command"]) for step in steps.values() if step["command"])])
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        table=table,
        picture=base64.b64encode(picture.read_bytes()).decode(),
        commands=escape(commands),
        times=timed + total,
        facts="".join(_row("td", pair) for pair in facts.items()),
    )
    write_atomically({path: page.encode()})


def describe_run(seed: int, steps: int) -> dict[str, str]:
    """Versions and hardware, for whoever compares figures."""
    return {
        "phantom": f"generator version {GENERATOR_VERSION}, seed {seed}",
        "training": f"{steps} steps, AdamW, device cpu",
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

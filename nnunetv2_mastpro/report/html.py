"""Pieces of the page: everything that is text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{escape(text)}</p>\n"


def table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A row header each; `name` is for who does not see it.

    `kind` "numbers": aligned to the right but for the first column.
    """
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>\n" if head else ""
    inside = f"<table{_class(kind)}>\n{thead}<tbody>{body}</tbody></table>"
    return f'<div class="scroll"{_region(name)}>{inside}</div>\n'


def picture(content: bytes, form: str, alternative: str, caption: str = "", kind: str = "") -> str:
    """form: "webp", "png", "svg+xml"."""
    code = base64.b64encode(content).decode()
    image = f'<img{_class(kind)} alt="{escape(alternative)}" src="data:image/{form};base64,{code}">'
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{text}</figure>\n"


def legend(colors: Mapping[str, str]) -> str:
    """Name -> colour."""
    items = "".join(
        f'<li><span class="swatch" style="background:{color}"></span>{escape(name)}</li>'
        for name, color in colors.items()
    )
    return f'<ul class="legend">{items}</ul>\n'


def code(name: str, text: str) -> str:
    return f"<pre{_region(name)}>{escape(text)}</pre>\n"


def details(summary: str, content: str) -> str:
    """Opened by its summary."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>\n"


def section(name: str, title: str, content: str) -> str:
    head = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}\n{content}</section>\n'


def _region(name: str) -> str:
    """Of what can be scrolled, so that keys reach it."""
    return f' tabindex="0" role="region" aria-label="{escape(name)}"'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""

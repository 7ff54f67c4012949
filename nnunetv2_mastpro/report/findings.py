"""What a report was asked for, and all that its page tells of the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_mastpro.report.cases import Case, Channel
from nnunetv2_mastpro.report.model import Model
from nnunetv2_mastpro.report.origin import Origin
from nnunetv2_mastpro.report.viewer import Embedded


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
    tolerance_mm: float = 2.0  # this and the next two as mastpro evaluate has them
    lesion_overlap: float = 0.0
    patients: str | None = None
    channel: int | None = None  # of the images, in pictures; the first CT, else the first
    chill: bool = False  # leaves out images and labels without a prediction


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
    channel: Channel
    cases: Sequence[Case]
    evaluation: Mapping | None = None
    origin: Origin = field(default_factory=Origin)
    panels: list[Panel] = field(default_factory=list)
    panels_left_out: int = 0
    hosts: list[dict] = field(
        default_factory=list
    )  # case, class, host_ml, share of prediction and of truth in the host
    embedded: list[Embedded] = field(default_factory=list)
    not_embedded: dict[str, str] = field(default_factory=dict)  # case -> why

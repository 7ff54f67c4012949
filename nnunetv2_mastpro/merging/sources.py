"""The data sets to merge, as their folders in nnUNet_raw say."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_mastpro.datasets import dataset_name, image_files, label_values, read_json_object, training_files
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import closest, some
from nnunetv2_mastpro.prompts.knowledge_base import Entry, find
from nnunetv2_mastpro.prompts.resolve import channel_names, foreground_labels
from nnunetv2_mastpro.prompts.section import read_section
from nnunetv2_mastpro.resources import nnunet_folder
from nnunetv2_mastpro.tasks import TESTS, Cases, read_cases, section_of, with_cases

READER = "overwrite_image_reader_writer"
MARK = "merge"  # mastpro.merge of dataset.json: what a later merge has to know


@dataclass(frozen=True)
class RawCase:
    """A labelled case and its files."""

    source: str
    name: str
    images: tuple[str, ...]
    label: str
    reader: type  # nnU-Net's class for its files

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.source, self.name


@dataclass(frozen=True)
class Source:
    """A data set. `labels`: values of each foreground label, in the order of its values; `cases`: as dataset.json.

    `files`: its training cases, `tests`: those of imagesTs and labelsTs, once `with_tests` has looked for them.
    """

    name: str
    folder: Path
    content: dict
    labels: dict[str, tuple[int, ...]]
    ignore_value: int | None
    cases: Cases
    files: tuple[RawCase, ...]
    tests: tuple[RawCase, ...] = ()

    @property
    def declared(self) -> list[int]:
        """All values that its label files may hold."""
        values = {0, *itertools.chain(*self.labels.values())}
        return sorted(values | ({self.ignore_value} if self.ignore_value is not None else set()))

    @property
    def channels(self) -> list[str]:
        names = channel_names(self.content)
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def prompts(self) -> dict[str, dict]:
        """What its dataset.json says of labels in mastpro.prompts."""
        return self.content.get("mastpro", {}).get("prompts", {})

    def meaning(self, label: str) -> Entry | str | None:
        """The knowledge base's entry of a label, or the tumour that the source's own prompt names; None for neither."""
        told = self.prompts.get(label, {}).get("tumor")
        return find(told) or told if told else find(label, tuple(self.labels), self.name)

    def origins_of(self, case: str) -> tuple[str, ...]:
        """SOURCE/CASE, of all that an earlier merge united to this case where it did."""
        mark = self.content.get("mastpro", {}).get(MARK)
        united = mark.get("duplicates") if isinstance(mark, dict) else None
        found = united.get(case) if isinstance(united, dict) else None
        return tuple(map(str, found)) if isinstance(found, list) and found else (f"{self.name}/{case}",)


def read_sources(datasets: Sequence[str]) -> list[Source]:
    """In the order given. Raises MASTProError where one is missing, named twice or unlike the first."""
    names = [find_raw(dataset) for dataset in datasets]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise MASTProError(f"-d names {twice[0]} twice; name each source once")
    sources = [read_source(name) for name in names]
    for source in sources[1:]:
        _check_alike(sources[0], source)
    return sources


def find_raw(dataset: str) -> str:
    """Name of a data set in nnUNet_raw, by its id or name."""
    raw = nnunet_folder("nnUNet_raw")
    name = dataset_name(dataset, [raw])
    if not (raw / name / "dataset.json").is_file():
        raise MASTProError(f"source {name} has no dataset.json in {raw}; check -d: ids or names")
    return name


def read_source(name: str) -> Source:
    """Raises MASTProError for labels, cases or files that are not as nnU-Net asks."""
    folder = nnunet_folder("nnUNet_raw") / name
    content = read_json_object(folder / "dataset.json")
    try:
        cases = read_cases(with_cases(content), foreground_labels(content))
        read_section(content, cases.labels)
        channel_names(content)
    except MASTProError as error:
        raise MASTProError(f"source {name}: {error}") from error
    if "file_ending" not in content:
        raise MASTProError(f'dataset.json of source {name} has no "file_ending"; add one such as ".nii.gz"')
    values = {label: tuple(sorted(found)) for label, found in label_values(content).items()}
    ignore = values.get("ignore", (None,))[0]
    labels = {label: values[label] for label in sorted(cases.labels, key=lambda label: values[label])}
    files = _files(name, folder, content)
    both = [case.name for case in files if case.name in section_of(content, TESTS)]
    if both:
        raise MASTProError(f"mastpro.test_cases of source {name} names training cases: {some(both)}; see mastpro.cases")
    return Source(name, folder, content, labels, ignore, cases, files)


def _files(name: str, folder: Path, content: dict) -> tuple[RawCase, ...]:
    if "dataset" not in content and not (folder / "imagesTr").is_dir():
        raise MASTProError(f'source {name} has neither imagesTr nor "dataset" in dataset.json; give a whole data set')
    found = training_files(folder, content)
    if not found:
        raise MASTProError(f"source {name} has no training cases; leave it out of -d")
    paths = [str(path) for one in found.values() for path in (*one["images"], one["label"])]
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise MASTProError(f"source {name} lacks {some(missing, 3)}; restore the files")
    reader = _reader(content, str(next(iter(found.values()))["images"][0]))
    return tuple(
        RawCase(name, case, tuple(map(str, one["images"])), str(one["label"]), reader) for case, one in found.items()
    )


def with_tests(source: Source) -> Source:
    """With its test cases: no images, or an empty label, where the other of the two folders lacks the case."""
    ending, reader = source.content["file_ending"], source.files[0].reader
    labels = {path.name.removesuffix(ending): path for path in (source.folder / "labelsTs").glob(f"*{ending}")}
    images = image_files(source.folder / "imagesTs", ending)
    tests = tuple(
        RawCase(source.name, case, tuple(map(str, images.get(case, ()))), str(labels.get(case, "")), reader)
        for case in sorted({*images, *labels})
    )
    return replace(source, tests=tests)


def _reader(content: dict, example: str) -> type:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    with contextlib.redirect_stdout(io.StringIO()):
        return determine_reader_writer_from_dataset_json(content, example)


def _check_alike(first: Source, other: Source) -> None:
    for what, one, two in (
        ("the channels", first.channels, other.channels),
        ("the file ending", first.content["file_ending"], other.content["file_ending"]),
        (READER, first.content.get(READER), other.content.get(READER)),
    ):
        if str(one).casefold() != str(two).casefold():
            raise MASTProError(
                f"{what} of {first.name} and {other.name} differ: {one} and {two}; sources have to agree, so convert "
                "one or leave it out"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean "..."?`, or all that are known."""
    known = list(known)
    close = closest(name, known)
    return f'did you mean "{close}"?' if close else f"known: {', '.join(known)}"

"""What `mastpro merge` tells: the table of what each source annotates, notes and warnings, the next command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from nnunetv2_mastpro.listing import some, table
from nnunetv2_mastpro.merging.cases import Key, voxels
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.mapping import ClassMap
from nnunetv2_mastpro.merging.output import Target
from nnunetv2_mastpro.merging.sources import RawCase, Source
from nnunetv2_mastpro.merging.voxels import Scan
from nnunetv2_mastpro.processes import shell_line
from nnunetv2_mastpro.prompts.knowledge_base import find
from nnunetv2_mastpro.prompts.resolve import FROM_NAME, Prompt, resolve_quietly


def describe(sources: Sequence[Source], scans: Mapping[Key, Scan], classes: Classes, mapping: ClassMap) -> list[str]:
    """The table of what each source annotates."""
    rows = [("source", "cases", "value", "class", "annotated in", "found in", "voxels")]
    for source in sources:
        annotated, found, total = Counter(), Counter(), Counter()
        for case in source.files:
            counts = voxels(scans, case, classes)
            annotated.update(classes.annotated(source, case.name, mapping))
            found.update(counts.keys())
            total.update(counts)
        for name in classes.ordered([*annotated, *found]):
            numbers = (annotated[name], found[name], total[name])
            rows.append((source.name, str(len(source.files)), str(classes.values[name]), name, *map(str, numbers)))
    return table(rows)


def notes(images: Sequence[tuple[RawCase, ...]], without: Sequence[str], unite: bool) -> list[str]:
    """What the user may not expect: duplicates, and cases that are left out."""
    lines = []
    twice = [" = ".join(f"{case.source}/{case.name}" for case in cases) for cases in images if len(cases) > 1]
    if twice:
        fate = "united to one case each" if unite else "kept, each set in one fold"
        lines.append(f"duplicate images, {fate}: {some(twice)}")
    if without:
        lines.append(f"warning: left out, since they annotate no class that is kept: {some(without)}")
    return lines


def turned(sources: Sequence[Source], scans: Mapping[Key, Scan]) -> list[str]:
    """Images that are the same but for the order in which their voxels are stored."""
    found: dict[str, dict[str, str]] = {}
    for case in (case for source in sources for case in source.files):
        found.setdefault(scans[case.key].turned, {})[scans[case.key].digest] = f"{case.source}/{case.name}"
    twice = [" = ".join(names.values()) for names in found.values() if len(names) > 1]
    return [f"the same images in two orientations, kept, each set in one fold: {some(twice)}"] if twice else []


def askew(sources: Sequence[Source], scans: Mapping[Key, Scan]) -> list[str]:
    """Labels whose header puts them elsewhere than their image."""
    found = [f"{case.source}/{case.name}" for source in sources for case in source.files if not scans[case.key].aligned]
    if not found:
        return []
    return [
        f"warning: label and image differ in origin or direction, which nnU-Net overlooks, in {some(found)}; see "
        "whether they fit, and correct the header of the label"
    ]


def leaving(target: Target, sources: Sequence[Source]) -> list[str]:
    """Sources of an earlier merge that are no longer named."""
    gone = [name for name in target.sources if name not in {source.name for source in sources}]
    return [f"warning: -d no longer names {', '.join(gone)}, whose cases leave the data set"] if gone else []


def without_tests(sources: Sequence[Source]) -> list[str]:
    """Labelled test cases, where they were not asked for."""
    ends = {source.name: source.content["file_ending"] for source in sources}
    count = sum(len([*(source.folder / "labelsTs").glob(f"*{ends[source.name]}")]) for source in sources)
    return [f"note: {count} labelled test cases are left out; --test merges them too"] if count else []


def unknown(content: dict, sources: Sequence[Source], classes: Classes) -> list[str]:
    """Classes of which nobody has told more than the name."""
    prompts = resolve_quietly(content, content["name"])
    names = [prompt.label for prompt in prompts if prompt.origin == FROM_NAME and not prompt.is_tumor]
    named = [name for name in names if name not in _lost(sources, classes)]
    return [
        f"note: nothing but the name is known of {', '.join(named)}, which so counts as no tumour type and has no host "
        'organ; if it is a tumour, say so in mastpro.prompts ("is_tumor", mastpro prompts --write)'
    ] * bool(named)


def vague(sources: Sequence[Source], classes: Classes) -> list[str]:
    """Names such as "tumor", that say what they are in the source's name only."""
    lost = _lost(sources, classes)
    named = ", ".join(f'"{target}" ({known})' for target, known in lost.items())
    advice = "correct the map, or draft one with --write-map; else its prompt is a plain sentence of its name"
    return [f"note: the knowledge base knows no {named} by that name alone: {advice}"] if lost else []


def _lost(sources: Sequence[Source], classes: Classes) -> dict[str, str]:
    """Class -> what the knowledge base calls it in its source, where the class's own name says nothing."""
    return {
        target: known.name
        for source in sources
        for label, target in classes.targets[source.name].items()
        if target and label not in source.prompts and (known := find(label, tuple(source.labels), source.name))
        if find(target, tuple(classes.values)) is None
    }


def overruled(
    content: dict, target: Target, sources: Sequence[Source], classes: Classes, settled: Container[str]
) -> list[str]:
    """Prompts of sources that say something else than the merged data set does of the class: the first one stays.

    `settled`: classes of a trained model, whose prompts stay in any case.
    """
    kept = {prompt.label: _said(prompt) for prompt in resolve_quietly(content, content["name"])}
    found: dict[str, list[str]] = {}
    for source in sources:
        for prompt in resolve_quietly(source.content, source.name):
            name = classes.targets[source.name].get(prompt.label)
            asked = prompt.label in source.prompts and name not in settled
            if asked and kept.get(name, _said(prompt)) != _said(prompt):
                found.setdefault(name, []).append(source.name)
    where = f"correct mastpro.prompts of {target.name} (both copies of dataset.json) where that is wrong"
    return [
        f"note: the prompt of {name} stays as it is, {some(others)} has another; {where}"
        for name, others in found.items()
    ]


def _said(prompt: Prompt) -> tuple:
    return prompt.sentence, prompt.is_tumor, frozenset(prompt.host_structures)


def holes(sources: Sequence[Source], classes: Classes) -> list[str]:
    """Dropped labels whose voxels become background in a source that keeps a class which contains others."""
    lines = []
    for source in sources:
        targets, table = classes.targets[source.name], classes.tables[source.name]
        around = [name for name in classes.ordered([*targets.values()]) if name in classes.parents.values()]
        lost = [
            label for label, target in targets.items() if not target and not any(table[v] for v in source.labels[label])
        ]
        if around and lost:
            lines.append(
                f"note: voxels of {', '.join(lost)} in {source.name} become background, also inside {around[0]}; map "
                f"what belongs to it to {around[0]}, so that it has no holes"
            )
    return lines


def stale(target: Target, model: Path | None) -> list[str]:
    """What an earlier merge left that the new one does not fit."""
    if not (target.preprocessed / "dataset_fingerprint.json").is_file():
        return []
    remedy = "plan and preprocess again, --clean" if model is None else "mastpro add-tumour preprocesses again"
    return [f"note: {target.preprocessed} holds data of an earlier merge; {remedy}"]


def what_next(target: Target, again: bool, model: Path | None) -> list[str]:
    """The command to go on with. `again`: nnU-Net may have a fingerprint of an earlier merge."""
    clean = " --clean" if again else ""
    identifier = int(target.name[7:10])
    if model is not None:  # plans and preprocessing must be the model's
        given = ["-d", str(identifier), "-f", "0", "-n", "PLANS", "--write-prompts", "--dry-run"]
        return ["", "Next:", f"  {shell_line(['mastpro', 'add-tumour', '-m', str(model), *given])}"]
    why = "    # --clean: nnU-Net would keep what it read of the earlier merge" if again else ""
    return ["", "Next:", f"  nnUNetv2_plan_and_preprocess -d {identifier} --verify_dataset_integrity{clean}{why}"]

"""An evaluation as the console shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunetv2_mastpro.evaluation.metrics import NAMES
from nnunetv2_mastpro.evaluation.summary import PER_CASE, RATES
from nnunetv2_mastpro.listing import some, table

ENOUGH = 8  # cases, below which the intervals are too narrow (docs/decisions.md)
TITLES = {"Dice": "Dice", "NSD": "NSD", "HD95_mm": "HD95 mm"}


def describe(result: Mapping) -> list[str]:
    """Scores by class, lesions of tumours, false positives, and scores by source where there are several."""
    summary = result["summary"]
    percent = f"{100 * result['confidence']:g} %"
    lines = [
        f"Mean with its {percent} interval over {result['units']}; NSD at {result['tolerance_mm']:g} mm; "
        "lower is better for HD95:"
    ]
    lines += table(_class_rows(summary))
    lines.append(
        "without: cases that do not have the class; made up: those of them in which it was marked, which count as a "
        "Dice of 0; missed: cases with it in which nothing was marked"
    )
    lines += too_few(result, summary)
    if result["tumours"]:
        lines += ["", "Lesions (26-connected components) by equivalent diameter:", *table(_lesion_rows(summary))]
        lines += ["", "False-positive lesions per case:", *table(_false_rows(summary))]
    else:
        lines += ["", 'No class is a tumour type ("is_tumor" in mastpro.prompts of dataset.json): no lesions counted.']
    if len(summary["sources"]) > 1:
        lines += ["", "By source:", *table(_source_rows(summary))]
    told = doubts(result)
    return [*lines, *([""] if told else []), *told]


def too_few(result: Mapping, summary: Mapping) -> list[str]:
    """What must be said of intervals from few cases; nothing where there are enough."""
    means = {f"mean of {key}": found for key, found in summary["macro"].items() if _parts(summary, key) > 1}
    numbers = {label: [found[name] for name in NAMES] for label, found in {**summary["classes"], **means}.items()}
    units = {label: [one["units"] for one in found if one["low"] is not None] for label, found in numbers.items()}
    return _few(result, {label: min(counts) for label, counts in units.items() if counts})


def too_few_pairs(result: Mapping) -> list[str]:
    """The same of a comparison, whose pairs may be fewer than its cases."""
    counts = {}
    for row in result["differences"]:
        if row["low"] is not None:
            counts[f"{row['metric']} of {row['class'] or 'the mean of classes'} for {row['name']}"] = row["units"]
    return _few(result, counts)


def _few(result: Mapping, units: Mapping[str, int]) -> list[str]:
    few = {label: count for label, count in units.items() if count < ENOUGH}
    if not few:
        return []
    told = (
        "" if result["number_of_units"] < ENOUGH else f": {some([f'{name} ({count})' for name, count in few.items()])}"
    )
    return [
        f"Intervals from fewer than {ENOUGH} {result['units']} miss the true mean more often than they say; take these "
        f"as a hint{told}."
    ]


def doubts(result: Mapping) -> list[str]:
    """What must be said where it is not known what a case annotates, or where its reference says otherwise."""
    lines, cases = [], result["unexpected"]
    if cases:
        lines.append(
            f"warning: the references of {len(cases)} of {result['number_of_cases']} cases hold classes that these do "
            f"not annotate, by dataset.json, and that are not scored ({some(cases)}); is -d the data set of the labels?"
        )
    return [*lines, *presumed(result["presumed_complete"], result["number_of_cases"])]


def presumed(cases: Sequence[str], total: int) -> list[str]:
    """What must be said where `cases` are scored as wholly annotated and nobody said that they are."""
    if not cases:
        return []
    return [
        f"warning: {len(cases)} of {total} cases are not in mastpro.cases or test_cases of dataset.json, though others "
        "annotate some classes only; they are scored as annotated in whole, so that what their annotators did not look "
        f"for counts as a false finding ({some(cases)}); --cases FILE says what each annotates"
    ]


def _class_rows(summary: Mapping) -> list[tuple[str, ...]]:
    rows = [("class", *TITLES.values(), "cases with it", "without", "not annotated", "missed", "made up")]
    for label, found in summary["classes"].items():
        counts = (
            found["with"],
            found["annotated"] - found["with"],
            found["left_out"],
            found["missed"],
            found["made_up"],
        )
        rows.append((label, *(shown(found[name]) for name in NAMES), *map(str, counts)))
    for key, title in (("classes", "mean of classes"), ("tumours", "mean of tumours"), ("sources", "mean of sources")):
        if _parts(summary, key) > 1:
            rows.append((title, *(shown(summary["macro"][key][name]) for name in NAMES), *[""] * 5))
    return rows


def _parts(summary: Mapping, key: str) -> int:
    """How many a mean is of."""
    return len(summary["sources"] if key == "sources" else _of(summary, key))


def _of(summary: Mapping, key: str) -> list[str]:
    return [label for label, found in summary["classes"].items() if key == "classes" or found["tumour"]]


def _lesion_rows(summary: Mapping) -> list[tuple[str, ...]]:
    rows = [("class", "size", "lesions", "found", *RATES)]
    for label in _of(summary, "tumours"):
        found = summary["classes"][label]
        bands = {
            band: counts for band, counts in found["bands"].items() if counts["lesions"] or counts["lesions_false"]
        }
        for band, counts in bands.items():
            numbers = (shown(counts[name]) for name in RATES)
            rows.append((label, band, str(counts["lesions"]), str(counts["lesions_found"]), *numbers))
        total = [sum(counts[name] for counts in found["bands"].values()) for name in ("lesions", "lesions_found")]
        rows.append((label, "all", *map(str, total), *(shown(found[name]) for name in RATES)))
    return rows


def _false_rows(summary: Mapping) -> list[tuple[str, ...]]:
    rows = [("class", "cases", "number", "with false lesions", "lesions per case", "ml per case")]
    for label in _of(summary, "tumours"):
        found = summary["classes"][label]
        without = found["without"]
        for title, count, numbers in (("all", found["annotated"], found), ("without it", without["cases"], without)):
            counts = (str(count), str(numbers["cases_with_false_lesions"]))
            rows.append((label, title, *counts, *(shown(numbers[name], 2) for name in PER_CASE)))
    return rows


def _source_rows(summary: Mapping) -> list[tuple[str, ...]]:
    rows = [("source", "class", *TITLES.values(), "cases")]
    for source, classes in summary["sources"].items():
        for label, found in classes.items():
            rows.append((source, label, *(shown(found[name]) for name in NAMES), str(found["Dice"]["cases"])))
    return rows


def shown(number: Mapping, digits: int = 3) -> str:
    """mean (low to high), or -; no interval of one case."""
    if number["mean"] is None:
        return "-"
    text = f"{number['mean']:.{digits}f}"
    return text if number["low"] is None else f"{text} ({number['low']:.{digits}f} to {number['high']:.{digits}f})"

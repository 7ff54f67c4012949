"""nnU-Net's summaries where labels are partial: a class is scored in the cases whose annotators looked for it."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnunetv2_mastpro.evaluation.cases import ScoredClass, organs_of_unknown, scored_classes
from nnunetv2_mastpro.files import write_atomically
from nnunetv2_mastpro.tasks import Cases

SUMMARY, NNUNETS = "summary.json", "summary_nnunet.json"


@dataclass(frozen=True)
class Labels:
    """What a summary's files hold. `outputs`: nnU-Net's labels or regions, in the order of `classes`."""

    outputs: tuple
    classes: tuple[ScoredClass, ...]
    ignore_value: int | None
    reader: object  # nnU-Net's
    file_ending: str


def labels_of(plans_manager, dataset_json: Mapping, prompts: Sequence) -> Labels:
    """`prompts`: the classes but background, with label, is_tumor and host_structures."""
    manager = plans_manager.get_label_manager(dataset_json)
    return Labels(
        outputs=tuple(outputs_of(manager)),
        classes=scored_classes(prompts, dataset_json),
        ignore_value=manager.ignore_label,
        reader=plans_manager.image_reader_writer_class(),
        file_ending=dataset_json["file_ending"],
    )


class Read(NamedTuple):
    """What nnU-Net asks of a reader, of files that were read before."""

    values: Mapping[str, np.ndarray]

    def read_seg(self, file: str) -> tuple[np.ndarray, dict]:
        return self.values[file], {}


def with_organs(entry: Mapping, known: Sequence[bool], labels: Labels) -> Mapping:
    """An entry of metric_per_case, counted anew where a predicted tumour is to be counted as the organ that it is in.

    That is where the case annotates the organ and not the tumour, which the loss lets the network find in the organ's
    label. A region that holds the tumour's values counts them itself.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    classes, metrics = labels.classes, entry["metrics"]
    concerned = any(
        metrics[labels.outputs[place]]["n_pred"] and not {*classes[place].values} <= {*organ.values}
        for organ, knows in zip(classes, known, strict=True)
        for place in (organ.inside if knows else ())
        if not known[place]
    )
    if not concerned:
        return entry
    files = [entry["reference_file"], entry["prediction_file"]]
    reference, prediction = (labels.reader.read_seg(file)[0] for file in files)
    prediction = prediction.copy()
    for organ, voxels in organs_of_unknown(reference[0], prediction[0], classes, known).items():
        prediction[0][voxels] = _own_value(next(scored for scored in classes if scored.label == organ), classes)
    read = Read(dict(zip(files, (reference, prediction), strict=True)))
    counted = compute_metrics(*files, read, list(labels.outputs), labels.ignore_value)
    recursive_fix_for_json_export(counted)
    return {**entry, **counted}


def _own_value(organ: ScoredClass, classes: Sequence[ScoredClass]) -> int:
    """Of a region the one that no class inside it has, if there is one."""
    inside = {value for other in classes if {*other.values} < {*organ.values} for value in other.values}
    return next((value for value in organ.values if value not in inside), organ.values[0])


def corrected(summary: Mapping, cases: Cases, labels: Labels) -> dict:
    """`summary` as nnU-Net's load_summary_json gives it, with nan for what a case does not annotate.

    "mean" is nnU-Net's over the cases that are left, "foreground_mean" nnU-Net's over the classes that any case
    annotates. A block "mastpro" says for each class, and for each source of cases, the mean Dice, in how many cases it
    was scored, in how many it is in neither truth nor prediction ("empty": no Dice), and in how many it was left out.
    """
    outputs = labels.outputs
    entries, dice, annotated = [], [], []
    for stock in summary["metric_per_case"]:
        known = cases.annotated_in(case_of(stock, labels.file_ending))
        entry = with_organs(stock, known, labels)
        metrics = {
            output: entry["metrics"][output] if knows else dict.fromkeys(entry["metrics"][output], np.nan)
            for output, knows in zip(outputs, known, strict=True)
        }
        entries.append({**entry, "metrics": metrics})
        dice.append([_number(metrics[output]["Dice"]) for output in outputs])
        annotated.append(known)
    means = {
        output: {name: _mean([entry["metrics"][output][name] for entry in entries]) for name in summary["mean"][output]}
        for output in outputs
    }
    dice, annotated = np.array(dice), np.array(annotated)
    scored = [output for output, known in zip(outputs, annotated.any(0), strict=True) if known]
    foreground = {  # not nanmean, as nnU-Net: a class that no case has and none predicts makes it nan
        name: float(np.mean([means[output][name] for output in scored])) for name in summary["foreground_mean"]
    }
    sources = np.array([cases.source_of(case_of(entry, labels.file_ending)) for entry in entries])
    told = {
        "per_class": _tell(cases.labels, dice, annotated),
        "per_source": {
            source: _tell(cases.labels, dice[sources == source], annotated[sources == source])
            for source in sorted({*sources.tolist()})
        },
    }
    return {"metric_per_case": entries, "mean": means, "foreground_mean": foreground, "mastpro": told}


def case_of(entry: Mapping, file_ending: str) -> str:
    """The case of an entry of metric_per_case."""
    return Path(entry["prediction_file"]).name.removesuffix(file_ending)


def rewrite_summary(folder: Path, cases: Cases, labels: Labels) -> dict:
    """Correct the summary.json that nnU-Net wrote there, and keep its own beside it; gives the new one.

    A summary that was corrected before is corrected anew from nnU-Net's own. Files are written whole or not at all.
    """
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json, save_summary_json

    path, stock = folder / SUMMARY, folder / NNUNETS
    source = stock if "mastpro" in json.loads(path.read_bytes()) and stock.is_file() else path
    summary = corrected(load_summary_json(str(source)), cases, labels)
    with tempfile.TemporaryDirectory() as scratch:
        save_summary_json(summary, str(Path(scratch) / SUMMARY))
        write_atomically({stock: source.read_bytes(), path: (Path(scratch) / SUMMARY).read_bytes()})
    return summary


def rewrite_or_remove(folder: Path, cases: Cases, labels: Labels) -> dict:
    """As rewrite_summary; where that fails nnU-Net's own goes, which takes what is not annotated for background."""
    try:
        return rewrite_summary(folder, cases, labels)
    except BaseException:
        (folder / SUMMARY).unlink(missing_ok=True)
        raise


def outputs_of(label_manager) -> list:
    """nnU-Net's labels or regions in the order of the network's foreground outputs."""
    return list(label_manager.foreground_regions if label_manager.has_regions else label_manager.foreground_labels)


def rows(summary: Mapping) -> list[tuple[str, ...]]:
    """The block "mastpro" as rows of a table: all sources together, then each."""
    told = {"all": summary["mastpro"]["per_class"], **summary["mastpro"]["per_source"]}
    return [
        ("source", "class", "mean Dice", "cases scored", "neither has it", "left out"),
        *(
            (source, label, "-" if np.isnan(found["Dice"]) else f"{found['Dice']:.3f}")
            + tuple(str(found[key]) for key in ("scored", "empty", "left_out"))
            for source, classes in told.items()
            for label, found in classes.items()
            if found["scored"] or found["empty"] or source == "all"
        ),
    ]


def _tell(labels: Sequence[str], dice: np.ndarray, annotated: np.ndarray) -> dict[str, dict]:
    """dice, annotated (cases, T)."""
    return {
        label: {
            "Dice": _mean(dice[:, index]),
            "scored": int((annotated & ~np.isnan(dice))[:, index].sum()),
            "empty": int((annotated & np.isnan(dice))[:, index].sum()),
            "left_out": int((~annotated[:, index]).sum()),
        }
        for index, label in enumerate(labels)
    }


def _number(value) -> float:
    return np.nan if value is None else float(value)


def _mean(values: Sequence) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but nan
        return float(np.nanmean([_number(value) for value in values]))

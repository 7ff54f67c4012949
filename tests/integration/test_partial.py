"""Cases that each annotate one class, through stock training and validation."""

import json
import re
import shutil

import pytest

from nnunetv2_mastpro.tasks import read_cases

PARTIAL = "Dataset704_HippocampusPartial"
LABELS = ("anterior", "posterior")


TRAINERS = [
    "nnUNetTrainerMASTPro_1epoch",
    pytest.param("nnUNetTrainerStockPartial_1epoch", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=TRAINERS)
def trained(request, lab, kinds):
    """Results folder, and the dataset.json: cases annotate the one class and the other in turn."""
    folder = lab.workspace.preprocessed / PARTIAL
    if not folder.is_dir():
        shutil.copytree(lab.preprocessed(kinds["small"].dataset), folder)
        content = json.loads((folder / "dataset.json").read_text())
        names = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "gt_segmentations").glob("*.nii.gz"))
        content["mastpro"]["cases"] = {
            name: {"source": f"source {number % 2}", "annotated": [LABELS[number % 2]]}
            for number, name in enumerate(names)
        }
        (folder / "dataset.json").write_text(json.dumps(content))
        splits = [{"train": names[:-2], "val": names[-2:]}]
        (folder / "splits_final.json").write_text(json.dumps(splits))
        for file in (folder / "nnUNetPlans.json", folder / "Small.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "dataset_name": PARTIAL}))
    kind = kinds["small"].__class__(PARTIAL)
    lab.command(*lab.train_arguments(kind, trainer=request.param))
    return lab.results(kind, request.param) / "fold_0", json.loads((folder / "dataset.json").read_text())


def test_training_tells_what_was_drawn(trained):
    fold, _ = trained
    log = max(fold.glob("training_log_*.txt")).read_text()
    assert "1 epoch of 2 training steps (MASTPRO_EPOCH_ITERATIONS is set)" in log
    assert re.search(r"Partial labels: \d+ of the cases in mastpro.cases annotate some of the classes only", log)
    assert re.search(r"Samples drawn: from source [01] \d", log)  # four samples may all be of one source


def test_the_summary_scores_annotated_classes_alone(trained):
    fold, content = trained
    cases = read_cases(content, LABELS)
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    stock = json.loads((fold / "validation" / "summary_nnunet.json").read_text())
    for value, label in enumerate(LABELS, 1):
        known = {
            entry["prediction_file"].split("/")[-1].removesuffix(".nii.gz"): entry["metrics"][str(value)]["Dice"]
            for entry in stock["metric_per_case"]
        }
        scored = [dice for case, dice in known.items() if label in cases.annotated[case]]
        assert len(scored) == 1
        assert summary["mean"][str(value)]["Dice"] == pytest.approx(scored[0], nan_ok=True)

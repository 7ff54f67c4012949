"""Several ranks in one way each of training: from scratch, masked, PEFT, continued, uneven; against one process."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from nnunetv2_mastpro.tasks import read_cases
from nnunetv2_mastpro.training.sampling import histogram

from .conftest import (
    LABELS,
    LONGER,
    ONE_TYPE_EACH,
    PARTIAL,
    STEPS,
    assert_alike,
    assert_equal_states,
    assert_same_loss_and_gradients,
    compared,
    what,
)


@pytest.fixture(scope="module")
def quick(on_ranks, plan, case_names, fold):
    train, checkpoint = case_names[:-2], "checkpoint_final.pth"
    each = [
        [train[0], train[3]],
        [train[1], train[4]],
    ]  # the first rank's annotate the one class, the other's the other
    plan("Ranks")
    plan("Masked", training=ONE_TYPE_EACH)
    plan("Uneven", batch_size=3)
    plan("Compared", configuration={"batch_dice": True}, training=ONE_TYPE_EACH)
    longer = {"what": what("Masked", LONGER), "cases": each}
    return on_ranks(
        [
            {"name": "scratch", "what": what("Ranks"), "validate": True},
            {"name": "masked", "what": what("Masked"), "cases": each},
            {"name": "peft", **longer, "epochs": 1, "pretrained": str(fold("Masked") / checkpoint)},
            {"name": "peft_continued", **longer, "epochs": 2, "c": True},
            {"name": "uneven", "what": what("Uneven")},
            *compared("batch_dice", "Compared", [train[0], train[1], train[2], train[5]]),
        ]
    )


@pytest.mark.parametrize("name", ["scratch", "masked", "peft", "peft_continued", "uneven"])
def test_ranks_end_alike(quick, name):
    assert_alike(quick[name])


def test_experts_that_one_rank_masks_learn_from_the_other(quick, case_names):
    """The first rank's samples annotate the one type alone, the other's the other."""
    for place, rank in enumerate(quick["masked"]):
        assert rank["keys"] == [[case_names[place], case_names[place + 3]]] * STEPS
    names = {name for name in quick["masked"][0]["trained"] if "experts." in name and ".specific." in name}
    assert {name[-1] for name in names} == {"0", "1"}
    assert not any(names & zero for rank in quick["masked"] for zero in rank["zero"][1:])


def test_two_ranks_of_two_are_one_of_four(quick):
    """Loss (mean over ranks) and gradients, where samples annotate one class or two; with batch Dice over all four."""
    assert_same_loss_and_gradients(quick["batch_dice_alone"], quick["batch_dice"])


@pytest.mark.parametrize("name", ["scratch", "peft"])
def test_no_buffers_are_sent(quick, name):
    """Before and after DDP is wrapped anew."""
    assert [rank["sends_buffers"] for rank in quick[name]] == [False, False]


def test_fine_tuning_starts_from_the_checkpoint_on_every_rank(quick, fold):
    saved = torch.load(fold("Masked") / "checkpoint_final.pth", weights_only=False)["network_weights"]
    for rank in quick["peft"]:
        assert_equal_states(rank["start"], saved)
        assert not any(name.startswith("backbone.") for name in rank["trained"])
        assert any(name.startswith("experts.") for name in rank["trained"])


def test_a_continued_run_starts_where_it_was_on_every_rank(quick, fold):
    saved = torch.load(fold("Masked", LONGER) / "checkpoint_final.pth", weights_only=False)
    for before, after in zip(quick["peft"], quick["peft_continued"], strict=True):
        assert_equal_states(after["start"], before["end"])
        assert after["trained"] == before["trained"]
    assert_equal_states(saved["network_weights"], quick["peft_continued"][0]["end"])
    assert saved["current_epoch"] == 2


def test_ranks_draw_for_themselves(quick):
    first, second = (rank["keys"] for rank in quick["scratch"])
    assert first != second
    assert [rank["seed"] for rank in quick["scratch"]] == [0, 1]  # alike, the first draws are alike


def test_every_ranks_samples_are_counted_once(lab, quick, fold, case_names):
    keys = [case for rank in quick["scratch"] for step in rank["keys"] for case in step]
    assert len(keys) == 4 * STEPS
    assert json.loads((fold("Ranks") / "expert_usage.json").read_text())["patches"]["all"] == len(keys)
    (log,) = fold("Ranks").glob("training_log_*.txt")
    text = log.read_text()
    content = json.loads((lab.workspace.preprocessed / PARTIAL / "dataset.json").read_text())
    cases = read_cases(content, LABELS)
    sources = {case: cases.source_of(case) for case in case_names}
    types = {case: list(LABELS) for case in case_names}  # each has both, annotated or not
    assert histogram(Counter(keys), types, sources).partition(";")[0] in text
    for line in ("Epoch 0 ", "Samples drawn", "Experts never kept", "Pseudo dice", "Training done"):
        assert text.count(line) == 1, line


def test_validation_is_shared_out_and_its_summary_corrected(lab, quick, fold, case_names):
    content = json.loads((lab.workspace.preprocessed / PARTIAL / "dataset.json").read_text())
    cases = read_cases(content, LABELS)
    folder = fold("Ranks") / "validation"
    summaries = [json.loads((folder / name).read_text()) for name in ("summary.json", "summary_nnunet.json")]
    for summary in summaries:
        files = {Path(entry["prediction_file"]).name for entry in summary["metric_per_case"]}
        assert files == {f"{name}.nii.gz" for name in case_names[-2:]}
    left_out = summaries[0]["mastpro"]["per_class"]
    for label in LABELS:
        assert left_out[label]["left_out"] == sum(label not in cases.annotated[name] for name in case_names[-2:])
    assert sum(entry["left_out"] for entry in left_out.values()) > 0
    (log,) = fold("Ranks").glob("training_log_*.txt")
    assert log.read_text().count("Mean validation Dice over what each case annotates") == 1

"""The trainer on cases that each annotate some of the classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from torch.testing import assert_close

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.tasks import Cases
from nnunetv2_mastpro.training.controls import nnUNetTrainerStockPartial
from nnunetv2_mastpro.training.partial import describe_cases
from nnunetv2_mastpro.training.partial_loss import PartialLabelLoss
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

CASES = {
    "a": {"source": "Dataset003_Liver", "annotated": ["liver", "liver_tumor"]},
    "b": {"source": "Dataset064_KiTS", "annotated": ["kidney_tumor"]},
}
ANNOTATED = torch.tensor([[True, True, False], [False, False, True]])
TRAINERS = [nnUNetTrainerMASTPro, nnUNetTrainerStockPartial]


@pytest.fixture
def make_partial(make_trainer, dataset_json):
    dataset_json["mastpro"] = {"cases": CASES}
    return make_trainer


def make_batch(trainer) -> dict:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 1, 16, 16), generator=generator).float()
    stages = [target[..., :: 2**scale, :: 2**scale] for scale in range(len(trainer._get_deep_supervision_scales()))]
    return {"data": torch.randn(2, 1, 16, 16, generator=generator), "target": stages, "keys": ["a", "b"]}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_loss_hears_what_the_batch_annotates(make_partial, trainer):
    trainer = make_partial(trainer)
    trainer.announce(["a", "b"])
    partial = [module for module in trainer.loss.modules() if isinstance(module, PartialLabelLoss)]
    assert len(partial) == 1
    assert_close(partial[0].annotated, ANNOTATED)
    assert partial[0].nested.tolist() == [[False] * 3, [True, False, False], [False] * 3]
    assert partial[0].batch_dice
    if isinstance(trainer, nnUNetTrainerMASTPro):
        assert_close(trainer.loss.annotated, ANNOTATED)
        assert_close(trainer.network.annotated, ANNOTATED)
        assert trainer.network.annotated_task_share == 0.25


@pytest.mark.parametrize("trainer", TRAINERS)
def test_pseudo_dice_counts_a_tumour_as_the_organ_whose_label_may_hold_it(make_trainer, dataset_json, trainer):
    """What the loss is content with: a case that annotates the liver alone, and half of it predicted as tumour."""
    dataset_json["mastpro"] = {"cases": {"a": {"annotated": ["liver"]}, "b": {}}}
    trainer = make_trainer(trainer)
    batch = make_batch(trainer)
    for stage in batch["target"]:
        stage[:] = 0
        stage[..., : stage.shape[-1] // 2] = 1
    wanted = torch.full((2, 4, 16, 16), -20.0)
    wanted[:, 0, :, 8:], wanted[:, 1, :8, :8], wanted[:, 2, 8:, :8] = 20.0, 20.0, 20.0
    hook = trainer.network.register_forward_hook(lambda module, given, output: say(output, wanted[: len(given[0])]))
    trainer.network.eval()
    with torch.no_grad():
        found = trainer.validation_step(batch)
    hook.remove()
    assert found["tp_hard"].tolist() == [128 + 64, 0, 0]  # of b, which annotates all, half is a mistake
    assert found["fn_hard"].tolist() == [64, 0, 0]
    assert found["fp_hard"].tolist() == [0, 64, 0]


def say(output, wanted):
    """What the network gave, with these logits at full resolution."""
    stages = output
    while not isinstance(stages[0], torch.Tensor):
        stages = stages[0]
    stages[0].copy_(wanted)
    return output


def test_deep_supervision_keeps_nnunets_weights(make_partial, make_trainer, dataset_json):
    partial = make_partial(nnUNetTrainerStockPartial).loss.weight_factors
    del dataset_json["mastpro"]
    assert partial == make_trainer(nnUNetTrainerStockPartial).loss.weight_factors


@pytest.mark.parametrize("trainer", TRAINERS)
def test_where_everything_is_annotated_the_loss_is_nnunets(make_trainer, trainer):
    trainer = make_trainer(trainer)
    assert not [module for module in trainer.loss.modules() if isinstance(module, PartialLabelLoss)]
    assert [module for module in trainer.loss.modules() if isinstance(module, DC_and_CE_loss)]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_step_counts_the_cases_that_it_draws(make_partial, trainer):
    trainer = make_partial(trainer)
    trainer.on_train_epoch_start()
    loss = trainer.train_step(make_batch(trainer))["loss"]
    assert np.isfinite(loss)
    assert trainer.drawn == {"a": 1, "b": 1}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_pseudo_dice_counts_annotated_classes_only(make_partial, make_trainer, dataset_json, trainer):
    partial = make_partial(trainer)
    partial.network.eval()
    with torch.no_grad():
        found = partial.validation_step(make_batch(partial))
        batch = make_batch(partial)
        predicted = partial.network(batch["data"])[0].argmax(1)
    truth = batch["target"][0][:, 0]
    for index in range(3):
        known = ANNOTATED[:, index]
        both = (predicted == index + 1) & (truth == index + 1)
        assert found["tp_hard"][index] == both[known].sum()
        assert found["fp_hard"][index] == ((predicted == index + 1) & ~both)[known].sum()
        assert found["fn_hard"][index] == ((truth == index + 1) & ~both)[known].sum()
    assert sum(found[key].sum() for key in ("tp_hard", "fp_hard", "fn_hard")) > 0
    assert np.isfinite(found["loss"])


def test_cases_are_drawn_by_type_and_source(make_partial, plans, tmp_path, monkeypatch):
    plans["mastpro"]["training"] = {"sampling_temperature": 0.0}
    trainer = make_partial(nnUNetTrainerMASTPro)
    places = {"a": {1: np.ones((3, 4)), 2: [], 3: []}, "b": {1: [], 2: [], 3: np.ones((3, 4))}}
    places["c"] = {1: [], 2: np.ones((3, 4)), 3: []}
    places["d"] = {1: [], 2: np.ones((3, 4)), 3: []}
    for case, found in places.items():
        Path(trainer.preprocessed_dataset_folder, f"{case}.b2nd").touch()
        write_pickle({"class_locations": found}, f"{trainer.preprocessed_dataset_folder}/{case}.pkl")
    monkeypatch.setattr(trainer, "do_split", lambda: (list(places), ["e"]))
    trainer.dataset_class = infer_dataset_class(trainer.preprocessed_dataset_folder)
    training, validation = trainer.get_tr_and_val_datasets()
    assert validation.identifiers == ["e"]
    drawn = {case: training.identifiers.tolist().count(case) / len(training.identifiers) for case in places}
    assert drawn == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 6, "d": 1 / 6}, abs=0.01)
    assert trainer.types == {"a": [], "b": ["kidney_tumor"], "c": ["liver_tumor"], "d": ["liver_tumor"]}
    trainer.drawn.update(["a", "b", "b", "c"])
    logged = []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *line, **_: logged.append(" ".join(map(str, line))))
    monkeypatch.setattr(trainer, "write_usage", lambda: None)
    trainer.on_train_epoch_end([{"loss": np.array(0.5)}])
    assert logged[-1] == (
        "Samples drawn: from Dataset003_Liver 25 %, Dataset064_KiTS 50 %, this data set 25 %; "
        "with kidney_tumor 50 %, liver_tumor 25 %, no tumour type 25 %"
    )


def test_patches_of_training_and_validation_are_kept_near_the_organs(make_partial, plans, monkeypatch):
    plans["mastpro"]["training"] = {"crop_margin_mm": 4}
    plans["configurations"]["2d"].update(previous_stage="anatomy", spacing=[2.0, 4.0])
    trainer = make_partial(nnUNetTrainerMASTPro)
    Path(trainer.preprocessed_dataset_folder, "a.b2nd").touch()
    write_pickle({"class_locations": {1: [], 2: [], 3: []}}, f"{trainer.preprocessed_dataset_folder}/a.pkl")
    monkeypatch.setattr(trainer, "do_split", lambda: (["a"], ["e"]))
    monkeypatch.setattr(trainer, "check_cases", lambda: None)
    trainer.dataset_class = infer_dataset_class(trainer.preprocessed_dataset_folder)
    training, validation = trainer.get_tr_and_val_datasets()
    for drawn in (training, validation):  # else each of validation's would be centred on a label
        assert drawn.region.margin.tolist() == [0, 2, 1]
    assert validation.identifiers.tolist() == ["e"]


def test_a_case_that_is_not_there_is_told_before_training(make_partial):
    trainer = make_partial(nnUNetTrainerMASTPro)
    trainer.dataset_class = infer_dataset_class(trainer.preprocessed_dataset_folder)
    with pytest.raises(MASTProError, match=r"mastpro.cases in dataset.json names a, b, which .* does not hold"):
        trainer.get_tr_and_val_datasets()


def test_an_unknown_class_is_told_before_anything_is_made(make_trainer, dataset_json, tmp_path):
    dataset_json["mastpro"] = {"cases": {"a": {"annotated": ["liver_tumour"]}}}
    with pytest.raises(MASTProError, match='did you mean "liver_tumor"'):
        make_trainer(initialize=False)
    assert not list((tmp_path / "nnUNet_results").iterdir())


@pytest.mark.parametrize(
    ("annotated", "told"),
    [
        ({}, "none by mastpro.cases; in all of 2 training cases every class was looked for."),
        ({"a": ("liver",), "b": ()}, "2 of the cases in mastpro.cases annotate some of the classes only."),
    ],
)
def test_the_log_says_whether_labels_are_partial(annotated, told):
    cases = Cases(("liver", "liver_tumor"), annotated, {}, frozenset(annotated))
    assert describe_cases(cases, ["a", "b"]) == [f"Partial labels: {told}"]


def test_the_log_warns_of_cases_that_only_count_as_whole():
    cases = Cases(("liver", "liver_tumor"), {"a": ("liver",)}, {}, frozenset({"a", "w"}))
    _, warning = describe_cases(cases, ["a", "b", "w"])
    assert warning.startswith("WARNING: 1 training cases are not in mastpro.cases")
    assert "background (b)" in warning


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("earlier", [[], [0.4]])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:Mean of empty slice")  # nnU-Net's, of a mean of nothing
def test_a_validation_that_tells_nothing_leaves_the_average(make_partial, trainer, earlier):
    """Or it would be NaN for good, and no later checkpoint the best."""
    trainer, none = make_partial(trainer), np.zeros(3)
    trainer._best_ema = np.nan  # of a run before it was so, gone on with by --c
    some = {"loss": 0.0, "tp_hard": none + 2, "fp_hard": none + 1, "fn_hard": none + 1}
    for logged in trainer.logger.local_logger.my_fantastic_logging.values():
        logged += earlier
    for outputs in ({**some, "tp_hard": none, "fp_hard": none, "fn_hard": none}, some):
        trainer.current_epoch = len(trainer.logger.get_value("ema_fg_dice", step=None))
        trainer.on_validation_epoch_end([outputs])
    before = earlier[0] if earlier else 0.0
    assert trainer.logger.get_value("ema_fg_dice", step=None) == [
        *earlier,
        before,
        pytest.approx(0.9 * before + 0.1 * 4 / 6),
    ]
    assert trainer._best_ema is None

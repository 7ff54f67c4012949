"""Schedule, seed and length of runs."""

import importlib.util
import json

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.testing import assert_close

from nnunetv2_mastpro.config import EPOCH_VARIANTS
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.resources import trainers_dir
from nnunetv2_mastpro.training import controls, trainer
from nnunetv2_mastpro.training.recipe import WarmupPolyLR, channels_last, epoch_variants, read_number

LENGTHS = {"_1epoch": 1, "_5epochs": 5, "_10epochs": 10, "_50epochs": 50, "_100epochs": 100, "_250epochs": 250}
BASES = {
    "nnUNetTrainerMASTPro": trainer,
    "nnUNetTrainerStock": controls,
    "nnUNetTrainerStockAdamW": controls,
}


def make_optimizer():
    return torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)], 1.0)


@pytest.mark.parametrize("warmup", [0.05, 2.5, 10.0])
@pytest.mark.parametrize("at", [0, 0.01, 0.04, 0.05, 0.06, 1, 2.4, 2.5, 9.9, 10, 12.75, 19])
def test_warm_up_rises_in_a_line_under_nnunets_decay(warmup, at):
    reference, optimizer = make_optimizer(), make_optimizer()
    poly = PolyLRScheduler(reference, 0.3, 20)
    ours = WarmupPolyLR(optimizer, 0.3, 20, warmup)
    poly.step(at)
    ours.step(at)
    share = 1 if at >= warmup else max(at / warmup, 1e-3)
    expected = [group["lr"] * share for group in reference.param_groups]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
    assert ours.get_last_lr() == pytest.approx(expected)


def test_warm_up_is_not_at_rest_at_the_start():
    optimizer = make_optimizer()
    WarmupPolyLR(optimizer, 0.3, 20, 2).step(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_stepping_back_and_on_gives_the_same_rate():
    """nnU-Net steps by epoch, the trainer within it: the rate depends on the time alone."""
    optimizer = make_optimizer()
    schedule = WarmupPolyLR(optimizer, 0.3, 20, 2)
    schedule.step(1.5)
    before = optimizer.param_groups[0]["lr"]
    for at in (0, 7.25, 1.5):
        schedule.step(at)
    assert optimizer.param_groups[0]["lr"] == before


def test_a_group_keeps_its_share():
    optimizer = make_optimizer()
    optimizer.param_groups[1]["share"] = 0.25
    schedule = WarmupPolyLR(optimizer, 0.3, 20, 2)
    for at in (0, 1.5, 10):
        schedule.step(at)
        whole, part = schedule.get_last_lr()
        assert part == pytest.approx(0.25 * whole)


def test_counting_by_itself_is_the_same():
    optimizers = make_optimizer(), make_optimizer()
    counting, told = (WarmupPolyLR(optimizer, 0.3, 20, 2.5) for optimizer in optimizers)
    for at in range(1, 5):  # making a scheduler is its step 0
        counting.step()
        told.step(at)
        assert counting.get_last_lr() == told.get_last_lr()


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "", "many", " 5", "1e3", str(2**32)])
def test_read_number_refuses(monkeypatch, text):
    monkeypatch.setenv("MASTPRO_EPOCH_ITERATIONS", text)
    said = r"MASTPRO_EPOCH_ITERATIONS='.*' is not a whole number from 1 to 4294967295; correct or unset it"
    with pytest.raises(MASTProError, match=said):
        read_number("MASTPRO_EPOCH_ITERATIONS", 1)


def test_read_number(monkeypatch):
    monkeypatch.setenv("MASTPRO_SEED", "0")
    assert read_number("MASTPRO_SEED", 0) == 0
    monkeypatch.delenv("MASTPRO_SEED")
    assert read_number("MASTPRO_SEED", 0) is None


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("suffix", LENGTHS)
def test_epoch_variants(base, suffix):
    module = BASES[base]
    variant = getattr(module, base + suffix)
    assert variant.__name__ == base + suffix
    assert variant.__module__ == module.__name__
    assert variant.epochs == LENGTHS[suffix]
    assert variant.__mro__[1] is getattr(module, base)


def test_variants_are_these():
    assert sorted(EPOCH_VARIANTS) == sorted(LENGTHS.values())
    assert sorted(epoch_variants(trainer.nnUNetTrainerMASTPro, "here")) == sorted(
        "nnUNetTrainerMASTPro" + suffix for suffix in LENGTHS
    )


@pytest.mark.parametrize(
    ("file", "bases"),
    [
        ("nnUNetTrainerMASTPro.py", ["nnUNetTrainerMASTPro"]),
        ("nnUNetTrainerStock.py", ["nnUNetTrainerStock", "nnUNetTrainerStockAdamW"]),
    ],
)
def test_trainers_folder_re_exports(file, bases):
    """The very classes, not copies: nnU-Net finds them by name in a module of this folder."""
    spec = importlib.util.spec_from_file_location("found", trainers_dir() / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for base in bases:
        for suffix in ("", *LENGTHS):
            assert getattr(module, base + suffix) is getattr(BASES[base], base + suffix)


def test_length_of_a_run(make_trainer, monkeypatch):
    assert make_trainer(initialize=False).num_epochs == 1000
    monkeypatch.setenv("MASTPRO_EPOCH_ITERATIONS", "40")
    short = make_trainer(trainer.nnUNetTrainerMASTPro_5epochs, initialize=False)
    assert (short.num_epochs, short.num_iterations_per_epoch, short.num_val_iterations_per_epoch) == (5, 40, 4)
    monkeypatch.setenv("MASTPRO_EPOCH_ITERATIONS", "2")
    assert make_trainer(initialize=False).num_val_iterations_per_epoch == 1


@pytest.mark.parametrize("name", ["MASTPRO_EPOCH_ITERATIONS", "MASTPRO_SEED"])
def test_a_bad_number_makes_no_results_folder(make_trainer, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "two")
    with pytest.raises(MASTProError, match=f"{name}='two'"):
        make_trainer(initialize=False)
    assert [*(tmp_path / "nnUNet_results").iterdir()] == []


def test_seed_gives_equal_weights(make_trainer, monkeypatch):
    monkeypatch.setenv("MASTPRO_SEED", "5")
    first, second = (make_trainer().network.state_dict() for _ in range(2))
    for name, tensor in first.items():
        assert_close(tensor, second[name], rtol=0, atol=0)
    monkeypatch.setenv("MASTPRO_SEED", "6")
    other = make_trainer().network.state_dict()
    assert not torch.equal(first["background"], other["background"])


@pytest.mark.parametrize("base", ["nnUNetTrainerMASTPro", "nnUNetTrainerStockAdamW"])
def test_a_cpu_trains_channels_last(make_trainer, plans, base):
    """What is computed stays the same: test_layout_changes_no_value."""
    plans["configurations"]["2d"] = in_3d(plans["configurations"]["2d"])
    made = make_trainer(getattr(BASES[base], base))
    filters = [module.weight for module in made.network.modules() if isinstance(module, torch.nn.Conv3d)]
    assert filters
    assert all(filter.is_contiguous(memory_format=torch.channels_last_3d) for filter in filters)


def in_3d(configuration: dict) -> dict:
    text = json.dumps(configuration).replace("[3, 3]", "[3, 3, 3]").replace("[1, 1]", "[1, 1, 1]")
    text = text.replace("[2, 2]", "[2, 2, 2]").replace("2d", "3d")
    shape = {"patch_size": [16] * 3, "spacing": [1.0] * 3, "median_image_size_in_voxels": [16.0] * 3}
    changed = {**json.loads(text), **shape, "data_identifier": configuration["data_identifier"]}
    changed["architecture"]["arch_kwargs"]["n_conv_per_stage_decoder"] = [1] * 2
    return changed


def test_layout_changes_no_value():
    layers = torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.InstanceNorm3d(4), torch.nn.ConvTranspose3d(4, 3, 2, 2)
    network, image = torch.nn.Sequential(*layers), torch.randn(2, 2, 6, 5, 4)

    def step():
        output = network(image)
        network.zero_grad()
        output.square().sum().backward()
        return [output, *(parameter.grad for parameter in network.parameters())]

    before = step()
    channels_last(network)
    after = step()
    assert after[0].is_contiguous(memory_format=torch.channels_last_3d)
    for one, other in zip(before, after, strict=True):
        assert_close(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("base", ["nnUNetTrainerMASTPro", "nnUNetTrainerStockAdamW"])
def test_rate_comes_from_the_plans(make_trainer, plans, base):
    plans["mastpro"]["training"] = {"learning_rate": 3e-4}
    made = make_trainer(getattr(BASES[base], base + "_10epochs"))
    made.lr_scheduler.step(5)
    expected = 3e-4 * 0.5**0.9
    for group in made.optimizer.param_groups:
        assert group["lr"] == pytest.approx(expected * group.get("share", 1))
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert made.lr_scheduler.warmup_steps == pytest.approx(0.5)

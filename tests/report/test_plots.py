"""Training curves and box plots."""

import re

import numpy as np
import pytest

from nnunetv2_mastpro.report.plots import draw_boxes, draw_curves


def test_plots_are_small_and_name_what_they_show():
    rng, epochs = np.random.default_rng(0), 1000
    curves = {name: rng.random(epochs).tolist() for name in ("train_losses", "val_losses", "lrs")}
    curves["dice_per_class_or_region"] = rng.random((epochs, 2)).tolist()
    plot = draw_curves(curves, ["liver", "lung tumor"]).decode()
    assert len(plot) < 120_000
    for text in ("training", "validation", "lung tumor", "epoch", "learning rate"):
        assert f">{text}</text>" in plot
    boxes = draw_boxes({"Dice": {"liver": [0.1, 0.5, np.nan], "spleen": []}, "HD95, mm": {"liver": [3], "spleen": []}})
    assert re.search(r">liver \(2\)</text>", boxes.decode())
    assert re.search(r">spleen \(0\)</text>", boxes.decode())
    counts = {"Dice": {"liver": [0.1, 0.5], "spleen": [0.2, 0.3]}, "HD95, mm": {"liver": [3], "spleen": [4]}}
    assert re.search(r">spleen \(1\)</text>", draw_boxes(counts).decode())
    same = draw_boxes({"Dice": counts["Dice"], "NSD": counts["Dice"]}).decode()
    assert same.count(">spleen (2)</text>") == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("classes", "cases"), [(20, 300), (117, 300), (400, 2)])
def test_plots_of_many_classes_and_cases_are_small_and_whole(classes, cases):
    rng = np.random.default_rng(0)
    names = [f"tumour of the organ number {number}" for number in range(classes)]
    dice = rng.random((1000, classes))
    dice[:, 3], dice[:5] = np.nan, np.nan  # a class that no patch had, and epochs without any
    plot = draw_curves({"dice_per_class_or_region": dice.tolist()}, names).decode()
    assert len(plot) < 120_000
    assert f">mean of {classes} classes</text>" in plot
    assert ">lowest to highest</text>" in plot
    assert names[0] not in plot
    values = {name: rng.random(cases).tolist() for name in names}
    boxes = draw_boxes({"Dice": values, "surface Dice": values, "HD95, mm": values}).decode()
    assert len(boxes) < (600_000 if classes == 20 else 2_000_000)
    assert all(f">{name} ({cases})</text>" in boxes for name in names)
    _, height = map(float, re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', boxes).groups())
    assert height <= 20 * 72
    assert boxes.count("<image ") == 3

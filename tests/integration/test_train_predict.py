"""Each kind of network and data set through nnUNetv2_train and nnUNetv2_predict."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.prompts.encoder import embed

STEPS, BATCH = 2, 2  # as conftest.py trains
LABELS = ["anterior", "posterior"]
CLASSES = {name: LABELS for name in ("3d_fullres", "small", "2d", "resenc", "ignore")} | {
    "regions": ["whole", "posterior"]
}
TUMORS = {name: ["posterior"] for name in CLASSES} | {"ignore": []}  # there generic experts only

pytestmark = pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=pytest.mark.slow) if name == "3d_fullres" else name for name in CLASSES]
)


def saved_config(lab, kind):
    return MASTProConfig.from_dict(json.loads((lab.trained(kind) / "plans.json").read_text())["mastpro"])


def saved_weights(lab, kind):
    file = lab.trained(kind) / "fold_0" / "checkpoint_final.pth"
    return torch.load(file, map_location="cpu", weights_only=False)["network_weights"]


def training_log(lab, kind):
    return min((lab.trained(kind) / "fold_0").glob("training_log_*.txt")).read_text()  # validation alone adds others


def test_predictions_lie_where_the_images_lie(lab, kinds, kind):
    predictions = lab.predicted(kind)
    images = sorted(lab.images(kinds[kind].dataset).glob("*.nii.gz"))
    assert len(images) == 2
    for path in images:
        image = sitk.ReadImage(path)
        prediction = sitk.ReadImage(predictions / path.name.replace("_0000", ""))
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetSpacing() == pytest.approx(image.GetSpacing())
        assert prediction.GetOrigin() == pytest.approx(image.GetOrigin())
        assert prediction.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)


def test_predictions_hold_labels_only(lab, kinds, kind):
    """Never the ignore label; and the probabilities are one per output."""
    outputs = len(CLASSES[kind]) + (kind != "regions")
    for path in lab.predicted(kind).glob("*.nii.gz"):
        values = sitk.GetArrayFromImage(sitk.ReadImage(path))
        assert set(np.unique(values).tolist()) <= {0, 1, 2}
        probabilities = np.load(path.with_name(path.name.replace(".nii.gz", ".npz")))["probabilities"]
        assert probabilities.shape == (outputs, *values.shape)
        assert np.isfinite(probabilities).all()
        if kind != "regions":
            assert (probabilities.argmax(0) == values).all()


def test_plans_beside_the_checkpoint_describe_the_classes(lab, kind):
    config = saved_config(lab, kind)
    assert [entry.label for entry in config.resolved.classes] == CLASSES[kind]
    assert [entry.label for entry in config.resolved.classes if entry.is_tumor] == TUMORS[kind]
    assert config.resolved.has_background == (kind != "regions")


def test_the_checkpoint_holds_the_embeddings(lab, kind, monkeypatch):
    monkeypatch.setenv("MASTPRO_CACHE", lab.workspace.env["MASTPRO_CACHE"])
    sentences = [entry.sentence for entry in saved_config(lab, kind).resolved.classes]
    weights = saved_weights(lab, kind)
    assert_close(weights["embeddings"], embed(sentences).vectors, rtol=0, atol=0)
    assert weights["trained"]


def test_training_moved_every_part(lab, kind):
    """Up-projections start at zero, so they tell whether experts were trained."""
    weights = saved_weights(lab, kind)
    up = {name: tensor for name, tensor in weights.items() if ".up." in name}
    owners = 1 + len(TUMORS[kind])
    assert {name.split(".")[1] for name in up} == {site for site in usage(lab, kind)}
    assert len(up) == owners * len(usage(lab, kind))
    assert sum(bool(tensor.any()) for tensor in up.values()) > len(up) / 2
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_the_log_has_the_start_up_table(lab, kind):
    log = training_log(lab, kind)
    rows = re.findall(r"^(backbone|experts|fusion|mask proposal|all) +([\d,]+) +([\d,]+) *$", log, re.MULTILINE)
    counts = {name: [int(cell.replace(",", "")) for cell in cells] for name, *cells in rows}
    assert len(counts) == 5
    total = sum(tensor.numel() for tensor in unique_parameters(saved_weights(lab, kind)))
    assert counts["all"] == [total, total]
    assert sum(counts[name][0] for name in counts if name != "all") == total
    for entry in saved_config(lab, kind).resolved.classes:
        kind_of = "tumour type" if entry.is_tumor else "other class"
        line = rf"^{entry.label} \[{kind_of}, embedding (shipped|cache|encoded)\]: {re.escape(entry.sentence)} *$"
        assert re.search(line, log, re.MULTILINE)
    assert f"own: {', '.join(TUMORS[kind]) or 'none (generic experts only)'}" in log


def unique_parameters(weights):
    """dynamic-network-architectures lists a layer under several names; buffers are not counted."""
    kept = {t.data_ptr(): t for name, t in weights.items() if name not in ("embeddings", "trained")}
    return kept.values()


def usage(lab, kind):
    content = json.loads((lab.trained(kind) / "fold_0" / "expert_usage.json").read_text())
    assert content["patches"]["all"] == STEPS * BATCH
    return {site: types["all"] for site, types in content["kept"].items()}


def test_expert_usage(lab, kind):
    network = saved_config(lab, kind).network
    assert json.loads((lab.trained(kind) / "fold_0" / "expert_usage.json").read_text())["epoch"] == 0
    for owners in usage(lab, kind).values():
        assert list(owners) == ["generic", *TUMORS[kind]]
        assert len(owners["generic"]) == network.generic_experts
        assert sum(owners["generic"]) == pytest.approx(network.top_k_generic, abs=1e-4)
        for task in TUMORS[kind]:
            assert len(owners[task]) == network.specific_experts
            assert sum(owners[task]) == pytest.approx(network.top_k_specific, abs=1e-4)


def test_the_run_was_validated(lab, kinds, kind):
    summary = json.loads((lab.trained(kind) / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1

"""checkpoint_adapters.safetensors: what is trained in PEFT, and the whole checkpoint that it gives back."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nnunetv2_mastpro import __version__, cli
from nnunetv2_mastpro.adapters import NAME, read_adapters
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.controls import nnUNetTrainerStock_1epoch

IMAGE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
FOLDER = "TRAINER__nnUNetPlans__2d"


@pytest.fixture
def stock(make_trainer, tmp_path):
    """A checkpoint of nnU-Net's own network."""
    trainer = make_trainer(nnUNetTrainerStock_1epoch)
    file = tmp_path / "stock.pth"
    trainer.save_checkpoint(str(file))
    assert not (tmp_path / NAME).exists()
    return file


@pytest.fixture
def tuned(make_trainer, stock, tmp_path):
    """`tuned()`: a trainer after a few PEFT steps from the converted stock checkpoint, and that checkpoint."""

    def make():
        trainer = make_trainer()
        plans = tmp_path / "plans" / "nnUNetPlans.json"
        plans.parent.mkdir(exist_ok=True)
        plans.write_text(json.dumps(trainer.plans_manager.plans))
        plans.with_name("dataset.json").write_text(json.dumps(trainer.dataset_json))
        start = tmp_path / "start.pth"
        if not start.exists():
            arguments = ["--from", str(stock), "--plans", str(plans), "-c", "2d", "-o", str(start)]
            assert cli.main(["weights", *arguments]) == 0
        trainer.network.load_state_dict(torch.load(start)["network_weights"])
        trainer.decide_what_is_trained()
        step(trainer)
        return trainer, start

    return make


def step(trainer, times=3):
    trainer.network.train()
    for _ in range(times):
        trainer.optimizer.zero_grad()
        output = trainer.network(IMAGE)
        target = [torch.ones(2, 1, *logits.shape[2:]) for logits in output.logits]
        trainer.loss(output, target).backward()
        trainer.optimizer.step()


def restore(source, adapters, target):
    return cli.main(["weights", "--from", str(source), "--adapters", str(adapters), "-o", str(target)])


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("from_stock", [False, True], ids=["from the start", "from the stock checkpoint"])
def test_restored_to_the_bit(plans, tuned, stock, tmp_path, from_stock, rank, capsys):
    """From whatever the backbone came from; with updates of its weights too."""
    plans["mastpro"]["network"]["backbone_rank"] = rank
    trainer, start = tuned()
    saved = tmp_path / "checkpoint_final.pth"
    trainer.save_checkpoint(str(saved))
    assert restore(stock if from_stock else start, tmp_path / NAME, tmp_path / "restored.pth") == 0
    assert "make the network of checkpoint_final.pth, to the bit" in capsys.readouterr().out
    expected, found = torch.load(saved, weights_only=False), torch.load(tmp_path / "restored.pth")
    assert list(found["network_weights"]) == list(expected["network_weights"])
    for name, tensor in expected["network_weights"].items():
        assert found["network_weights"][name].dtype == tensor.dtype
        assert torch.equal(found["network_weights"][name], tensor), name
    assert found["trainer_name"] == expected["trainer_name"]
    assert found["inference_allowed_mirroring_axes"] == expected["inference_allowed_mirroring_axes"]
    for key, value in found["init_args"].items():
        assert value == expected["init_args"][key], key
    before = torch.load(start)["network_weights"]
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, found["network_weights"][name])]
    assert len(moved) > 5  # else the backbone alone would do
    assert any(name.startswith("updates.up.") for name in moved) == bool(rank)


def test_what_is_in_it(tuned, tmp_path):
    """Trained parameters and the buffers that are not the backbone's; no tensor of the backbone."""
    trainer, _ = tuned()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    found = load_file(tmp_path / NAME)
    network = trainer.bare_network
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained | {"embeddings", "trained"}
    assert not any(name.startswith("backbone.") for name in found)
    with safe_open(tmp_path / NAME, framework="pt") as file:
        header = file.metadata()
    assert header["checkpoint"] == "checkpoint_best.pth"
    assert header["trainer_name"] == "nnUNetTrainerMASTPro"
    assert json.loads(header["versions"])["nnunetv2_mastpro"] == __version__
    assert [entry["label"] for entry in json.loads(header["classes"])] == ["liver", "liver_tumor", "kidney_tumor"]
    assert json.loads(header["plans"]) == json.loads(json.dumps(trainer.plans_manager.plans))
    assert json.loads(header["dataset_json"]) == trainer.dataset_json


def test_the_last_save_has_it(tuned, tmp_path):
    trainer, _ = tuned()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    first = read_adapters(tmp_path / NAME)
    step(trainer)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    last = read_adapters(tmp_path / NAME)
    assert last.checkpoint == "checkpoint_latest.pth"
    assert last.frozen_sha256 == first.frozen_sha256
    assert not torch.equal(last.tensors["head.mlp.0.weight"], first.tensors["head.mlp.0.weight"])


def test_new_types_alone(plans, dataset_json, make_trainer, tmp_path):
    """mastpro add-tumour freezes more than the backbone: the rest comes from the network that it started from."""
    plans["mastpro"]["prompts"] = {"added": ["kidney_tumor"]}
    plans["mastpro"]["training"] = {"new_types": ["kidney_tumor"]}
    trainer = make_trainer()
    trainer.network.trained.fill_(True)
    start = tmp_path / "start.pth"
    init_args = {"plans": trainer.plans_manager.plans}
    torch.save({"network_weights": trainer.network.state_dict(), "init_args": init_args}, start)
    trainer.decide_what_is_trained()
    step(trainer)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    owned = {name for name, parameter in trainer.network.named_parameters() if parameter.requires_grad}
    assert load_file(tmp_path / NAME).keys() == owned | {"embeddings", "trained"}
    assert restore(start, tmp_path / NAME, tmp_path / "restored.pth") == 0
    for name, tensor in torch.load(tmp_path / "restored.pth")["network_weights"].items():
        assert torch.equal(tensor, trainer.network.state_dict()[name]), name


def test_a_mark_that_was_no_number_is_read(tuned, tmp_path):
    """As files of before the mark told more than that there was a training."""
    trainer, start = tuned()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    with safe_open(tmp_path / NAME, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / NAME)
    save_file({**tensors, "trained": tensors["trained"].bool()}, tmp_path / NAME, metadata)
    assert restore(start, tmp_path / NAME, tmp_path / "restored.pth") == 0
    found = torch.load(tmp_path / "restored.pth")["network_weights"]["trained"]
    assert (found.dtype, int(found)) == (torch.int64, 1)


def test_none_while_the_backbone_is_trained(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    assert (tmp_path / "checkpoint_best.pth").exists()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("switch", ["disable_checkpointing", "local_rank"])
def test_none_where_nnunet_saves_none(tuned, tmp_path, switch):
    trainer, _ = tuned()
    setattr(trainer, switch, 1)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    assert not (tmp_path / NAME).exists()


def test_another_backbone_is_refused(tuned, stock, tmp_path, capsys):
    """One number of it differs."""
    trainer, start = tuned()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    other = torch.load(start)
    other["network_weights"]["backbone.encoder.stages.0.0.convs.0.conv.bias"][0] += 1e-3
    torch.save(other, start)
    capsys.readouterr()
    assert restore(start, tmp_path / NAME, tmp_path / "restored.pth") == 2
    shown = capsys.readouterr().err
    assert f"was trained on the network of SHA-256 {read_adapters(tmp_path / NAME).frozen_sha256}, " in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "restored.pth").exists()


def test_a_full_training_in_the_same_folder_leaves_none(tuned, make_trainer, tmp_path):
    """They would pass for those of its checkpoint."""
    trainer, _ = tuned()
    checkpoint = tmp_path / "checkpoint_final.pth"
    trainer.save_checkpoint(str(checkpoint))
    assert (tmp_path / NAME).is_file()
    make_trainer().save_checkpoint(str(checkpoint))
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("damage", ["cut", "another"])
def test_damaged_adapters(tuned, tmp_path, capsys, damage):
    trainer, start = tuned()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    file = tmp_path / NAME
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        from safetensors.torch import save_file

        save_file({"head": torch.zeros(3)}, file)
    capsys.readouterr()
    assert restore(start, file, tmp_path / "restored.pth") == 2
    shown = capsys.readouterr().err
    assert ("cannot be read as adapters" if damage == "cut" else "is no file of adapters") in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "restored.pth").exists()


def test_nnunet_predicts_with_it(tuned, tmp_path, monkeypatch, capsys):
    """In a model folder, in the place of the checkpoint that it was saved with."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunetv2_mastpro.resources import trainers_dir

    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    trainer, start = tuned()
    model = tmp_path / FOLDER
    fold = model / "fold_0"
    fold.mkdir(parents=True)
    trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
    described = {"plans.json": trainer.plans_manager.plans, "dataset.json": trainer.dataset_json}
    for name, content in described.items():
        (model / name).write_text(json.dumps(content))

    def predict():
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,))
        with torch.inference_mode():
            return predictor.network.eval()(IMAGE)

    expected = predict()
    for path in (fold / "checkpoint_final.pth", *(model / name for name in described)):
        path.unlink()
    assert restore(start, fold / NAME, fold / "checkpoint_final.pth") == 0
    assert torch.equal(predict(), expected)
    assert {name: json.loads((model / name).read_text()) for name in described} == described
    with pytest.raises(MASTProError, match="has no optimizer's state, since mastpro weights or mastpro unpack made it"):
        trainer.load_checkpoint(str(fold / "checkpoint_final.pth"))
    capsys.readouterr()
    assert restore(start, fold / NAME, fold / "start.safetensors") == 2
    assert "give a name that ends in .pth" in capsys.readouterr().err

"""What prediction leaves out, from plans and environment to the network."""

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.config import ClassSpec, HostValue, MASTProConfig, PredictionConfig, Resolved
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.training.build import build_planned
from nnunetv2_mastpro.training.prediction import read_settings
from nnunetv2_mastpro.training.setup import resolve
from nnunetv2_mastpro.training.trainer import nnUNetTrainerMASTPro

CLASSES = tuple(ClassSpec(label, "", label.endswith("tumor")) for label in ("liver", "liver_tumor", "sarcoma_tumor"))
HOSTS = (HostValue(1, 0, ("liver",), (0, 1)),)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("MASTPRO_TASKS", "MASTPRO_SKIP_EMPTY"):
        monkeypatch.delenv(name, raising=False)


def config(hosts=HOSTS, classes=CLASSES, **prediction):
    return MASTProConfig(prediction=PredictionConfig(**prediction), resolved=Resolved(classes, 5, True, hosts))


@pytest.mark.parametrize(
    ("tasks", "skip", "expected"),
    [
        (None, None, PredictionConfig()),
        ("", "", PredictionConfig()),
        ("liver_tumor", None, PredictionConfig(tasks=("liver_tumor",))),
        (" liver_tumor , sarcoma_tumor,", "0", PredictionConfig(tasks=("liver_tumor", "sarcoma_tumor"))),
        ("liver_tumor", "1", PredictionConfig(True, ("liver_tumor",))),
    ],
)
def test_the_environment_is_read(monkeypatch, tasks, skip, expected):
    for name, value in (("MASTPRO_TASKS", tasks), ("MASTPRO_SKIP_EMPTY", skip)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert read_settings(config()) == expected


def test_the_environment_wins_over_the_plans(monkeypatch):
    monkeypatch.setenv("MASTPRO_SKIP_EMPTY", "0")
    monkeypatch.setenv("MASTPRO_TASKS", "sarcoma_tumor")
    found = read_settings(config(skip_empty=True, tasks=("liver_tumor",)))
    assert found == PredictionConfig(False, ("sarcoma_tumor",))


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({"MASTPRO_TASKS": "liver_tumour"}, {}, "names 'liver_tumour'.*did you mean 'liver_tumor'.*sarcoma_tumor"),
        ({"MASTPRO_TASKS": "liver"}, {}, "no tumour type of the model"),
        ({"MASTPRO_SKIP_EMPTY": "yes"}, {}, "'yes' is neither 0 nor 1"),
        ({"MASTPRO_SKIP_EMPTY": "1"}, {}, "sarcoma_tumor can be anywhere"),
        ({"MASTPRO_SKIP_EMPTY": "1"}, {"hosts": ()}, "trained without anatomy"),
        ({"MASTPRO_TASKS": "liver"}, {"classes": CLASSES[:1]}, "no tumour type; unset it"),
        ({}, {"tasks": ()}, "prediction.tasks is empty"),
    ],
)
def test_what_cannot_be_followed_is_refused(monkeypatch, environment, given, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MASTProError, match=message):
        read_settings(config(**given))


@pytest.fixture
def build(plans, dataset_json):
    """`build(training)`: what nnU-Net's training and prediction call; gives network and plans."""

    def make(training, anatomy=True):
        if anatomy:
            plans["configurations"]["2d"]["previous_stage"] = "anatomy"
        plans["mastpro"] = resolve(plans, dataset_json)[0].to_dict()
        manager = PlansManager(plans)
        channels = 1 + (3 if anatomy else 0)
        configuration = manager.get_configuration("2d")
        made_by = build_planned if training else nnUNetTrainerMASTPro.build_network_architecture
        network = made_by(manager, configuration, channels, 4, training)
        return network, manager.plans

    return make


def test_prediction_is_limited_said_and_recorded_in_the_plans(build, monkeypatch, capsys):
    monkeypatch.setenv("MASTPRO_TASKS", "kidney_tumor")
    monkeypatch.setenv("MASTPRO_SKIP_EMPTY", "1")
    network, plans = build(False)
    assert network.left_out == [1]
    assert network.skip_empty
    shown = capsys.readouterr().out
    assert "looks for kidney_tumor (MASTPRO_TASKS or plans); left out: liver_tumor" in shown
    assert "skips patches without any host organ" in shown
    assert plans["mastpro"]["prediction"] == {"skip_empty": True, "tasks": ["kidney_tumor"]}


def test_training_is_not_limited(build, monkeypatch, capsys):
    monkeypatch.setenv("MASTPRO_TASKS", "kidney_tumor")
    monkeypatch.setenv("MASTPRO_SKIP_EMPTY", "1")
    network, plans = build(True)
    assert network.left_out == []
    assert not network.skip_empty
    assert plans["mastpro"]["prediction"] == {"skip_empty": False, "tasks": None}
    assert capsys.readouterr().out == ""


def test_organ_channels_go_to_the_encoder_only(build):
    network, plans = build(True)
    assert network.anatomy.table.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert network.backbone.encoder.stages[0][0].convs[0].conv.in_channels == 1
    assert [host["value"] for host in plans["mastpro"]["resolved"]["hosts"]] == [1, 3]


def test_plans_without_a_previous_stage_have_no_anatomy(build):
    network, plans = build(True, anatomy=False)
    assert network.anatomy is None
    assert plans["mastpro"]["resolved"]["hosts"] == []


def test_anatomy_without_any_host_is_refused(plans, dataset_json):
    plans["configurations"]["2d"]["previous_stage"] = "anatomy"
    dataset_json["labels"] = {"background": 0, "lymph_node_tumor": 1}
    dataset_json["mastpro"] = {
        "prompts": {"lymph_node_tumor": {"sentence": "A node.", "is_tumor": True, "host_structures": []}}
    }
    with pytest.raises(MASTProError, match="lymph_node_tumor has a host structure.*give host_structures"):
        resolve(plans, dataset_json)

"""Organ masks as a previous stage, through nnU-Net's own plans reader."""

import copy
from types import SimpleNamespace

import pytest
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.planning.anatomy import add_anatomy_stage, host_table, inherited
from nnunetv2_mastpro.planning.overlay import apply_overlay

DATASET = {"channel_names": {"0": "CT", "1": "CT"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}}
ANATOMY = {"2d": "anatomy", "3d_lowres": "anatomy", "3d_fullres": "anatomy", "3d_fullres_bs4": "anatomy"}
CASCADE = {"3d_cascade_fullres": "3d_lowres", "cascade_bs4": "3d_lowres"}


def test_every_configuration_but_cascade_stages_takes_the_masks(plans):
    before = copy.deepcopy(plans)
    manager = PlansManager(add_anatomy_stage(plans))
    found = {name: manager.get_configuration(name).previous_stage_name for name in manager.available_configurations}
    assert found == ANATOMY | CASCADE
    assert plans == before


def test_nnunet_counts_a_channel_per_label_and_keeps_the_data(plans):
    with_anatomy = PlansManager(add_anatomy_stage(plans))
    without = PlansManager(plans)
    for name in ANATOMY:
        assert determine_num_input_channels(without, name, DATASET) == 2
        assert determine_num_input_channels(with_anatomy, name, DATASET) == 2 + 3
        own, other = (manager.get_configuration(name) for manager in (with_anatomy, without))
        assert own.data_identifier == other.data_identifier
        assert own.next_stage_names == other.next_stage_names


def test_another_spacing_has_data_of_its_own(plans):
    over = {"configurations": {"3d_fullres": {"spacing": [3.0, 3.0, 3.0]}}}
    manager = PlansManager(add_anatomy_stage(apply_overlay({**plans, "plans_name": "mine"}, over)))
    assert manager.get_configuration("3d_fullres").data_identifier.startswith("mine_3d_fullres_")
    assert manager.get_configuration("3d_lowres").data_identifier == "nnUNetPlans_3d_lowres"


def test_a_null_ends_what_is_inherited_as_in_nnunet(plans):
    plans["configurations"]["cascade_bs4"]["previous_stage"] = None
    assert PlansManager(plans).get_configuration("cascade_bs4").previous_stage_name is None
    changed = PlansManager(add_anatomy_stage(plans))
    assert changed.get_configuration("cascade_bs4").previous_stage_name == "anatomy"


def test_twice_is_once(plans):
    once = add_anatomy_stage(plans)
    assert add_anatomy_stage(once) == once


def test_inherited_is_what_nnunet_resolves(plans):
    manager = PlansManager(plans)
    for name in plans["configurations"]:
        resolved = manager.get_configuration(name).configuration
        for key in ("batch_size", "spacing", "previous_stage", "data_identifier", "absent"):
            assert inherited(plans["configurations"], name, key) == resolved.get(key)


@pytest.mark.parametrize(
    ("parent", "match"), [("b", "a in the plans inherits from b, which leads back"), ("c", "inherits from c, which is")]
)
def test_inheritance_that_leads_nowhere_is_refused(parent, match):
    configurations = {"a": {"inherits_from": parent}, "b": {"inherits_from": "a"}}
    with pytest.raises(MASTProError, match=match):
        inherited(configurations, "b", "previous_stage")


def test_plans_of_cascade_stages_only_are_refused(plans):
    plans["configurations"] = {"a": {"previous_stage": "b"}}
    with pytest.raises(MASTProError, match="every configuration of the plans is a cascade stage already"):
        add_anatomy_stage(plans)


def test_hosts():
    prompts = [SimpleNamespace(label=label, host_structures=()) for label in "abc"]
    with pytest.raises(MASTProError, match="none of the classes a, b, c has a host structure.*--write"):
        host_table(DATASET, prompts)
    prompts[1].host_structures = ("liver",)
    assert [(host.value, host.classes) for host in host_table(DATASET, prompts)] == [(2, (1,))]

"""The "mastpro" block: defaults, JSON, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from nnunetv2_mastpro.config import MASTProConfig, NetworkConfig
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.store import DEFAULT_ENCODER


def test_defaults_survive_json():
    config = MASTProConfig.from_dict({})
    assert MASTProConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.prompts.encoder == DEFAULT_ENCODER


def test_readme_shows_the_defaults():
    text = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
    block = re.search(r'^"mastpro": (\{\n  "network": .*?^\})', text, re.MULTILINE | re.DOTALL)[1]
    shown, defaults = json.loads(block), MASTProConfig().to_dict()
    del defaults["resolved"], defaults["prompts"]["added"], defaults["training"]["new_types"]
    assert shown == json.loads(json.dumps(defaults))


def test_lists_become_tuples():
    assert MASTProConfig.from_dict({"network": {"encoder_stages": [1, 2]}}).network == NetworkConfig(
        encoder_stages=(1, 2)
    )


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"netwrok": {}}, "unknown key mastpro.netwrok in the plans; did you mean 'network'?"),
        ({"network": {"rnk": 4}}, "unknown key mastpro.network.rnk in the plans; did you mean 'rank'?"),
        ({"network": []}, "mastpro.network in the plans is [], not a JSON object"),
        ({"network": {"rank": 4.0}}, "mastpro.network.rank=4.0 in the plans has the wrong type; it must be int"),
        ({"network": {"rank": True}}, "mastpro.network.rank=True in the plans has the wrong type"),
        ({"network": {"rank": 0}}, "rank=0 is below 1; raise it"),
        ({"network": {"backbone_rank": -1}}, "backbone_rank=-1 is below 0; raise it"),
        ({"network": {"encoder_stages": [1.0]}}, "mastpro.network.encoder_stages=[1.0] in the plans has the wrong"),
        ({"network": {"encoder_stages": 1}}, "mastpro.network.encoder_stages=1 in the plans has the wrong type"),
        ({"network": {"top_k_generic": 5}}, "top_k_generic=5 exceeds generic_experts=4; lower mastpro.network.top_k_g"),
        ({"network": {"routing": "voxel"}}, "routing='voxel' is not one of token, sample; correct mastpro.network.r"),
        ({"network": {"anatomy_encoder": "vit"}}, "anatomy_encoder='vit' is not one of small, swin; correct mastpro.n"),
        ({"network": {"router": "none"}}, "router='none' is not one of split, joint"),
        ({"network": {"router": "joint", "specific_experts": 0}}, "specific_experts=0; give router 'split'"),
        ({"network": {"attention_dim": 30}}, "attention_dim=30 is not a multiple of attention_heads=4; change one"),
        ({"prompts": {"encoder": 3}}, "mastpro.prompts.encoder=3 in the plans has the wrong type; it must be str"),
        ({"training": {"learning_rate": 0}}, "learning_rate=0 is not within 0 and 1; correct mastpro.training.learn"),
        ({"training": {"learning_rate": float("inf")}}, "learning_rate=inf is not within 0 and 1"),
        ({"training": {"crop_margin_mm": float("inf")}}, "crop_margin_mm=inf is not within 0 and 1000; correct"),
        ({"prediction": {"tasks": [["liver_tumor"]]}}, "mastpro.prediction.tasks=[['liver_tumor']] in the plans has"),
        ({"resolved": {}}, "mastpro.resolved in the plans lacks classes, embedding_dim, has_background; restore"),
        ({"resolved": {"classes": [{"label": "a"}], "embedding_dim": 3, "has_background": True}}, "lacks sentence, is"),
        ({"training": {"balance_weight": -1}}, "balance_weight=-1 is below 0; raise it"),
        ({"training": {"prompt_share": float("nan")}}, "prompt_share=nan is below 0; raise it"),
    ],
)
def test_refused(block, said):
    with pytest.raises(MASTProError, match=re.escape(said)):
        MASTProConfig.from_dict(block)

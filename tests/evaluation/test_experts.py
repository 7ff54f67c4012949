"""`mastpro experts` on a hand-made usage."""

import json
import re

import pytest

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.evaluation.experts import collapsed

HEALTHY = {"generic": [0.5, 0.5, 0.5, 0.5], "liver_tumor": [0.3, 0.4], "kidney_tumor": [0.2, 0.1]}
USAGE = {
    "epoch": 7,
    "patches": {"all": 40, "liver_tumor": 12, "kidney_tumor": 0},
    "kept": {
        stage: {"all": HEALTHY, "liver_tumor": {**HEALTHY, "liver_tumor": [0.45, 0.55], "kidney_tumor": [0.0, 0.0]}}
        for stage in ("encoder_1", "encoder_2", "decoder_0")
    },
}


@pytest.fixture
def model(tmp_path):
    for fold in ("fold_0", "fold_all"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "expert_usage.json").write_text(json.dumps(USAGE))
    return tmp_path


def test_table_and_heat_map_of_each_fold(model, capsys):
    from PIL import Image

    assert cli.main(["experts", str(model)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("share of patches in which an expert is kept") == 2
    assert re.search(r"encoder_1 +liver_tumor +12 +0\.50 0\.50 0\.50 0\.50 +0\.45 0\.55 +0\.00 0\.00\n", shown)
    assert "warning" not in shown
    for fold in ("fold_0", "fold_all"):
        lines = (model / fold / "experts.csv").read_text().splitlines()
        assert lines[0] == (
            "stage,type in the patch,patches,generic 0,generic 1,generic 2,generic 3,"
            "liver_tumor 0,liver_tumor 1,kidney_tumor 0,kidney_tumor 1"
        )
        assert len(lines) == 1 + 3 * 2
        picture = Image.open(model / fold / "experts.png").convert("RGB")
        assert len(picture.getcolors(1 << 24)) > 20


def test_one_fold_to_another_folder(model, tmp_path, capsys):
    assert cli.main(["experts", str(model / "fold_0"), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "fold_0").iterdir()) == ["experts.csv", "experts.png"]
    assert not (model / "fold_0" / "experts.csv").exists()
    assert "epoch 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "owner", "shares", "expected"),
    [
        ("all", "generic", [0.9, 0.6, 0.5, 0.0], ["decoder_0: generic expert 3 of 0 to 3 hardly ever kept"]),
        ("liver_tumor", "liver_tumor", [0.97, 0.03], ["decoder_0: liver_tumor expert 0 has 97% of its type's choices"]),
        ("liver_tumor", "liver_tumor", [0.0, 0.0], ["decoder_0: no liver_tumor expert kept, where it could have been"]),
        ("all", "liver_tumor", [0.0, 0.0], []),  # kept where that type is
    ],
)
def test_collapsed_experts_are_told(where, owner, shares, expected):
    usage = json.loads(json.dumps(USAGE))
    usage["kept"]["decoder_0"][where][owner] = shares
    assert collapsed(usage) == expected


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["nowhere"], None, "nowhere is no folder"),
        (["model", "-f", "3"], None, "has no fold 3"),
        (["model/empty"], None, "has no fold with expert_usage.json"),
        (
            ["model"],
            {"epoch": 1, "kept": {"encoder_1": {"generic": [1]}}},
            "is not what this version's training writes",
        ),
        (["model"], {**USAGE, "patches": {"all": 0}}, "counts no patch"),
    ],
)
def test_bad_input(model, capsys, monkeypatch, arguments, content, message):
    monkeypatch.chdir(model)
    (model / "model" / "fold_0").mkdir(parents=True)
    (model / "model" / "empty").mkdir()
    (model / "model" / "fold_0" / "expert_usage.json").write_text(json.dumps(content or USAGE))
    assert cli.main(["experts", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(model.rglob("experts.*"))

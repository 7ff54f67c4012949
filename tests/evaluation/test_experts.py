"""`mastpro experts` on a hand-made usage."""

import io
import json
import re

import pytest

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.experts import collapsed, draw

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

    assert cli.main(["experts", "-m", str(model)]) == 0
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
        assert lines[2] == "encoder_1,liver_tumor,12,0.5000,0.5000,0.5000,0.5000,0.4500,0.5500,0.0000,0.0000"
        assert len(lines) == 1 + 3 * 2
        picture = Image.open(model / fold / "experts.png").convert("RGB")
        assert len(picture.getcolors(1 << 24)) > 20


def test_one_fold_to_another_folder(model, tmp_path, capsys):
    assert cli.main(["experts", "-m", str(model / "fold_0"), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "fold_0").iterdir()) == ["experts.csv", "experts.png"]
    assert not (model / "fold_0" / "experts.csv").exists()
    assert "epoch 7" in capsys.readouterr().out


@pytest.mark.parametrize("place", [".", "fold_0"])
def test_without_experts_there_are_none_to_show(model, place):
    plans = {"mastpro": {"network": {"ablate": ["text", "experts"]}}}
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(MASTProError, match=r"was trained without experts .* so there are none"):
        cli.main(["--debug", "experts", "-m", str(model / place)])
    plans["mastpro"]["network"]["ablate"] = ["text"]
    (model / "plans.json").write_text(json.dumps(plans))
    assert cli.main(["experts", "-m", str(model / place)]) == 0


LIVER = "of the choices in the 12 patches with liver_tumor"
ALL = "of the choices in the 40 patches"


@pytest.mark.parametrize(
    ("where", "owner", "shares", "expected"),
    [
        ("all liver_tumor", "generic", [0.9, 0.6, 0.5, 0.009], ["generic expert 3 of 0 to 3 hardly ever kept"]),
        ("all", "generic", [0.9, 0.6, 0.5, 0.0], []),  # kept where a rare type is
        ("all liver_tumor", "generic", [0.02, 0.98, 0.02, 0.98], [f"generic experts 1, 3 of 0 to 3 have 98% {ALL}"]),
        (
            "all liver_tumor",
            "generic",
            [0.04, 0.98, 0.0, 0.98],
            [f"generic experts 1, 3 of 0 to 3 have 98% {ALL}", "generic expert 2 of 0 to 3 hardly ever kept"],
        ),
        ("all", "generic", [0.01, 0.97, 0.01, 0.01], [f"generic expert 1 of 0 to 3 has 97% {ALL}"]),
        ("all", "generic", [1.0, 1.0, 1.0, 1.0], []),  # nothing to choose
        ("liver_tumor", "liver_tumor", [0.97, 0.03], [f"liver_tumor expert 0 of 0 to 1 has 97% {LIVER}"]),
        ("all liver_tumor", "liver_tumor", [1.0, 0.0], [f"liver_tumor expert 0 of 0 to 1 has 100% {LIVER}"]),
        ("liver_tumor", "liver_tumor", [0.94, 0.06], []),
        ("liver_tumor", "liver_tumor", [0.9, 0.9], []),
        (
            "liver_tumor",
            "liver_tumor",
            [0.0, 0.0],
            ["no liver_tumor expert kept in the 12 patches with liver_tumor"],
        ),
        ("all", "liver_tumor", [0.0, 0.0], []),  # kept where that type is
        ("all", "kidney_tumor", [0.0, 0.0], []),  # in no patch: nothing can be said
    ],
)
def test_collapsed_experts_are_told(where, owner, shares, expected):
    usage = json.loads(json.dumps(USAGE))
    for row in where.split():
        usage["kept"]["decoder_0"][row][owner] = shares
    assert collapsed(usage) == [f"decoder_0: {line}" for line in expected]


def test_a_finding_is_a_line(model, capsys):
    usage = json.loads(json.dumps(USAGE))
    usage["kept"]["encoder_2"]["liver_tumor"]["liver_tumor"] = [0.0, 0.9]
    (model / "fold_0" / "expert_usage.json").write_text(json.dumps(usage))
    assert cli.main(["experts", "-m", str(model), "-f", "0"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert line == f"warning: encoder_2: liver_tumor expert 1 of 0 to 1 has 100% {LIVER}"


@pytest.mark.parametrize(
    ("every", "liver", "told"),
    [
        (9, 9, ["note: too few patches of all types"]),
        (40, 9, ["note: too few patches with liver_tumor to"]),
        (40, 10, ["warning: encoder_2: liver_tumor expert 1"]),
    ],
)
def test_few_patches_tell_nothing(model, capsys, every, liver, told):
    usage = json.loads(json.dumps(USAGE))
    usage["kept"]["encoder_2"]["liver_tumor"]["liver_tumor"] = [0.0, 0.9]
    usage["patches"] |= {"all": every, "liver_tumor": liver}
    (model / "fold_0" / "expert_usage.json").write_text(json.dumps(usage))
    assert cli.main(["experts", "-m", str(model), "-f", "0"]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("note", "warning"))]
    assert [line[: len(text)] for line, text in zip(found, told, strict=True)] == told


@pytest.mark.parametrize(("types", "specific"), [(0, 2), (1, 2), (30, 2), (8, 0)])
def test_the_heat_map_keeps_a_sensible_size(types, specific):
    from PIL import Image

    names = [f"type_{number}" for number in range(types)]
    owners = {"generic": [0.5] * 4, **{name: [0.1] * specific for name in names if specific}}
    usage = {
        "patches": dict.fromkeys(["all", *names], 30),
        "kept": {f"encoder_{stage}": dict.fromkeys(["all", *names], owners) for stage in range(3)},
    }
    assert collapsed(usage) == []
    size = Image.open(io.BytesIO(draw(usage))).size
    assert min(size) > 300
    assert max(size) <= 3000


@pytest.mark.parametrize("fold", ["fold_0", "best"])
def test_in_the_folder_of_a_fold(model, monkeypatch, capsys, fold):
    (model / "fold_0").rename(model / fold)
    monkeypatch.chdir(model / fold)
    assert cli.main(["experts", "-m", "."]) == 0
    assert f"{fold}, epoch 7: share" in capsys.readouterr().out
    assert (model / fold / "experts.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["nowhere"], None, "nowhere is no folder"),
        (["model", "-f", "3"], None, "has no fold 3"),
        (["model/empty"], None, "has no fold with expert_usage.json"),
        (["model/empty/fold_1"], None, "fold_1/expert_usage.json is missing: no epoch .* has ended there; train first"),
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
    if arguments == ["model/empty/fold_1"]:
        (model / "model" / "empty" / "fold_1").mkdir()
    (model / "model" / "fold_0" / "expert_usage.json").write_text(json.dumps(content or USAGE))
    assert cli.main(["experts", "-m", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(model.rglob("experts.*"))

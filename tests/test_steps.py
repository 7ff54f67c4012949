"""Steps: run once, go on after an interruption, say what failed."""

import json
import os
import re
from dataclasses import replace

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.state import State, same_work
from nnunetv2_mastpro.steps import Step, run_steps
from nnunetv2_mastpro.training_log import read_training_log

SETTINGS = {"seed": 0}


def python_step(name, folder, code="", **values):
    target = folder / name
    code = code or f"import pathlib; p = pathlib.Path({str(target)!r}); p.write_text('made'); print('said', 'so')"
    return Step(name, f"Make {name}", (target,), ("python", "-c", code), **values)


@pytest.fixture
def demo(tmp_path):
    folder = tmp_path / "demo"

    def go(steps, settings=SETTINGS):
        state = State(folder, settings)
        run_steps(steps, state, folder / "logs", os.environ)
        return state

    go.folder = folder
    return go


def test_commands_are_shown_logged_and_timed(demo, capsys):
    state = demo([python_step("a", demo.folder)])
    shown = capsys.readouterr().out
    assert "Make a" in shown
    assert "$ python -c 'import pathlib" in shown
    assert re.search(r"done in \d+ s", shown)
    assert "said so" not in shown
    assert (demo.folder / "logs" / "a.log").read_text() == "said so\n"
    assert state.steps["a"]["seconds"] >= 0


def test_finished_steps_are_skipped(demo, capsys):
    steps = [python_step("a", demo.folder), python_step("b", demo.folder)]
    demo(steps)
    for name in "ab":
        (demo.folder / name).write_text("kept")
    capsys.readouterr()
    demo(steps)
    assert (demo.folder / "a").read_text() == (demo.folder / "b").read_text() == "kept"
    assert capsys.readouterr().out.count("finished earlier") == 2


def test_a_missing_output_is_made_again_with_all_that_follows(demo):
    steps = [python_step(name, demo.folder) for name in "abc"]
    demo(steps)
    for name in "ac":
        (demo.folder / name).write_text("kept")
    (demo.folder / "b").unlink()
    demo(steps)
    assert [(demo.folder / name).read_text() for name in "abc"] == ["kept", "made", "made"]


def test_what_a_half_finished_step_left_is_removed(demo):
    def fail(show):
        (demo.folder / "b").mkdir()
        (demo.folder / "b" / "half").touch()
        raise KeyboardInterrupt

    def work(show):
        assert not (demo.folder / "b").exists()
        (demo.folder / "b").mkdir()

    first = python_step("a", demo.folder)
    with pytest.raises(KeyboardInterrupt):
        demo([first, Step("b", "b", (demo.folder / "b",), function=fail)])
    (demo.folder / "a").write_text("kept")
    demo([first, Step("b", "b", (demo.folder / "b",), function=work)])
    assert (demo.folder / "a").read_text() == "kept"
    assert list((demo.folder / "b").iterdir()) == []


def test_what_can_go_on_does(demo):
    """Begun with the same command, it runs the one that goes on, on what it left; another would lose that."""
    target, started = demo.folder / "b", demo.folder / "b" / "started"

    def begun(text):
        code = f"import pathlib; pathlib.Path({str(target)!r}).mkdir(exist_ok=True); "
        return ("python", "-c", code + f"pathlib.Path({str(started)!r}).write_text({text!r}); raise SystemExit(1)")

    append = f"open({str(started)!r}, 'a').write(', went on')"
    go_on = ("python", "-c", append)

    def step(text, resume=lambda: go_on if started.is_file() else None, shared=()):
        return Step("b", "b", (target,), (*begun(text), *shared), resume=resume)

    first = python_step("a", demo.folder)
    with pytest.raises(MASTProError, match="it goes on where it was"):
        demo([first, step("begun")])
    with pytest.raises(MASTProError, match=r"b was made with other options, .* would be lost; give the options of"):
        demo([first, step("begun otherwise")])
    assert started.read_text() == "begun"
    with pytest.raises(MASTProError, match="status 1"):  # nothing to go on from
        demo([first, step("begun otherwise", resume=lambda: None)])
    state = demo([first, step("begun otherwise", shared=("-num_gpus", "2"))])  # of no effect on what is computed
    assert started.read_text() == "begun otherwise, went on"
    assert state.steps["b"]["command"][:3] == list(begun("begun otherwise"))
    assert state.begun == {}


def test_a_step_that_was_begun_does_not_go_on_with_other_input(demo):
    target = demo.folder / "b"
    begun = ("python", "-c", f"import pathlib; pathlib.Path({str(target)!r}).write_text('old'); raise SystemExit(1)")
    step = Step("b", "b", (target,), begun, resume=lambda: ("python", "-c", "pass") if target.is_file() else None)
    with pytest.raises(MASTProError, match="status 1"):
        demo([python_step("a", demo.folder), step])
    (demo.folder / "a").unlink()
    with pytest.raises(MASTProError, match="of what is now made anew, and would be lost"):
        demo([python_step("a", demo.folder), step])
    assert not (demo.folder / "a").exists()  # nothing has run
    target.unlink()
    with pytest.raises(MASTProError, match="status 1"):
        demo([python_step("a", demo.folder), replace(step, resume=lambda: None)])


def test_options_that_share_out_work_change_none():
    one = ("nnUNetv2_preprocess", "-d", "3", "-np", "4", "8", "-c", "2d", "-num_gpus", "2")
    assert same_work(one, ("nnUNetv2_preprocess", "-d", "3", "-c", "2d"))
    assert not same_work(one, ("nnUNetv2_preprocess", "-d", "3", "-c", "3d_fullres", "-num_gpus", "2"))


def test_sources_stay_when_an_earlier_step_runs(demo):
    steps = [
        python_step("a", demo.folder, source=True),
        python_step("b", demo.folder, source=True),
        python_step("c", demo.folder),
    ]
    demo(steps)
    for name in "bc":
        (demo.folder / name).write_text("kept")
    (demo.folder / "a").unlink()
    demo(steps)
    assert [(demo.folder / name).read_text() for name in "abc"] == ["made", "kept", "made"]


def test_another_kind_has_another_record(tmp_path):
    State(tmp_path, SETTINGS, "recipe")
    assert (tmp_path / "recipe.json").is_file()
    with pytest.raises(MASTProError, match="holds a recipe made with seed=0"):
        State(tmp_path, {"seed": 1}, "recipe")
    with pytest.raises(MASTProError, match="holds no earlier demo"):
        State(tmp_path, SETTINGS)


def test_a_failing_command_shows_its_tail_and_log(demo, capsys):
    step = python_step("a", demo.folder, "for i in range(40): print('line', i)\nraise SystemExit(3)")
    with pytest.raises(MASTProError, match=r"python ended with status 3; its whole output is in .*a\.log.*again"):
        demo([step])
    error = capsys.readouterr().err
    assert "line 39" in error
    assert "line 10" not in error
    assert demo([python_step("a", demo.folder)]).steps["a"]


def test_a_command_that_writes_nothing_is_an_error(demo):
    with pytest.raises(MASTProError, match="ended without writing"):
        demo([python_step("a", demo.folder, "pass")])


def test_an_interrupted_command_is_ended(demo):
    started = demo.folder / "pid"
    code = f"import os, time, pathlib; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(60)"

    def interrupt():
        if started.exists() and started.read_text():
            raise KeyboardInterrupt
        return 0, ""

    with pytest.raises(KeyboardInterrupt):
        demo([python_step("a", demo.folder, code, follow=interrupt, total=2)])
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_progress_is_a_line_per_unit_where_no_terminal_is(demo, capsys):
    units = iter(range(100))
    step = python_step(
        "a",
        demo.folder,
        f"import time; time.sleep(1.2); open({str(demo.folder / 'a')!r}, 'w')",
        follow=lambda: (next(units), "epochs"),
        total=9,
    )
    demo([step])
    shown = capsys.readouterr().out
    assert "  1/9 epochs\n" in shown
    assert "  9/9\n" in shown


def test_a_folder_that_is_no_demo_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(MASTProError, match="not empty and holds no earlier demo; give -o"):
        State(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(MASTProError, match="is a file"):
        State(tmp_path / "mine.txt", SETTINGS)


def test_other_settings_are_refused(tmp_path):
    State(tmp_path, SETTINGS)
    with pytest.raises(MASTProError, match=r"seed=0 \(now 1\); give the same, or -o another folder"):
        State(tmp_path, {"seed": 1})


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"settings": {}})])
def test_a_broken_record_is_refused(tmp_path, content):
    (tmp_path / "demo.json").write_text(content)
    with pytest.raises(MASTProError, match=r"demo\.json cannot be read"):
        State(tmp_path, SETTINGS)


def test_the_training_log_is_followed(tmp_path):
    assert read_training_log(tmp_path) == (0, "")
    (tmp_path / "training_log_2026_1_1.txt").write_text("Epoch time: 1 s\n")
    (tmp_path / "training_log_2026_1_2.txt").write_text(
        "Epoch 0\nt: train_loss 0.5\nt: Pseudo dice [np.float32(0.25), np.float32(nan), 1e-04]\nt: Epoch time: 20 s\n"
    )
    assert read_training_log(tmp_path) == (1, "epochs, loss 0.5, pseudo-Dice 0.25 - 0.00")
    named = read_training_log(tmp_path, ["liver", "kidney", "lung"])
    assert named == (1, "epochs, loss 0.5, pseudo-Dice liver 0.25 kidney - lung 0.00")


@pytest.mark.parametrize("keeps", [True, False])
def test_outputs_of_a_command_that_judges_them_itself_stay(demo, keeps):
    """As the maps of an interrupted mastpro anatomy do."""
    demo([])
    target = demo.folder / "a"
    target.mkdir()
    (target / "old").touch()
    code = f"import pathlib; pathlib.Path({str(target)!r}).mkdir(exist_ok=True)"
    demo([python_step("a", demo.folder, code, keeps=keeps)])
    assert (target / "old").exists() == keeps


def test_what_another_run_has_finished_since_is_not_made_again(demo):
    steps = [python_step("a", demo.folder), python_step("b", demo.folder)]
    early = State(demo.folder, SETTINGS)
    demo(steps)
    (demo.folder / "a").write_text("kept")
    (demo.folder / "b").unlink()
    run_steps(steps, early, demo.folder / "logs", os.environ)
    assert (demo.folder / "a").read_text() == "kept"
    assert (demo.folder / "b").read_text() == "made"

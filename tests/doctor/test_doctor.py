"""`mastpro doctor`: what fails, what warns, and that each says what to do."""

import argparse
import re
import subprocess
import sys

import pytest

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.commands import doctor, probes
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN, Finding


def statuses(found):
    return [finding.status for finding in found]


def test_all_well_is_0(environ, quick_probes, monkeypatch, capsys):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("OK    ") for line in lines)


def test_one_failure_is_1(environ, quick_probes, monkeypatch, capsys):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert doctor.run(argparse.Namespace(dataset=None)) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 1
    assert "FAIL  nnUNet_n_proc_DA is '0': planning fails; export nnUNet_n_proc_DA=1, or unset nnUNet_n_proc_DA" in out


@pytest.mark.parametrize(
    ("found", "status"), [((3, 9, 1), FAIL), ((3, 10, 0), OK), ((3, 12, 9), OK), ((3, 13, 0), FAIL)]
)
def test_python(found, status):
    assert doctor.check_python(found).status == status


@pytest.mark.parametrize(
    ("nnunet", "status"),
    [("2.8.1", OK), ("2.8.7", OK), ("2.8.0", FAIL), ("2.9.0", FAIL), ("2.80.1", FAIL), (None, FAIL)],
)
def test_nnunet_release(monkeypatch, nnunet, status):
    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: nnunet if name == "nnunetv2" else found(name))
    (finding,) = doctor.check_packages()
    assert finding.status == status
    assert status == OK or re.fullmatch(r'pip install "nnunetv2(<2\.9,>=2\.8\.1|>=2\.8\.1,<2\.9)"', finding.remedy)


def test_missing_and_old_packages_are_named(monkeypatch):
    """As after `pip install --no-deps` or a later installation that put others in their place."""
    found = doctor._version
    broken = {"safetensors": None, "matplotlib": "3.9.4"}
    monkeypatch.setattr(doctor, "_version", lambda name: broken.get(name, found(name)))
    assert {finding.text: finding.remedy for finding in doctor.check_packages()} == {
        "safetensors is not installed": 'pip install "safetensors"',
        "matplotlib 3.9.4": 'pip install "matplotlib>=3.10"',
    }
    assert {finding.status for finding in doctor.check_packages()} == {FAIL}


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("name", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_unset_folder(environ, name, value):
    environ.pop(name) if value is None else environ.update({name: value})
    (bad,) = [finding for finding in doctor.check_folders(environ) if finding.status != OK]
    assert bad == Finding(FAIL, f"{name} is not set", f"export {name}=/path/to/{name}")


@pytest.mark.parametrize(
    ("name", "status"), [("nnUNet_raw", FAIL), ("nnUNet_preprocessed", WARN), ("nnUNet_results", WARN)]
)
def test_missing_folder(environ, tmp_path, name, status):
    """nnU-Net makes what it writes to."""
    environ[name] = str(tmp_path / "a" / "b")
    (bad,) = [finding for finding in doctor.check_folders(environ) if finding.status != OK]
    assert bad.status == status
    assert name in bad.text


@pytest.mark.parametrize(
    ("name", "status"), [("nnUNet_raw", WARN), ("nnUNet_preprocessed", FAIL), ("nnUNet_results", FAIL)]
)
def test_folder_that_cannot_be_written(environ, monkeypatch, name, status):
    """By a stand-in for os.access: the superuser may write anywhere."""
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: str(path) != environ[name])
    (bad,) = [finding for finding in doctor.check_folders(environ) if finding.status != OK]
    assert bad.status == status
    assert "cannot be written" in bad.text


def test_file_in_place_of_a_folder(environ, tmp_path):
    (tmp_path / "file").touch()
    environ["nnUNet_results"] = str(tmp_path / "file")
    assert statuses(doctor.check_folders(environ)) == [OK, OK, FAIL]


@pytest.mark.parametrize(("value", "status"), [("0", FAIL), ("-1", FAIL), ("two", FAIL), ("", FAIL), ("1", OK)])
@pytest.mark.parametrize("name", ["nnUNet_n_proc_DA", "nnUNet_def_n_proc"])
def test_workers(name, value, status):
    assert statuses(doctor.check_workers({name: value})) == [status]
    assert list(doctor.check_workers({})) == []


@pytest.mark.parametrize(("answer", "status"), [("cuda", OK), ("cpu", WARN), ("mps", WARN), (None, FAIL)])
def test_device(answer, status):
    found = doctor.judge_device(answer, "RuntimeError: operator torchvision::nms does not exist")
    assert found.status == status
    if status == WARN:
        assert f"-device {answer}" in found.remedy
    if status == FAIL:
        assert "torchvision::nms" in found.text
        assert "belong together" in found.remedy


@pytest.mark.parametrize(
    ("answer", "error", "folders", "status", "said"),
    [
        (doctor.__file__, "", "/t", OK, "finds nnUNetTrainerMASTPro"),
        ("/elsewhere/trainer.py", "", "/t", WARN, "comes from /elsewhere/trainer.py"),
        (
            None,
            "RuntimeError: Could not find requested nnunet trainer",
            None,
            FAIL,
            'is not set; run eval "$(mastpro env)"',
        ),
        (None, "RuntimeError: Could not find requested nnunet trainer", "/t", FAIL, "in nnUNet_extTrainer=/t"),
        (None, "ModuleNotFoundError: No module named 'x'", "/t", FAIL, "No module named 'x'"),
    ],
)
def test_trainer(answer, error, folders, status, said):
    found = doctor.judge_trainer(answer, error, {"nnUNet_extTrainer": folders} if folders else {})
    assert found.status == status
    assert said in str(found)


def test_encoder():
    assert doctor.judge_encoder("384", "").status == OK
    bad = doctor.judge_encoder(None, "MASTProError: weights are missing")
    assert bad.status == FAIL
    assert "weights are missing" in bad.text


def test_a_probe_that_fails_gives_its_last_line(environ, quick_probes):
    quick_probes(encoder="print('noise'); raise ValueError('no weights')")
    (bad,) = [finding for finding in doctor.findings(environ) if finding.status == FAIL]
    assert "ValueError: no weights" in bad.text


def test_a_probe_that_dies_silently(environ, quick_probes):
    quick_probes(device="import os; os._exit(3)")
    (bad,) = [finding for finding in doctor.findings(environ) if finding.status == FAIL]
    assert "exit status 3" in bad.text


def test_a_probe_that_hangs_is_ended(environ, quick_probes, monkeypatch):
    started = []
    start = probes.start
    monkeypatch.setattr(probes, "start", lambda *args: started.append(start(*args)) or started[-1])
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 1)
    quick_probes(encoder="import time; time.sleep(600)")
    found = [finding for finding in doctor.findings(environ) if finding.status != OK]
    told = "could not run the default text encoder within 1 s"  # no reason to install anything
    assert found == [Finding(WARN, told, "run it again when the machine is less busy")]
    assert all(probe.returncode is not None for probe in started)


def test_encoder_probe_stays_off_the_network_and_out_of_the_cache(environ, quick_probes):
    code = f"import os; print('{probes.MARK}', os.environ['HF_HUB_OFFLINE'], os.environ['MASTPRO_CACHE'])"
    quick_probes(encoder=code)
    last = list(doctor.findings({**environ, "MASTPRO_CACHE": "/users/own"}))[-1]
    assert " 1 " in last.text
    assert "/users/own" not in last.text


def test_probes_do_not_import_from_the_current_folder(environ, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    probe = probes.start(f"import sys\nprint('{probes.MARK}', '' in sys.path)", {**environ})
    assert probes.answer(probe) == (" False", "")


def test_doctor_imports_nothing_heavy():
    code = "import sys, nnunetv2_mastpro.commands.doctor; print({'torch', 'nnunetv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

"""`mastpro doctor`: what fails, what warns, and that each says what to do."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.commands import doctor, probes
from nnunetv2_mastpro.commands.doctor_dataset import check_dataset, check_plans
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN, Finding

LABELS = {"background": 0, "liver": 1, "liver_tumor": 2}


@pytest.fixture
def environ(tmp_path):
    """The three folders of nnU-Net, there and writable."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        folder.mkdir()
    return {name: str(folder) for name, folder in folders.items()}


@pytest.fixture
def write_dataset(environ):
    """`write_dataset("nnUNet_raw", mastpro=...)` writes a dataset.json into one of the folders."""

    def write(variable, name="Dataset004_Liver", **extra):
        folder = Path(environ[variable], name)
        folder.mkdir()
        content = {"labels": LABELS, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz", **extra}
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder / "dataset.json"

    return write


@pytest.fixture
def quick_probes(monkeypatch):
    """`quick_probes(name=code)` runs that code in place of the probe; by default all answer at once, and well."""

    def replace(**codes):
        answers = {"device": "cuda", "trainer": doctor.__file__, "encoder": "384"}
        codes = {name: f"print({probes.MARK + text!r})" for name, text in answers.items()} | codes
        monkeypatch.setattr(probes, "PROBES", codes)

    replace()
    return replace


def statuses(found):
    return [finding.status for finding in found]


def test_files_that_are_no_plans_are_left_alone(environ, write_dataset):
    """nnU-Net's own splits_final.json is a list."""
    folder = write_dataset("nnUNet_preprocessed").parent
    (folder / "splits_final.json").write_text("[]")
    (folder / "fingerprint.json").write_text("{}")
    assert not [finding for finding in check_plans("4", environ)]
    (folder / "plans.json").write_text("{")
    (finding,) = check_plans("4", environ)
    assert finding.status == FAIL
    assert "plans.json cannot be read as JSON" in finding.text


def test_all_well_is_0(environ, quick_probes, monkeypatch, capsys):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
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
    monkeypatch.setattr(doctor, "_version", lambda name: nnunet if name == "nnunetv2" else "1.0")
    first, second = doctor.check_packages()
    assert first.status == status
    assert second.status == OK
    assert status == OK or 'pip install "nnunetv2>=2.8.1,<2.9"' in first.remedy


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    assert list(doctor.check_packages())[1] == Finding(
        FAIL, "not installed: no-such-package", "pip install no-such-package"
    )


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


@pytest.mark.parametrize("named", ["4", "004", "Dataset004_Liver"])
def test_dataset_that_agrees(environ, write_dataset, named):
    write_dataset("nnUNet_raw")
    write_dataset("nnUNet_preprocessed")
    found = list(check_dataset(named, environ))
    assert statuses(found) == [OK, OK]
    assert all("2 classes, 1 of them tumours" in finding.text for finding in found)


def test_a_dataset_without_tumour_types_is_told(environ, write_dataset):
    write_dataset("nnUNet_raw", labels={"background": 0, "liver": 1})
    (found,) = check_dataset("4", environ)
    assert found.status == WARN
    assert "1 classes, 0 of them tumours: no experts of their own" in found.text


def test_dataset_before_planning(environ, write_dataset):
    write_dataset("nnUNet_raw")
    assert statuses(check_dataset("4", environ)) == [OK]


def test_dataset_edited_after_planning(environ, write_dataset):
    write_dataset("nnUNet_raw", mastpro={"prompts": {"liver": {"sentence": "The liver."}}})
    write_dataset("nnUNet_preprocessed")
    found = list(check_dataset("4", environ))
    assert statuses(found) == [OK, OK, WARN]
    assert "differ; training reads the preprocessed one" in str(found[-1])


def test_label_that_nothing_knows(environ, write_dataset):
    write_dataset("nnUNet_raw", labels={"background": 0, "zzyzx": 1})
    found = list(check_dataset("4", environ))
    assert statuses(found) == [WARN, WARN]
    assert "zzyzx" in found[1].text


@pytest.mark.parametrize(
    ("block", "status", "said"),
    [
        ({"network": {"rank": 4}}, OK, "mastpro block"),
        ({"netwrok": {}}, FAIL, "unknown key mastpro.netwrok in the plans; did you mean 'network'"),
        ({"prompts": {"encoder": "/no/such/folder"}}, FAIL, "text encoder /no/such/folder does not run (Error: gone)"),
        ({"prompts": {"encoder": "mine"}}, OK, "text encoder mine, 8 dimensions"),
    ],
)
def test_plans(environ, write_dataset, quick_probes, block, status, said):
    quick_probes(encoder=f"sys.exit('Error: gone') if sys.argv[1] != 'mine' else print({probes.MARK + '8'!r})")
    file = write_dataset("nnUNet_preprocessed").with_name("MyPlans.json")
    file.write_text(json.dumps({"configurations": {}, "mastpro": block}))
    file.with_name("nnUNetPlans.json").write_text(json.dumps({"configurations": {}}))
    (found,) = check_plans("4", environ)
    assert found.status == status
    assert said in found.text
    assert found in [*check_dataset("4", environ)]


@pytest.mark.parametrize(
    ("annotated", "status", "said"),
    [(["liver"], OK, "1 of 1 named cases annotate some of the classes only"), (["lever"], FAIL, 'mean "liver"')],
)
def test_cases(environ, write_dataset, annotated, status, said):
    write_dataset("nnUNet_raw", mastpro={"cases": {"a": {"annotated": annotated}}})
    found = list(check_dataset("4", environ))
    assert [finding.status for finding in found if said in finding.text] == [status]


def test_bad_section(environ, write_dataset):
    write_dataset("nnUNet_raw", mastpro={"prompts": {"lever": {"tumor": "x"}}})
    write_dataset("nnUNet_preprocessed")
    found = list(check_dataset("4", environ))
    assert statuses(found) == [FAIL, OK]
    assert '"lever"' in found[0].text


@pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
def test_unreadable_dataset_json(environ, write_dataset, content):
    path = write_dataset("nnUNet_raw")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    first = next(iter(check_dataset("4", environ)))
    assert first.status == FAIL
    assert str(path) in first.text


@pytest.mark.parametrize("named", ["5", "Dataset005_Other"])
def test_unknown_dataset(environ, write_dataset, named):
    write_dataset("nnUNet_raw")
    (found,) = check_dataset(named, environ)
    assert found.status == FAIL
    assert f"no readable dataset.json of {named}" in found.text


def test_bad_dataset_name(environ):
    found = list(check_dataset("liver", environ))
    assert all(finding.status == FAIL for finding in found)
    assert "neither an id nor a name that starts with Dataset" in found[0].text


def test_two_datasets_of_one_id(environ, write_dataset):
    write_dataset("nnUNet_raw")
    write_dataset("nnUNet_raw", name="Dataset004_Other")
    first = next(iter(check_dataset("4", environ)))
    assert first.status == FAIL
    assert "Dataset004_Liver and Dataset004_Other" in first.text


def test_dataset_is_part_of_the_report(environ, write_dataset, quick_probes):
    write_dataset("nnUNet_raw")
    assert any("2 classes" in finding.text for finding in doctor.findings(environ, "4"))
    assert not any("2 classes" in finding.text for finding in doctor.findings(environ))


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
        (None, "RuntimeError: Could not find requested nnunet trainer", None, FAIL, 'eval "$(mastpro env)"'),
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
    (bad,) = [finding for finding in doctor.findings(environ) if finding.status == FAIL]
    assert "no answer in 1 s" in bad.text
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

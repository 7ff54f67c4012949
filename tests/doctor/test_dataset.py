"""What `mastpro doctor -d` says of a data set: its copies of dataset.json, its plans, its cases."""

import json

import pytest

from nnunetv2_mastpro.commands import doctor, probes
from nnunetv2_mastpro.commands.doctor_dataset import check_dataset, check_plans
from nnunetv2_mastpro.commands.findings import FAIL, OK, WARN


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


@pytest.mark.parametrize("named", ["4", "004", "Dataset004_Liver"])
def test_dataset_that_agrees(environ, write_dataset, named):
    write_dataset("nnUNet_raw")
    write_dataset("nnUNet_preprocessed")
    *found, last = check_dataset(named, environ)
    assert statuses(found) == [OK, OK]
    assert all("2 classes, 1 of them for tumours" in finding.text for finding in found)
    assert str(last).endswith("can be trained yet; nnUNetv2_plan_and_preprocess -d 4 -c 3d_fullres")


def test_a_dataset_without_tumour_types_is_told(environ, write_dataset):
    write_dataset("nnUNet_raw", labels={"background": 0, "liver": 1})
    found = next(check_dataset("4", environ))
    assert found.status == WARN
    assert "1 class, 0 of them for tumours: no experts of their own" in found.text


def test_dataset_before_planning(environ, write_dataset):
    write_dataset("nnUNet_raw")
    assert statuses(check_dataset("4", environ)) == [OK, WARN]
    plans = write_dataset("nnUNet_preprocessed").with_name("nnUNetPlans.json")
    plans.write_text(json.dumps({"configurations": {"2d": {}}}))
    assert statuses(check_dataset("4", environ)) == [OK, OK]


def test_dataset_edited_after_planning(environ, write_dataset):
    write_dataset("nnUNet_raw", mastpro={"prompts": {"liver": {"sentence": "The liver."}}})
    write_dataset("nnUNet_preprocessed")
    found = list(check_dataset("4", environ))
    assert statuses(found) == [OK, OK, WARN, WARN]
    assert "differ; training reads the preprocessed one" in str(found[-1])


def test_label_that_nothing_knows(environ, write_dataset):
    write_dataset("nnUNet_raw", labels={"background": 0, "zzyzx": 1})
    found = list(check_dataset("4", environ))
    assert statuses(found) == [WARN, WARN, WARN]
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


def test_cases_that_are_not_there(environ, write_dataset):
    """Training refuses them."""
    named = {name: {"annotated": ["liver"]} for name in ("a", "b")}
    folder = write_dataset("nnUNet_raw", mastpro={"cases": named}).parent
    for part, name in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        (folder / part).mkdir()
        (folder / part / f"{name}.nii.gz").touch()
    (found,) = (finding for finding in check_dataset("4", environ) if finding.status == FAIL)
    assert f"mastpro.cases names b, which {folder} does not hold" in found.text


def test_cases_that_are_not_preprocessed(environ, write_dataset):
    folder = write_dataset("nnUNet_raw").parent
    data = write_dataset("nnUNet_preprocessed").parent / "nnUNetPlans_3d_fullres"
    data.mkdir()
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for case in ("a", "b"):
        (folder / "imagesTr" / f"{case}_0000.nii.gz").touch()
        (folder / "labelsTr" / f"{case}.nii.gz").touch()
        (data / f"{case}.pkl").touch()
    assert not [finding for finding in check_dataset("4", environ) if "not the same cases" in finding.text]
    (data / "b.pkl").unlink()
    (found,) = (finding for finding in check_dataset("4", environ) if "not the same cases" in finding.text)
    assert found.status == WARN
    assert f"{data} and dataset.json have not the same cases: b" in found.text


def test_a_test_image_whose_link_leads_nowhere(environ, write_dataset):
    folder = write_dataset("nnUNet_raw").parent / "imagesTs"
    folder.mkdir()
    (folder / "a_0000.nii.gz").touch()
    (folder / "b_0000.nii.gz").symlink_to(folder / "a_0000.nii.gz")
    assert FAIL not in statuses(check_dataset("4", environ))
    (folder / "a_0000.nii.gz").unlink()
    (found,) = (finding for finding in check_dataset("4", environ) if finding.status == FAIL)
    assert f"names files that are not there: {folder / 'b_0000.nii.gz'}" in found.text


def test_images_that_are_no_longer_where_a_merge_found_them(environ, write_dataset):
    """The preprocessed copy has the raw one's paths, which nnU-Net reads from the raw folder."""
    where = {"a": {"images": ["../elsewhere/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    folder = write_dataset("nnUNet_raw", dataset=where).parent
    write_dataset("nnUNet_preprocessed", dataset=where)
    (folder / "labelsTr").mkdir()
    (folder / "labelsTr" / "a.nii.gz").touch()
    (found,) = (finding for finding in check_dataset("4", environ) if finding.status == FAIL)
    assert "names files that are not there" in found.text
    assert "elsewhere/a_0000.nii.gz" in found.text


def test_bad_test_cases(environ, write_dataset):
    write_dataset("nnUNet_raw", mastpro={"test_cases": {"t": {"annotated": ["lever"]}}})
    (found,) = check_dataset("4", environ)
    assert found.status == FAIL
    assert 'mastpro.test_cases["t"] in dataset.json: "lever" is no class' in found.text


def test_cases_that_training_does_not_know(environ, write_dataset):
    """It reads the preprocessed copy, by which every case is wholly annotated."""
    write_dataset("nnUNet_raw", mastpro={"cases": {"a": {"annotated": ["liver"]}}})
    write_dataset("nnUNet_preprocessed")
    found = list(check_dataset("4", environ))[-1]
    assert found.status == FAIL
    assert "the mastpro.cases of the raw and the preprocessed dataset.json differ" in found.text


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
    assert ["neither an id nor a name that starts with Dataset" in finding.text for finding in found] == [True]


def test_a_folder_whose_name_has_no_number(environ, write_dataset):
    write_dataset("nnUNet_raw", name="DatasetLiver")
    found = list(check_dataset("DatasetLiver", environ))
    assert all(finding.status == FAIL for finding in found)
    assert "give 4 or Dataset004_X" in found[0].text


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


@pytest.mark.parametrize(("preprocessed", "status"), [(True, FAIL), (False, WARN)])
def test_plans_that_training_refuses(environ, write_dataset, small_plans, preprocessed, status):
    """As where a user made the patch smaller."""
    folder = write_dataset("nnUNet_preprocessed").parent
    small_plans["configurations"]["2d"]["patch_size"] = [15, 16]
    (folder / "Small.json").write_text(json.dumps(small_plans))
    data = folder / small_plans["configurations"]["2d"]["data_identifier"]
    data.mkdir()
    (data / "a.pkl").touch() if preprocessed else None
    (found,) = check_plans("4", environ)
    assert found.status == status
    small_plans["configurations"]["other"] = {"inherits_from": "2d", "patch_size": [16, 16]}
    small_plans["configurations"]["part"] = {"patch_size": [16, 16]}  # as of an overlay
    (folder / "Small.json").write_text(json.dumps(small_plans))
    assert [one.status for one in check_plans("4", environ)] == [WARN]  # one that can be trained is left, or no data
    assert "Small.json, 2d: patch_size [15, 16] is not divisible by the network's total strides" in found.text

"""What nobody looked for: ignored voxels, and classes that a case does not annotate."""

import base64
import gzip
import json
import re

import nibabel
import numpy as np

from .command import allow_ignoring, arguments, change, run


def test_a_finding_is_not_called_made_up_where_the_tumour_may_be_ignored(folders, tmp_path):
    allow_ignoring(folders)
    change(folders.reference / "case_b.nii.gz", lambda volume: (volume == 1) * 3)
    change(folders.predictions / "case_b.nii.gz", lambda volume: volume * 0 + 1)
    maps = ("--maps", folders.maps)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, *maps, "--viewer-cases", "0")) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "case_b, liver tumor marked, though the case has none where it was looked for: slice" in page
    assert "Striped grey what the truth says to ignore" in page
    assert "What the truth says to ignore has no part in them." in page


def test_nothing_is_said_of_ignoring_where_labels_have_no_such_value(report):
    assert "ignore" not in re.sub(r"<script.*?</script>", "", report[1].read_text(), flags=re.DOTALL)


def test_what_the_truth_ignores_is_not_shown_as_a_class(folders, tmp_path):
    allow_ignoring(folders)

    def with_ignored(volume):
        volume[:, :, 0] = 3
        return volume

    change(folders.reference / "case_a.nii.gz", with_ignored)
    assert run(*arguments(folders, tmp_path / "out", "-ref", folders.reference, "--panels", "0")) == 0
    assert "What the truth says to ignore is not marked." in (tmp_path / "out" / "index.html").read_text()
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', (tmp_path / "out" / "index.html").read_text())
    truths = {case["name"]: case["truth"] for case in json.loads(data)["cases"]}
    voxels = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(truths["case_a"]))).get_fdata()
    assert set(np.unique(voxels)) == {0, 1, 2}


def test_a_class_counts_where_the_test_cases_annotate_it(folders, tmp_path):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({f"case_{name}": {"annotated": ["liver_tumor"]} for name in "ab"}))
    assert run(*arguments(folders, tmp_path / "report", "-ref", folders.reference, "--cases", file)) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    counts = re.findall(r">(\d of \d)<", page)
    assert counts == ["3 of 3", "1 of 1"]  # liver and lung tumours
    captions = re.findall(r"<figcaption>(case_\w), (\w+) tumor.*?HU(.*?)</figcaption>", page)
    told = {case: rest for case, organ, rest in captions if organ == "liver"}
    assert told == {"case_a": "", "case_b": "", "case_c": ""}, "of what the slice does not show nothing is said"


def test_a_class_that_a_case_does_not_annotate_is_told_where_it_is_predicted(folders, tmp_path):
    def with_lung_tumour_beside(volume):
        volume[1:3, 1:3, :] = 2
        return volume

    for name in "ab":
        change(folders.predictions / f"case_{name}.nii.gz", with_lung_tumour_beside)
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"case_a": {"annotated": ["liver_tumor"]}}))
    given = ["-ref", folders.reference, "--cases", file, "--viewer-cases", "0", "--pictures", tmp_path / "pictures"]
    assert run(*arguments(folders, tmp_path / "report", *given)) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    captions = re.findall(r"<figcaption>(case_\w), liver tumor.*?HU(.*?)</figcaption>", page)
    assert dict(captions) == {"case_a": "; not annotated in this case: lung tumor", "case_b": "", "case_c": ""}

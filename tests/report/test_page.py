"""The page of the real command, read as text."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from PIL import Image

from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.report import page as page_module
from nnunetv2_mastpro.report import scores, sections

SECTIONS = ["summary", "curves", "boxes", "panels", "hosts", "experts", "prompts", "cost", "commands", "viewer-section"]


class Reader(HTMLParser):
    """Text by section, and addresses."""

    def __init__(self, source):
        super().__init__()
        self.texts, self.addresses, self.open, self.inside, self.problems = {"": ""}, [], [""], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag == "section":
            self.open.append(known["id"])
            self.texts[known["id"]] = ""
        if tag not in ("meta", "link", "img", "input", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if not self.inside or self.inside.pop() != tag:
            self.problems.append(tag)
        if tag == "section":
            self.open.pop()

    def handle_data(self, text):
        if not {"script", "style"} & set(self.inside):
            self.texts[self.open[-1]] += text + " "


@pytest.fixture(scope="module")
def read(report):
    return Reader(report[1].read_text())


def test_it_has_every_section_in_order_and_is_well_formed(read):
    assert list(read.texts)[1:] == SECTIONS
    assert not read.problems
    assert not read.inside


def test_the_pictures_are_files_too(report):
    """A PNG for each row of the page, in its order."""
    folders, page, _ = report
    files = sorted((folders.images.parent / "pictures").iterdir())
    assert len(files) == page.read_text().count("data:image/webp")
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert [file.name[:3] for file in files] == [f"{place:02d}_" for place in range(1, len(files) + 1)]
    row = base64.b64decode(re.search(r"data:image/webp;base64,([^\"]+)", page.read_text())[1])
    heights = [Image.open(file).height for file in (files[0], io.BytesIO(row))]
    assert heights[0] >= heights[1] + 40  # a title above and a legend below


def test_the_cost_is_readable():
    configuration = {"spacing": [3.2699999809265137, 0.9765620231628418], "batch_size": 2}
    found = page_module.cost(SimpleNamespace(model=SimpleNamespace(folds=[], configuration=configuration)), None)
    assert "<td>3.27 x 0.9766</td>" in found
    assert "<td>2</td>" in found


def test_it_needs_nothing_beside_it(read):
    outside = [address for address in read.addresses if not address.startswith(("data:", "#"))]
    assert outside == ["https://niivue.com"]  # a link to follow, not to load


def test_the_first_line_says_what_was_run_on_what(read):
    text = " ".join(read.texts[""].split())
    expected = r"nnUNetTrainerMASTPro \(nnUNetPlans, 2d, fold_0\) of Dataset004_Liver on 3 cases of \S+images, "
    expected += r"20\d\d-\d\d-\d\d: "
    assert re.search(expected + r"mean Dice of tumour types 0\.\d\d \(0\.\d\d to \d\.\d\d\)", text)
    assert "not a medical device" in text


def test_the_summary_is_the_mean_over_cases(read):
    """Liver: shifts by 1, 9 and 0 of 6 voxels leave 5/6, 0 and 1; lung: 5/6, missed, 1."""
    dice = f"{(5 / 6 + 0 + 1) / 3:.2f}"
    for name in ("liver tumor", "lung tumor"):
        missed = 1 if name == "lung tumor" else 0
        assert re.search(rf"{name}\s+3 of 3\s+{missed}\s+0\s+{dice}\n", read.texts["summary"])
    assert "HD95 is of the cases that have it in both, and so leaves out what was missed" in read.texts["summary"]


def test_the_scores_of_each_case_are_there(read):
    summary = " ".join(read.texts["summary"].split())
    head = "Scores by case, lowest Dice first case, class Dice surface Dice HD95, mm"
    assert f"{head} case_b, liver tumor 0.00" in summary
    assert "case_b, lung tumor 0.00 0.00 - case_a" in summary  # missed
    assert "case_c, lung tumor 1.00 1.00 0.0" in summary
    rows = [{"case": f"c{number}", "class": "a", "Dice": 0.5, "NSD": 0.5, "HD95_mm": 1.0} for number in range(1003)]
    found = scores.by_case({"rows": [*rows, {**rows[0], "Dice": None}]}, {"a": "tumour"})
    assert found.count('<th scope="row">') == 1000
    assert "3 more rows were left out" in found


def test_panels_come_largest_error_first_in_the_window_of_their_organ(read):
    captions = re.findall(
        r"(case_\w), (\w+) tumor, Dice ([\d.]+): slice \d+ of 14, ([a-z-]+) window", read.texts["panels"]
    )
    assert [float(dice) for *_, dice, _ in captions] == [0, 0, 0.83, 0.83, 1, 1]
    assert {name for name, *_ in captions[:2]} == {"case_b"}
    assert {(organ, window) for _, organ, _, window in captions} == {("liver", "soft-tissue"), ("lung", "lung")}


def test_other_sections_tell_what_the_folders_hold(read):
    texts = {name: " ".join(text.split()) for name, text in read.texts.items()}
    assert "fold_0: losses" in texts["curves"]
    assert re.search(r"liver tumor \d+ ml 72% 100%", texts["hosts"])  # of case_b's prediction a sixth
    assert "encoder_1: generic expert" not in texts["experts"]
    assert "fold_0, epoch 2: share of training patches" in texts["experts"]
    assert "This is a lung tumor in the lung" in texts["prompts"]
    assert "all 1,234 234" in texts["cost"]
    assert "27 s, 9.0 s an epoch" in texts["cost"]
    assert "epochs 3 of 7 training steps" in texts["cost"]
    assert "share a voxel" in texts["summary"]
    assert "nnUNetv2_train Dataset004_Liver 2d 0 -p nnUNetPlans -tr nnUNetTrainerMASTPro" in texts["commands"]
    assert "mastpro report" in texts["commands"]
    assert "nnUNetv2_predict -d Dataset004_Liver -c 2d -p nnUNetPlans" in texts["commands"]
    assert "nnunetv2 2.8" in texts["commands"]


def test_few_patches_are_told_beside_the_heat_map():
    owners = {"generic": [0.5, 0.5], "liver_tumor": [0.0, 1.0]}
    usage = {"epoch": 1, "patches": {"all": 40, "liver_tumor": 4}}
    usage["kept"] = {"encoder_1": {"all": owners, "liver_tumor": owners}}
    fold = SimpleNamespace(name="fold_0", usage=usage)
    model = SimpleNamespace(config=MASTProConfig(), folds=[fold])
    told = sections.experts(SimpleNamespace(model=model))
    assert "too few patches with liver_tumor to tell" in told
    assert sections.COLLAPSE not in told
    usage["patches"] = {"all": 40, "liver_tumor": 40}
    told = sections.experts(SimpleNamespace(model=model))
    assert "liver_tumor expert 1 of 0 to 1 has 100%" in told
    assert sections.COLLAPSE in told


def test_the_command_says_where_the_page_is(report):
    _, page, said = report
    assert re.search(r"^3 cases, 6 panels, \d\.\d MB$", said, re.MULTILINE)
    assert said.endswith(f"wrote {page}\n")
    assert page.stat().st_size < 4e6


@pytest.mark.slow
def test_ten_cases_stay_under_15_mb(tmp_path, write_model, make_report_folders, run_command):
    """Of 70 x 150 x 160 voxels each: what does not fit in the page is left out of its viewer, and said."""
    folders = make_report_folders(tmp_path, write_model, {f"case_{number}": number for number in range(10)}, times=5)
    given = ["-i", folders.images, "-pred", folders.predictions, "-ref", folders.reference, "--maps", folders.maps]
    done = run_command(["mastpro", "report", "-m", folders.model, *given, "-o", tmp_path / "out"], timeout=600)
    assert re.search(r"^10 cases, \d+ panels, \d+\.\d MB$", done.stdout, re.MULTILINE)
    assert 4e6 < (tmp_path / "out" / "index.html").stat().st_size < 15e6


def test_niivue_is_the_file_of_its_npm_package():
    stated = dict(re.findall(r"^(\w+): (.+)$", (page_module.STATIC / "niivue.txt").read_text(), re.MULTILINE))
    file = page_module.STATIC / "niivue.umd.js"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == stated["sha256"]
    assert f'"{stated["version"]}"' in file.read_text()
    licences = (page_module.STATIC / "niivue.licenses.txt").read_text()
    for name in ("@niivue/niivue", "gl-matrix", "nifti-reader-js", "fflate", "numcodecs", "zarrita"):
        assert f"== {name} " in licences
    assert "Copyright (c) 2021, Niivue" in licences

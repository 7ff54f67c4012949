"""The mapping file: renaming, uniting, dropping, nesting; its draft; what is wrong with it."""

import json

import numpy as np
import pytest
import yaml

from nnunetv2_mastpro import cli

from .conftest import KIDNEY, LIVER, check_refused, write_model

RULES = f"""
sources:
  {LIVER}:
    labels: {{liver: organ, liver_tumor: tumor}}
  6:
    labels: {{kidney_tumor: tumor}}
    annotated: [tumor, organ]
nest: {{organ: [tumor]}}
"""


@pytest.fixture
def merge_by(three, tmp_path):
    """`merge_by(content, "-d", 3, 6)`: with the mapping file of this content."""

    def run(content, *arguments):
        path = tmp_path / "map.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return three.merge(*arguments, "--map", path)

    return run


def test_classes_are_renamed_united_and_nested(three, merge_by):
    assert merge_by(RULES, "-d", 3, 6) == 0
    content = three.merged.content
    assert content["labels"] == {"background": 0, "organ": [1, 2], "tumor": 2}
    assert content["regions_class_order"] == [1, 2]
    assert content["mastpro"]["cases"]["kidney_0"]["annotated"] == ["organ", "tumor"]  # as the map says
    assert np.unique(three.merged.label("kidney_0")).tolist() == [0, 2]


def test_outer_regions_come_first_whatever_their_values(three, merge_by):
    assert merge_by("nest: {kidney_tumor: [colon cancer], colon cancer: [liver]}", "-d", 3, 6, 10) == 0
    content = three.merged.content
    expected = {"background": 0, "liver_tumor": 2, "kidney_tumor": [1, 3, 4], "colon cancer": [1, 4], "liver": 1}
    assert content["labels"] == expected
    assert list(content["labels"]) == list(expected)
    assert content["regions_class_order"] == [2, 3, 4, 1]


def test_united_labels_are_annotated_where_all_of_them_are(three, merge_by):
    cases = {"left": {"annotated": ["kidney_left", "cyst"]}, "both": {"annotated": ["kidney_left", "kidney_right"]}}
    labels = {"kidney_left": 1, "kidney_right": 2, "cyst": 3}
    boxes = {1: slice(2, 4), 2: slice(6, 8)}
    images = {"left": (30, {1: slice(2, 4)}), "both": (31, boxes), "rest": (32, boxes)}
    three.write("Dataset012_Sides", labels, images, mastpro={"cases": cases})
    united = {"kidney_left": "kidney", "kidney_right": "kidney"}
    assert merge_by({"sources": {12: {"labels": united}}}, "-d", 12, 6) == 0
    entries = three.merged.content["mastpro"]["cases"]
    annotated = {case: entries[case]["annotated"] for case in images}
    assert annotated == {"left": ["cyst"], "both": ["kidney"], "rest": ["kidney", "cyst"]}


def test_dropped_classes_become_background_and_unannotated(three, merge_by):
    assert merge_by({"sources": {LIVER: {"labels": {"liver": None}}}}, "-d", 3, 6) == 0
    content = three.merged.content
    assert content["labels"] == {"background": 0, "liver_tumor": 1, "kidney_tumor": 2}
    assert content["mastpro"]["cases"]["liver_0"]["annotated"] == ["liver_tumor"]
    assert np.unique(three.merged.label("liver_0")).tolist() == [0, 1]


def test_cases_that_annotate_nothing_kept_are_left_out(three, merge_by, capsys):
    cases = {"a": (60, {1: slice(2, 4)}), "b": (61, {2: slice(2, 4)})}
    mastpro = {"cases": {"a": {"annotated": ["x"]}}}
    three.write("Dataset012_More", {"x": 1, "y": 2}, cases, mastpro=mastpro)
    assert merge_by({"sources": {"Dataset012_More": {"labels": {"x": None}}}}, "-d", 6, 12) == 0
    assert "left out, since they annotate no class that is kept: a of Dataset012_More" in capsys.readouterr().out
    content = three.merged.content
    assert ("a" in content["mastpro"]["cases"], content["numTraining"]) == (False, 7)


REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "inmost": 3}


@pytest.mark.parametrize(
    ("labels", "rules", "expected", "values"),
    [
        (
            REGIONS,
            {"nest": {"whole": ["core"], "core": ["inmost"]}},
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inmost": 3},
            [0, 1, 2, 3],
        ),
        (
            REGIONS,
            {"sources": {12: {"labels": {"core": None}}}, "nest": {"whole": ["inmost"]}},
            {"background": 0, "whole": [1, 2], "inmost": 2},
            [0, 1, 1, 2],
        ),
        (
            REGIONS,
            {"sources": {12: {"labels": {"core": "whole", "inmost": "whole"}}}},
            {"background": 0, "whole": 1},
            [0, 1, 1, 1],
        ),
    ],
)
def test_regions_of_a_source(three, merge_by, labels, rules, expected, values):
    boxes = {1: slice(2, 4), 2: slice(4, 6), 3: slice(6, 8)}
    cases = {f"case_{n}": (60 + n, boxes) for n in range(5)}
    three.write("Dataset012_More", labels, cases, regions_class_order=[1, 2, 3])
    assert merge_by(rules, "-d", 12) == 0
    assert three.merged.content["labels"] == expected
    assert three.merged.label("case_0")[4, 4, [0, 2, 4, 6]].tolist() == values


def test_draft_knows_the_classes_and_nests_tumours(three, tmp_path):
    three.write("Dataset008_HepaticVessel", {"vessel": 1, "tumor": 2}, {"vessel_0": (70, {1: slice(2, 4)})})
    three.write("Dataset012_Brain", REGIONS, {"brain_0": (71, {})}, regions_class_order=[1, 2, 3])
    for file in (tmp_path / "map.yaml", tmp_path / "map.json"):
        assert cli.main(["merge", "-d", "3", "8", "12", "10", "--write-map", str(file)]) == 0
        content = yaml.safe_load(file.read_text())
        assert content["sources"] == {
            LIVER: {"labels": {"liver": "liver", "liver_tumor": "liver_tumor"}},
            "Dataset008_HepaticVessel": {"labels": {"vessel": "hepatic_vessel", "tumor": "hepatic_vessel_tumor"}},
            "Dataset012_Brain": {"labels": {"inmost": "inmost", "core": "core", "whole": "whole"}},
            "Dataset010_Colon": {"labels": {"colon cancer": "colon cancer"}},
        }
        assert content["nest"].pop("liver")[0] == "liver_tumor"
        assert content["nest"]["whole"] == ["core"]
        assert content["nest"]["core"] == ["inmost"]
    assert json.loads(file.read_text())
    assert three.merge("-d", 3, 8, 12, 10, "--map", file, "--dry-run") == 0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([{"brain_tumor": 1}, {"edema": 1}], [["brain_tumor"], ["edema"]]),  # says what it is: stays
        ([{"brain_tumor": 1}, {"glioma": 1}], [["glioma"], ["glioma"]]),  # one thing by two names
        (
            [{"kidney_left": 1}, {"kidney_left": 1, "kidney_right": 2}],
            [["kidney_left"], ["kidney_left", "kidney_right"]],
        ),
    ],
)
def test_draft_calls_one_label_alike_in_all_sources(three, tmp_path, labels, expected):
    file = tmp_path / "map.json"
    for number, one in enumerate(labels):
        three.write(f"Dataset02{number}_Some", one, {f"case_{number}": (70 + number, {})})
    assert cli.main(["merge", "-d", "20", "21", "--write-map", str(file)]) == 0
    sources = json.loads(file.read_text())["sources"]
    assert [[*entry["labels"].values()] for entry in sources.values()] == expected


def test_draft_nests_a_cyst_too(three, tmp_path):
    """It is no tumour type, but cut out of its organ all the same."""
    three.write("Dataset015_Kidney", {"kidney": 1, "kidney_cyst": 2, "kidney_tumor": 3}, {"more_0": (70, {})})
    assert cli.main(["merge", "-d", "15", "--write-map", str(tmp_path / "map.json")]) == 0
    assert json.loads((tmp_path / "map.json").read_text())["nest"] == {"kidney": ["kidney_cyst", "kidney_tumor"]}


def test_draft_nests_where_another_source_has_two_labels_of_the_tumour(three, tmp_path):
    three.write("Dataset013_Liver", {"liver": 1, "tumor": 2, "cancer": 3}, {"more_0": (70, {})})
    assert cli.main(["merge", "-d", "3", "13", "--write-map", str(tmp_path / "map.json")]) == 0
    assert json.loads((tmp_path / "map.json").read_text())["nest"] == {"liver": ["liver_tumor"]}


def test_draft_keeps_the_names_of_an_earlier_merge_and_of_a_model(three, tmp_path):
    """ "colon cancer" speaks for itself, but the same by another name is there."""
    maps = [tmp_path / f"map_{number}.json" for number in range(3)]
    assert three.merge("-d", 10, "--folds", 2) == 0  # its class is "colon cancer"
    three.write("Dataset014_Colon", {"colon_tumor": 1}, {"more_0": (70, {})})
    model = write_model(tmp_path / "model", {"colon_tumor": 1})
    for file, more in zip(maps, ([], ["-o", "900"], ["--model", str(model)]), strict=True):
        assert cli.main(["merge", "-d", "10", "14", "--write-map", str(file), *more]) == 0
    names = [
        [name for entry in json.loads(file.read_text())["sources"].values() for name in entry["labels"].values()]
        for file in maps
    ]
    assert names == [["colon_tumor"] * 2, ["colon cancer"] * 2, ["colon_tumor"] * 2]


def test_draft_overwrites_nothing(three, tmp_path, capsys):
    (tmp_path / "map.yaml").write_text("mine")
    assert cli.main(["merge", "-d", "3", "--write-map", str(tmp_path / "map.yaml")]) == 2
    assert "is there already; give another name" in capsys.readouterr().err
    assert (tmp_path / "map.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ("[", "is neither YAML nor JSON"),
        ([1], "make it an object"),
        ({"source": {}}, 'has the unknown key "source"; did you mean "sources"?'),
        ({"sources": {"Dataset003_Livre": {}}}, 'which -d does not; did you mean "Dataset003_Liver"?'),
        ({"sources": {3: {}, LIVER: {}}}, f"two entries for {LIVER}"),
        ({"sources": {3: {"label": {}}}}, 'has the unknown key "label"; did you mean "labels"?'),
        ({"sources": {3: {"labels": {"livr": "liver"}}}}, 'is none of its labels; did you mean "liver"?'),
        ({"sources": {3: {"labels": {"liver": False}}}}, "write a name"),
        ({"sources": {3: {"labels": {"liver": "background"}}}}, "write null to drop it"),
        ({"sources": {3: {"labels": {"liver": None, "liver_tumor": None}}}}, f"drops all labels of {LIVER}"),
        (
            {"sources": {3: {"annotated": ["liver_tumour"]}}},
            f'annotated of {LIVER} in the map names "liver_tumour", which is no class; did you mean "liver_tumor"?',
        ),
        ({"sources": {3: {"annotated": []}}}, "list of classes, at least one"),
        (
            {"nest": {"liver": ["tumor"]}},
            'nest in the map names "tumor", which is no class; did you mean "liver_tumor"?',
        ),
        ({"nest": {"liver": ["kidney_tumor"], "liver_tumor": ["kidney_tumor"]}}, "into both"),
        ({"nest": {"liver": ["liver_tumor"], "liver_tumor": ["liver"]}}, "inside of itself"),
        ({"patients": "("}, "no regular expression"),
        ({"patients": "kidney"}, "has 0 groups"),
    ],
)
def test_bad_rules(three, merge_by, capsys, rules, match):
    assert merge_by(rules, "-d", 3, 6) == 2
    assert match in capsys.readouterr().err
    assert not three.merged.folder.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("map.yaml", "sources: {3: {labels: {liver: a, liver: b}}}"),
        ("map.yaml", "nest:\n  liver: [liver_tumor]\n  liver: [kidney_tumor]\n"),
        ("map.json", '{"nest": {"liver": ["liver_tumor"], "liver": ["kidney_tumor"]}}'),
    ],
)
def test_a_key_that_stands_twice(three, tmp_path, capsys, file, content):
    (tmp_path / file).write_text(content)
    assert three.merge("-d", 3, 6, "--map", tmp_path / file) == 2
    assert f'--map {tmp_path / file}: "liver" stands twice in one object' in capsys.readouterr().err


def test_anchors_of_yaml_may_repeat_keys(three, merge_by):
    rules = "sources: {3: &a {labels: {liver: organ}}, 6: {<<: *a, labels: {kidney_tumor: lump}}}"
    assert merge_by(rules, "-d", 3, 6) == 0
    assert list(three.merged.content["labels"]) == ["background", "organ", "liver_tumor", "lump"]


def test_overlapping_classes_need_a_rule(three, merge_by, capsys):
    labels = {"kidney": [1, 2], "tumor": 2}
    three.write("Dataset012_More", labels, {"a": (60, {1: slice(2, 4)})}, regions_class_order=[1, 2])
    assert three.merge("-d", 12, 6) == 2
    error = (
        'classes "kidney" and "tumor" overlap in Dataset012_More without a nesting rule; write nest: {kidney: [tumor]}'
    )
    assert error in capsys.readouterr().err
    three.write("Dataset013_Odd", {"a": [1, 2], "b": [2, 3]}, {"c": (61, {})}, regions_class_order=[1, 2])
    assert three.merge("-d", 13, 6) == 2
    assert '"a" and "b" of Dataset013_Odd overlap in part' in capsys.readouterr().err


def test_one_name_of_two_meanings_is_refused(three, merge_by, capsys):
    for name, seed in (("Dataset012_Lung", 60), ("Dataset013_Pancreas", 61)):
        three.write(name, {"cancer": 1}, {name: (seed, {1: slice(2, 4)})})
    assert three.merge("-d", 12, 13) == 2
    assert (
        '"cancer" is lung_tumor in Dataset012_Lung and pancreas_tumor in Dataset013_Pancreas' in capsys.readouterr().err
    )
    rules = {"sources": {12: {"labels": {"cancer": "lung"}}, 13: {"labels": {"cancer": "pancreas"}}}}
    assert merge_by(rules, "-d", 12, 13, 6) == 0
    assert [*three.merged.content["labels"]] == ["background", "lung", "pancreas", "kidney_tumor"]
    assert KIDNEY in three.merged.content["mastpro"]["merge"]["sources"]


def test_one_name_of_two_prompts_is_refused(three, tmp_path, capsys):
    """What the sources' own prompts say goes before what their names say, in the draft, too."""
    for number, seed, tumor in ((12, 60, "lung tumor"), (13, 61, "sarcoma of a rare kind")):
        prompts = {"prompts": {"cancer": {"tumor": tumor, "organ": "body", "is_tumor": True}}}
        three.write(
            f"Dataset0{number}_Our{number}", {"cancer": 1}, {f"c{number}": (seed, {1: slice(2, 4)})}, mastpro=prompts
        )
    assert three.merge("-d", 12, 13) == 2
    error = capsys.readouterr().err
    assert '"cancer" is lung_tumor in Dataset012_Our12 and sarcoma of a rare kind in Dataset013_Our13' in error
    file = tmp_path / "map.yaml"
    assert cli.main(["merge", "-d", "12", "13", "--write-map", str(file)]) == 0
    maps = yaml.safe_load(file.read_text())["sources"]
    assert [entry["labels"]["cancer"] for entry in maps.values()] == ["lung_tumor", "sarcoma_of_a_rare_kind"]


def test_a_name_that_says_what_it_is_may_have_prompts_in_other_words(three):
    mastpro = {"prompts": {"liver_tumor": {"tumor": "primary tumour of the liver", "organ": "liver", "is_tumor": True}}}
    three.write("Dataset012_More", {"liver_tumor": 1}, {"c": (60, {1: slice(2, 4)})}, mastpro=mastpro)
    rules = "nest: {liver: [liver_tumor]}"
    path = three.raw.parent / "map.yaml"
    path.write_text(rules)
    assert three.merge("-d", 3, 12, "--map", path) == 0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            {"patients": "^([A-Z0-9]+-[0-9]+)"},
            "\"patients\" in the map, '^([A-Z0-9]+-[0-9]+)', finds no patient in cases such as",
        ),
        ({"sources": {LIVER: {"patients": "^kidney_(.)"}}}, f'"patients" of {LIVER} in the map'),
    ],
)
def test_an_expression_that_finds_no_patient_is_refused(three, capsys, content, match):
    path = three.raw.parent / "map.json"
    path.write_text(json.dumps(content))
    check_refused(three, capsys, ["-d", 3, 6, "--map", path], match)

"""mastpro.cases of dataset.json."""

from types import SimpleNamespace

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.tasks import NO_SOURCE, nesting, read_cases, with_cases

LABELS = ("liver", "liver_tumor", "kidney_tumor")


def dataset(cases) -> dict:
    return {"mastpro": {"cases": cases}}


def test_annotated_classes_follow_the_labels_order():
    cases = read_cases(dataset({"a": {"source": "Dataset003_Liver", "annotated": ["liver_tumor", "liver"]}}), LABELS)
    assert cases.annotated_in("a") == (True, True, False)
    assert cases.source_of("a") == "Dataset003_Liver"
    assert cases.partial


@pytest.mark.parametrize("content", [{}, {"mastpro": {}}, dataset({}), dataset({"b": {"annotated": list(LABELS)}})])
def test_unnamed_cases_annotate_everything(content):
    cases = read_cases(content, LABELS)
    assert cases.annotated_in("a") == (True, True, True)
    assert cases.source_of("a") == NO_SOURCE
    assert not cases.partial


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dataset([]), "make it an object, one entry per case"),
        (dataset({"a": ["liver"]}), 'mastpro.cases\\["a"\\] .* make it an object'),
        (dataset({"a": {"anotated": ["liver"]}}), 'unknown key "anotated"; did you mean "annotated"'),
        (dataset({"a": {"annotated": ["liver_tumour"]}}), 'is no class .* did you mean "liver_tumor"'),
        (dataset({"a": {"annotated": ["spleen"]}}), "Known: liver, liver_tumor, kidney_tumor"),
        (dataset({"a": {"annotated": []}}), "at least one"),
        (dataset({"a": {"annotated": "liver"}}), "list the classes"),
        (dataset({"a": {"source": 3}}), "name of a data set"),
    ],
)
def test_bad_sections(content, message):
    with pytest.raises(MASTProError, match=message):
        read_cases(content, LABELS)


def test_nesting_is_a_tumour_in_its_host():
    def entry(is_tumor, *hosts):
        return SimpleNamespace(is_tumor=is_tumor, host_structures=hosts)

    classes = [entry(False, "liver"), entry(True, "liver"), entry(True, "kidney_left", "kidney_right"), entry(True)]
    assert nesting(classes) == [[False] * 4, [True, False, False, False], [False] * 4, [False] * 4]


def test_unnamed_cases_are_presumed_complete_where_others_are_not():
    section = {"a": {"annotated": ["liver"]}, "b": {"source": "One"}}
    cases = read_cases({"mastpro": {"cases": section}}, ["liver", "liver_tumor"])
    assert [cases.presumed(name) for name in ("a", "b", "test_1")] == [False, False, True]
    assert not read_cases({"mastpro": {"cases": {"b": {"source": "One"}}}}, ["liver"]).presumed("test_1")


def test_a_file_says_more_of_cases(tmp_path):
    labels = {"background": 0, "liver": 1, "liver_tumor": 2}
    content = {"labels": labels, "mastpro": {"cases": {"a": {"annotated": ["liver"]}}}}
    file = tmp_path / "cases.json"
    file.write_text('{"test_1": {"annotated": ["liver_tumor"]}}')
    cases = read_cases(with_cases(content, file), ["liver", "liver_tumor"])
    assert cases.annotated == {"a": ("liver",), "test_1": ("liver_tumor",)}
    assert [*content["mastpro"]["cases"]] == ["a"]
    assert with_cases(content) == content
    for text, message in (("{", "cannot be read as JSON"), ("[]", "is no object; write")):
        file.write_text(text)
        with pytest.raises(MASTProError, match=message):
            with_cases(content, file)

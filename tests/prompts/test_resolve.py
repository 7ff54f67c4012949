"""Labels to prompts: order, precedence, modality, and every way to get the section wrong."""

import json
import subprocess
import sys
import warnings

import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts.knowledge_base import tumors
from nnunetv2_mastpro.prompts.resolve import (
    foreground_labels,
    looks_like_tumor,
    modality_of,
    resolve_prompts,
    resolve_with_entries,
)

FULL = {"tumor": "elbow sarcoma", "organ": "elbow", "shape": "oval", "edge": "smooth", "modality": "ultrasound"}


def dataset(*labels, prompts=None, channels=("CT",), **rest):
    content = {"channel_names": {str(i): name for i, name in enumerate(channels)}}
    content["labels"] = {"background": 0, **{label: i + 1 for i, label in enumerate(labels)}}
    if prompts is not None:
        content["mastpro"] = {"prompts": prompts}
    return {**content, **rest}


def test_import_is_light():
    code = "import sys, nnunetv2_mastpro.prompts.resolve; print({'torch', 'sentence_transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_known_labels_need_no_section():
    liver, tumor = resolve_prompts(dataset("liver", "liver_tumour"))
    assert liver.sentence.startswith("This is the normal liver")
    assert (liver.is_tumor, liver.origin) == (False, "knowledge base (liver)")
    assert tumor.label == "liver_tumour"
    assert tumor.sentence == tumors()["liver_tumor"].sentence("CT")
    assert (tumor.is_tumor, tumor.host_structures) == (True, ("liver",))
    assert tumor.origin == "knowledge base (liver_tumor)"


LABEL_ORDERS = [
    {"background": 0, "b": 2, "a": 1},
    {"background": 0, "b": [2], "a": "1", "ignore": 3},
    {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3},
    {"background": 0, "tip": 3, "whole": [1, 2, 3], "core": [3, 2], "ignore": 4},
    {"tip": 2, "whole": [2, 1], "background": 0},
]


@pytest.mark.parametrize("labels", LABEL_ORDERS)
def test_order_is_the_label_managers(labels):
    label_handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    regions = sum(1 for name in labels if name not in ("background", "ignore"))
    manager = label_handling.LabelManager(labels, list(range(1, regions + 1)))
    mine = foreground_labels({"labels": labels})
    if manager.has_regions:
        assert [tuple(v) if isinstance(v, list) else v for v in (labels[name] for name in mine)] == manager.all_regions
    else:
        values = [labels[name][0] if isinstance(labels[name], list) else int(labels[name]) for name in mine]
        assert values == manager.foreground_labels
    assert len(mine) == (manager.num_segmentation_heads if manager.has_regions else manager.num_segmentation_heads - 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, 'has no "labels" object'),
        ({"background": 0}, "no label besides background"),
        ({"background": 0, "liver": "one"}, "label \"liver\" .* value 'one'; make it an integer"),
        ({"background": 0, "liver": []}, 'label "liver"'),
        ({"background": 0, "liver": None}, 'label "liver"'),
        ({"background": 0, "liver": 1, "spleen": 1}, "share a value"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(MASTProError, match=message):
        resolve_prompts({"labels": labels, "channel_names": {"0": "CT"}})


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (["CT"], "CT"),
        (["ct_portal"], "CT"),
        (["CECT"], "CT"),
        (["T1", "T2", "FLAIR"], "MRI"),
        (["T1w", "T1gd"], "MRI"),
        (["ADC"], "MRI"),
        (["MRI"], "MRI"),
        (["PET", "CT"], "PET/CT"),
        (["CT", "SUV"], "PET/CT"),
        (["PET"], "PET"),
        (["0000"], ""),
        (["noNorm"], ""),
        (["distance"], ""),
    ],
)
def test_modality_follows_channels(channels, expected):
    assert modality_of(dataset("liver", channels=channels)) == expected


def test_modality_of_unknown_channels_is_the_entrys_own():
    (prompt,) = resolve_prompts(dataset("prostate_tumor", channels=["noNorm"]))
    assert prompt.sentence.endswith("on multiparametric MRI.")
    with pytest.raises(MASTProError, match='"channel_names" in dataset.json is no object'):
        resolve_prompts({**dataset("liver"), "channel_names": ["CT"]})


def test_unknown_label_gets_a_plain_sentence_and_a_warning():
    with pytest.warns(
        UserWarning, match=r'"elbow_tumour" is not in the knowledge base.*mastpro.prompts\["elbow_tumour"\]'
    ):
        (prompt,) = resolve_prompts(dataset("elbow_tumour"))
    assert prompt.sentence == "This is an elbow tumour on CT."
    assert (prompt.is_tumor, prompt.host_structures, prompt.origin) == (True, (), "label name only")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        *[(f"elbow {word}", True) for word in ("tumour", "Tumors", "cancer", "carcinoma", "lesions", "metastases")],
        *[(f"elbow_{word}", True) for word in ("sarcoma", "glioma", "masses", "GTV", "GTVp", "mets")],
        ("elbow", False),
        ("massive", False),
        ("metal", False),
    ],
)
def test_tumor_is_guessed_from_words(label, expected):
    assert looks_like_tumor(label) is expected


def test_full_entry_wins_over_knowledge_and_channels():
    entry = {**FULL, "is_tumor": False, "host_structures": ["humerus_left"]}
    (prompt,) = resolve_prompts(dataset("liver_tumor", prompts={"liver_tumor": entry}))
    assert (
        prompt.sentence
        == "This is an elbow sarcoma in the elbow, appearing as an oval mass with smooth borders on ultrasound."
    )
    assert (prompt.is_tumor, prompt.host_structures, prompt.origin) == (False, ("humerus_left",), "dataset.json")


def test_partial_entry_takes_the_rest_from_the_knowledge_base():
    (prompt,) = resolve_prompts(dataset("liver_tumor", prompts={"liver_tumor": {"edge": " spiky "}}))
    expected = tumors()["liver_tumor"].sentence("CT").replace("ill-defined", "spiky")
    assert (prompt.sentence, prompt.is_tumor, prompt.host_structures) == (expected, True, ("liver",))


def test_entry_of_an_unknown_tumor_takes_hosts_from_its_organ():
    entry = {key: FULL[key] for key in ("tumor", "shape", "edge")}
    (prompt,) = resolve_prompts(dataset("strange", prompts={"strange": {**entry, "organ": "liver"}}))
    assert (prompt.is_tumor, prompt.host_structures) == (True, ("liver",))
    (moved,) = resolve_prompts(dataset("liver_tumor", prompts={"liver_tumor": {"organ": "spleen"}}))
    assert moved.host_structures == ("spleen",)


def test_organ_needs_only_its_name():
    (prompt,) = resolve_prompts(dataset("septum", prompts={"septum": {"organ": "nasal septum"}}))
    assert (prompt.sentence, prompt.is_tumor) == ("This is the normal nasal septum on CT.", False)


def test_whole_sentence():
    entry = {"sentence": "A thing.", "is_tumor": True, "host_structures": ["brain"]}
    prompts = resolve_prompts(
        dataset("thing", "liver_tumor", prompts={"thing": entry, "liver_tumor": {"sentence": "Bad."}})
    )
    assert [(p.sentence, p.is_tumor, p.host_structures) for p in prompts] == [
        ("A thing.", True, ("brain",)),
        ("Bad.", True, ("liver",)),
    ]


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({"tumor": "x"}, "organ, shape, edge,"),
        ({"is_tumor": True, "organ": "elbow"}, "tumor, shape, edge,"),
        ({"shape": "oval"}, "organ,"),
        ({}, "organ,"),
    ],
)
def test_partial_entry_of_an_unknown_label(entry, missing):
    with pytest.raises(MASTProError, match=rf'mastpro.prompts\["strange"\] in dataset.json lacks {missing} and the'):
        resolve_prompts(dataset("strange", prompts={"strange": entry}))


def test_missing_modality_is_named():
    entry = {key: FULL[key] for key in ("tumor", "organ", "shape", "edge")}
    with pytest.raises(MASTProError, match="lacks modality, and"):
        resolve_prompts(dataset("strange", prompts={"strange": entry}, channels=["noNorm"]))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"liver": {"shap": "oval"}}, 'unknown key "shap"; did you mean "shape"'),
        ({"liver": {"zzz": "oval"}}, 'unknown key "zzz"; use keys among tumor, organ'),
        ({"livr": {"shape": "oval"}}, 'names "livr", which is none of its labels; did you mean "liver"'),
        ({"qqq": {}}, 'names "qqq", which is none of its labels; use one of liver'),
        ({"background": {"organ": "air"}}, '"background", which takes no prompt'),
        ({"liver": {"shape": ""}}, '"shape" is empty; fill it in'),
        ({"liver": {"shape": "  "}}, '"shape" is empty'),
        ({"liver": {"sentence": ""}}, '"sentence" is empty'),
        ({"liver": {"shape": 3}}, '"shape" is the number 3; make it a text'),
        ({"liver": {"shape": None}}, '"shape" is null'),
        ({"liver": {"is_tumor": "no"}}, '"is_tumor" is a text; make it true or false'),
        ({"liver": {"host_structures": "liver"}}, "\"host_structures\" is 'liver'; make it a list"),
        ({"liver": {"host_structures": [""]}}, '"host_structures" is'),
        ({"liver": {"sentence": "A.", "edge": "smooth"}}, 'both "sentence" and "edge"'),
        ({"liver": "a liver"}, "is a text; make it an object"),
        (["liver"], "mastpro.prompts in dataset.json is a list"),
    ],
)
def test_bad_section(prompts, message):
    with pytest.raises(MASTProError, match=message):
        resolve_prompts(dataset("liver", prompts=prompts))


@pytest.mark.parametrize(
    ("mastpro", "message"),
    [
        ([], "is a list"),
        ({"promts": {}}, 'unknown key "promts"; did you mean "prompts"?'),
        ({"Case": {}}, 'unknown key "Case"; did you mean "cases"?'),
        ({"annotated": {}}, 'unknown key "annotated"; use prompts and cases'),
    ],
)
def test_bad_mastpro_object(mastpro, message):
    with pytest.raises(MASTProError, match=message):
        resolve_prompts({**dataset("liver"), "mastpro": mastpro})


def test_other_keys_of_the_mastpro_object_are_left_alone():
    assert resolve_prompts({**dataset("liver"), "mastpro": {"cases": {}}})[0].origin == "knowledge base (liver)"


def test_two_labels_never_share_a_sentence():
    with pytest.warns(UserWarning, match="shares the knowledge base") as caught:
        tumor, cancer = resolve_prompts(dataset("liver_tumor", "liver_cancer"))
    assert len(caught) == 2
    assert "a liver cancer in the liver" in cancer.sentence
    assert tumor.sentence != cancer.sentence
    assert (cancer.is_tumor, cancer.host_structures) == (True, ("liver",))
    same = {label: {"sentence": "One."} for label in ("liver", "spleen")}
    with pytest.raises(MASTProError, match='labels "liver" and "spleen" have the same sentence'):
        resolve_prompts(dataset("liver", "spleen", prompts=same))


def test_written_entries_resolve_to_the_same_prompts():
    content = dataset("liver", "cancer", "strange_lesion", "liver_tumor", name="Liver", channels=["T1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resolved = resolve_with_entries(content)
    section = json.loads(json.dumps({prompt.label: entry for prompt, entry in resolved}))
    again = resolve_prompts({**content, "mastpro": {"prompts": section}})
    fields = [(p.label, p.sentence, p.is_tumor, p.host_structures) for p, _ in resolved]
    assert [(p.label, p.sentence, p.is_tumor, p.host_structures) for p in again] == fields
    assert {p.origin for p in again} == {"dataset.json"}


def test_the_folder_tells_whose_cancer_it_is_where_dataset_json_has_another_name():
    dataset_json = {"name": "my best set", "labels": {"background": 0, "cancer": 1}, "channel_names": {"0": "CT"}}
    (prompt,) = resolve_prompts(dataset_json, "Dataset010_Colon")
    assert prompt.origin == "knowledge base (colon_tumor)"

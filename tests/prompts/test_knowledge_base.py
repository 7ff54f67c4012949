"""The knowledge base as data: complete, unambiguous, and true to the installed TotalSegmentator."""

import json
import re
from collections import Counter

import pytest

from nnunetv2_mastpro.prompts.knowledge_base import (
    KNOWLEDGE_FOLDER,
    MODALITIES,
    compact,
    find,
    find_organ,
    organs,
    sentences,
    tumors,
)

ENTRIES = [*tumors().values(), *organs().values()]
ONE_MODALITY_ONLY = re.compile(r"hypo(in|at)tens|hyper(in|at)tens|attenuating|\bT[12]\b|FLAIR|FDG|echo", re.IGNORECASE)
FIRST_OF_THE_PAPER = (
    "liver_tumor",
    "hepatic_vessel_tumor",
    "lung_tumor",
    "pancreas_tumor",
    "colon_tumor",
    "kidney_tumor",
)


def test_breadth():
    assert sum(entry.is_tumor for entry in tumors().values()) >= 36
    assert len(organs()) >= 30
    assert set(FIRST_OF_THE_PAPER) <= set(tumors())
    assert not tumors()["kidney_cyst"].is_tumor


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_complete(entry):
    assert entry.organ
    assert entry.shape
    assert entry.edge
    assert entry.modality
    assert bool(entry.host_structures) != bool(entry.host_reason), "hosts, or the reason why there are none"
    if entry.name in tumors():
        assert entry.tumor
        assert re.search(r"\b(19|20)\d\d\b", entry.reference), "a reference with its year"
    else:
        assert not entry.tumor
        assert not entry.is_tumor


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_descriptors_hold_on_every_modality(entry):
    assert not ONE_MODALITY_ONLY.search(f"{entry.shape} {entry.edge}")


def test_hosts_exist_in_totalsegmentator():
    class_map = pytest.importorskip("totalsegmentator.map_to_binary").class_map
    unknown = []
    for entry in ENTRIES:
        for host in entry.host_structures:
            task, _, structure = host.rpartition(":")
            if structure not in class_map.get(task or "total", {}).values():
                unknown.append((entry.name, host))
    assert unknown == []


def test_no_name_leads_to_two_entries():
    counts = Counter(name for entry in ENTRIES for name in entry.names())
    assert [name for name, count in counts.items() if count > 1] == []


def test_generic_table_points_at_entries():
    generic = json.loads((KNOWLEDGE_FOLDER / "generic.json").read_text())
    known = {**organs(), **tumors()}
    for fields in generic["organs"].values():
        targets = {kind: target for kind, target in fields.items() if kind != "words"}
        assert set(targets) <= set(generic["labels"])
        assert set(targets.values()) <= set(known)
    own_names = {name for entry in ENTRIES for name in entry.names()}
    generic_names = {compact(name) for names in generic["labels"].values() for name in names}
    assert not own_names & generic_names


def test_no_two_entries_share_a_sentence():
    for modality in MODALITIES:
        said = Counter(entry.sentence(modality) for entry in ENTRIES)
        assert max(said.values()) == 1
    assert len(sentences()) == len(set(sentences()))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("liver_tumor", "liver_tumor"),
        ("Liver Tumours", "liver_tumor"),
        ("liver-tumour", "liver_tumor"),
        ("LiverTumor", "liver_tumor"),
        ("HCC", "hepatocellular_carcinoma"),
        ("Liver_Metastases", "liver_metastasis"),
        ("colon cancer primaries", "colon_tumor"),  # MSD
        ("oesophageal tumour", "esophageal_cancer"),
        ("oesophagus", "esophagus"),
        ("gall bladder", "gallbladder"),  # AMOS
        ("postcava", "inferior_vena_cava"),  # AMOS
        ("right kidney", "kidney_right"),  # FLARE
        ("kidney_right", "kidney_right"),  # TotalSegmentator
        ("RAG", "adrenal_gland_right"),  # FLARE
        ("non-enhancing tumor", "non_enhancing_tumor"),  # MSD
        ("enhancing tumour", "enhancing_tumor"),  # MSD
        ("PZ", "prostate_peripheral_zone"),  # MSD
        ("soft_tissue_sarcoma", "soft_tissue_sarcoma"),
        ("GTVn", "lymph_node_metastasis"),  # HECKTOR
        ("ovaries", "ovary"),
        ("vertebrae", "vertebra"),
    ],
)
def test_find_by_normalised_name(label, expected):
    assert find(label).name == expected


@pytest.mark.parametrize(
    ("label", "dataset_name", "expected"),
    [
        ("cancer", "Dataset003_Liver", "liver_tumor"),
        ("tumor", "LiTS", "liver_tumor"),
        ("tumor", "KiTS2023", "kidney_tumor"),
        ("masses", "KiTS2023", "kidney_mass"),
        ("cyst", "Dataset220_KiTS2023", "kidney_cyst"),
        ("Tumour", "HepaticVessel", "hepatic_vessel_tumor"),
        ("Vessel", "HepaticVessel", "hepatic_vessel"),
        ("cancer", "Dataset007_Pancreas", "pancreas_tumor"),
        ("edema", "BrainTumour", "peritumoral_edema"),
        ("GTVp", "HNTSMRG", None),
        ("GTVp", "HECKTOR", "head_neck_tumor"),
        ("tumor", "LiverKidney", None),
        ("tumor", "", None),
        ("tumor", "FLARE23", None),
        ("tumor", "Colonoscopy", None),
        ("spot", "Liver", None),
        ("nodules", "Dataset601_LungNodules", "lung_nodule"),
        ("nodule", "Thyroid", "thyroid_tumor"),
    ],
)
def test_dataset_name_helps_generic_labels_only(label, dataset_name, expected):
    found = find(label, dataset_name=dataset_name)
    assert (found.name if found else None) == expected


def test_label_set_tells_anterior_and_posterior():
    assert find("anterior", ("anterior", "posterior")).name == "hippocampus_anterior"
    assert find("Posterior", ("Anterior", "Posterior")).name == "hippocampus_posterior"
    assert find("anterior") is None
    assert find("anterior", ("anterior", "posterior", "liver")) is None


def test_find_organ_finds_organs_only():
    assert find_organ("the Liver").name == "liver"
    assert find_organ("adrenal glands").name == "adrenal_gland"
    assert find_organ("liver tumor") is None
    assert find_organ("elbow") is None

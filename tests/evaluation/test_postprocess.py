"""Which components go, against loops over voxels, and what takes their place."""

import itertools

import numpy as np
import pytest

from nnunetv2_mastpro.config import ClassSpec, HostValue, Resolved
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.evaluation.postprocess import Removed, TumorType, remove_outside_hosts, tumor_types

SPACING_MM = (5.0, 1.0, 2.0)
LIVER = TumorType("liver_tumor", values=(1,), host_values=(1,))
OTHERS = TumorType("kidney_tumor", values=(2,), host_values=(2, 3))
EMPTY = np.zeros((6, 30, 20), np.int32)


def loop_components(mask):
    """Sets of voxels that are joined by faces, edges or corners."""
    left = set(map(tuple, np.argwhere(mask)))
    while left:
        found = stack = [left.pop()]
        found = set(found)
        while stack:
            voxel = stack.pop()
            near = {tuple(np.add(voxel, step)) for step in itertools.product((-1, 0, 1), repeat=3)} & left
            left -= near
            found |= near
            stack += near
        yield found


def loop_remove(segmentation, host_map, tumors, spacing_mm, margin_mm):
    cleaned, counts = segmentation.copy(), {}
    for tumor in tumors:
        host = np.argwhere(np.isin(host_map, tumor.host_values)) * spacing_mm
        counts[tumor.label] = [0, 0]
        for component in loop_components(np.isin(segmentation, tumor.values)):
            distances_mm = [np.linalg.norm(host - np.multiply(voxel, spacing_mm), axis=1) for voxel in component]
            if np.min(distances_mm) > margin_mm:
                cleaned[tuple(np.transpose(list(component)))] = 0
                counts[tumor.label][0] += 1
                counts[tumor.label][1] += len(component)
    return cleaned, counts


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.8, 1.5), (0.7, 3.0, 3.0)])
@pytest.mark.parametrize("margin_mm", [0.0, 1.0, 3.1, 10.0])
def test_against_loops(spacing_mm, margin_mm):
    rng = np.random.default_rng(7)
    segmentation = rng.choice([0, 1, 2], size=(7, 20, 18), p=[0.97, 0.015, 0.015]).astype(np.int32)
    host_map = np.zeros_like(segmentation)
    host_map[1:3, 2:6, 1:5], host_map[5:, 10:13, 14:], host_map[0, 0, 17] = 1, 2, 3
    cleaned, removed = remove_outside_hosts(segmentation, host_map, [LIVER, OTHERS], spacing_mm, margin_mm)
    expected, counts = loop_remove(segmentation, host_map, [LIVER, OTHERS], spacing_mm, margin_mm)
    np.testing.assert_array_equal(cleaned, expected)
    assert {label: [entry.components, entry.voxels] for label, entry in removed.items()} == counts
    assert (cleaned != segmentation).any()
    again, none = remove_outside_hosts(cleaned, host_map, [LIVER, OTHERS], spacing_mm, margin_mm)
    np.testing.assert_array_equal(again, cleaned)
    assert not any(entry.components for entry in none.values())


@pytest.fixture
def case():
    """A lesion in the organ, one that only the margin reaches, two apart from it; the other class has no organ."""
    segmentation, host_map = EMPTY.copy(), EMPTY.copy()
    host_map[0:2, 0:10, 0:10] = 1
    segmentation[0, 2:5, 2:5] = 1  # inside
    segmentation[3, 0:2, 0:2] = 1  # 10 mm above
    segmentation[0, 25, 0] = 1  # 16 mm beside
    segmentation[5, 8:10, 0:3] = 1  # 20 mm above
    segmentation[5, 28:, 15:] = 2
    return segmentation, host_map


def test_margin_is_millimetres_by_axis(case):
    segmentation, host_map = case
    expected = segmentation.copy()
    expected[0, 25, 0] = 0
    expected[5, 8:10, 0:3] = 0
    cleaned, removed = remove_outside_hosts(segmentation, host_map, [LIVER], SPACING_MM, 10.0)
    np.testing.assert_array_equal(cleaned, expected)
    assert removed == {"liver_tumor": Removed(components=2, voxels=7, ml=0.07, host_voxels=200)}
    expected[3, 0:2, 0:2] = 0
    np.testing.assert_array_equal(remove_outside_hosts(segmentation, host_map, [LIVER], SPACING_MM, 9.9)[0], expected)
    np.testing.assert_array_equal(
        remove_outside_hosts(segmentation, host_map, [LIVER], SPACING_MM, 99)[0], segmentation
    )


def test_component_that_leaves_the_organ_stays_whole():
    segmentation, host_map = EMPTY.copy(), EMPTY.copy()
    host_map[0, 0, 0] = 1
    segmentation[0, :, 0] = 1
    cleaned, _ = remove_outside_hosts(segmentation, host_map, [LIVER], SPACING_MM, 0)
    np.testing.assert_array_equal(cleaned, segmentation)


def test_class_without_host_stays(case):
    segmentation, host_map = case
    alone = TumorType("kidney_tumor", values=(2,), host_values=())
    cleaned, removed = remove_outside_hosts(segmentation, host_map, [LIVER, alone], SPACING_MM, 10)
    assert list(removed) == ["liver_tumor"]
    np.testing.assert_array_equal(cleaned == 2, segmentation == 2)


def test_empty_map_is_unknown_and_one_empty_host_is_absent(case):
    segmentation, host_map = case
    cleaned, removed = remove_outside_hosts(segmentation, EMPTY, [LIVER, OTHERS], SPACING_MM, 10)
    np.testing.assert_array_equal(cleaned, segmentation)
    assert removed == {}
    cleaned, removed = remove_outside_hosts(segmentation, host_map, [OTHERS], SPACING_MM, 10)
    assert removed["kidney_tumor"] == Removed(components=1, voxels=10, ml=0.1, host_voxels=0)
    np.testing.assert_array_equal(cleaned, np.where(segmentation == 2, 0, segmentation))


def test_input_is_left_alone(case):
    before = [array.copy() for array in case]
    remove_outside_hosts(*case, [LIVER], SPACING_MM, 10)
    np.testing.assert_array_equal(case, before)


def regions(**more):
    """kidney [1, 2, 3] with a host, tumor [2, 3] with the same, core 3 of it without."""
    labels = {"background": 0, "kidney": [1, 2, 3], "tumor": [2, 3], "core": 3, "ignore": 4}
    classes = tuple(ClassSpec(label, label, label != "kidney") for label in ("kidney", "tumor", "core"))
    hosts = (HostValue(value=1, channel=0, structures=("kidney",), classes=(0, 1)),)
    resolved = Resolved(classes, embedding_dim=1, has_background=False, hosts=hosts)
    return tumor_types(resolved, {"labels": labels, "regions_class_order": [1, 2, 3], **more})


def test_regions_know_what_encloses_them():
    assert regions() == (
        TumorType("tumor", (2, 3), host_values=(1,), enclosing=(((1, 2, 3), 1),)),
        TumorType("core", (3,), host_values=(), enclosing=(((2, 3), 2), ((1, 2, 3), 1))),
    )


def test_region_goes_with_what_it_holds_and_leaves_what_encloses_it():
    segmentation, host_map = EMPTY.copy(), EMPTY.copy()
    host_map[0, 0:3, 0:3] = 1
    segmentation[0, 0:9, 0:5] = 1  # kidney that the map lacks for the most part
    segmentation[0, 7, 1:4], segmentation[0, 7, 2] = 2, 3  # tumour in it, 4 mm from the map's kidney
    segmentation[0, 1, 1] = 3  # in the map's kidney
    segmentation[4, 20:25, 10], segmentation[4, 22, 10] = 2, 3  # far from all
    expected = segmentation.copy()
    expected[0, 7, 1:4] = 1
    expected[4, 20:25, 10] = 0
    cleaned, removed = remove_outside_hosts(segmentation, host_map, regions(), SPACING_MM, 3)
    np.testing.assert_array_equal(cleaned, expected)
    assert removed == {"tumor": Removed(components=2, voxels=8, ml=0.08, host_voxels=9)}
    np.testing.assert_array_equal(remove_outside_hosts(cleaned, host_map, regions(), SPACING_MM, 3)[0], cleaned)


@pytest.mark.parametrize("margin_mm", [0, 3])
def test_inmost_region_that_goes_on_takes_over(margin_mm):
    segmentation, host_map = EMPTY.copy(), EMPTY.copy()
    host_map[0, 0, 0] = 1
    segmentation[3, 10:15, 10:15], segmentation[3, 12, 12] = 2, 3
    segmentation[5, 0:5, 0:5], segmentation[5, 2, 2] = 1, 3
    core = TumorType("core", (3,), host_values=(1,), enclosing=(((2, 3), 2), ((1, 2, 3), 1)))
    expected = segmentation.copy()
    expected[3, 12, 12], expected[5, 2, 2] = 2, 1
    cleaned, _ = remove_outside_hosts(segmentation, host_map, [core], SPACING_MM, margin_mm)
    np.testing.assert_array_equal(cleaned, expected)


def test_model_and_dataset_json_must_agree():
    with pytest.raises(MASTProError, match="has the classes tumor, core, dataset.json has not"):
        regions(labels={"background": 0, "kidney": 1})

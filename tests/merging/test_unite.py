"""What becomes of a voxel that two sources label."""

import itertools

import numpy as np
import pytest

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.merging.classes import Classes
from nnunetv2_mastpro.merging.unite import decide, unite

from .conftest import SHAPE, check_refused, write
from .test_duplicates import SAME

LIVER, TUMOR, SPLEEN, IGNORE = 1, 2, 3, 4
CLASSES = Classes({"liver": LIVER, "tumor": TUMOR, "spleen": SPLEEN}, {"tumor": "liver"}, {}, {}, IGNORE)
NAMES = ["a of A", "b of B", "c of C"]


@pytest.mark.parametrize(
    ("one", "two", "known_one", "known_two", "expected"),
    [
        (0, LIVER, "liver", "liver", 0),  # both annotate it: the first decides
        (LIVER, 0, "liver", "liver", LIVER),
        (0, LIVER, "spleen", "liver", LIVER),  # background says nothing of other classes
        (LIVER, 0, "liver", "spleen", LIVER),
        (0, TUMOR, "liver", "tumor", TUMOR),  # an organ's label leaves its tumour out
        (0, TUMOR, "tumor", "liver tumor", LIVER),  # no tumour says the first, and the second knows the liver
        (0, TUMOR, "tumor", "tumor", 0),
        (0, TUMOR, "liver tumor", "liver tumor", 0),
        (LIVER, TUMOR, "liver", "liver tumor", TUMOR),
        (LIVER, TUMOR, "liver tumor", "tumor", LIVER),
        (TUMOR, LIVER, "tumor", "liver tumor", TUMOR),
        (TUMOR, LIVER, "liver", "liver tumor", LIVER),  # said without looking for it, and the second looked
        (TUMOR, 0, "liver", "tumor", LIVER),
        (SPLEEN, 0, "liver", "spleen", 0),
        (SPLEEN, 0, "liver", "tumor", SPLEEN),  # as good as nobody looked
        (0, SPLEEN, "spleen", "liver", 0),
        (LIVER, SPLEEN, "liver", "spleen", LIVER),
        (TUMOR, SPLEEN, "tumor", "spleen", TUMOR),
        (LIVER, SPLEEN, "liver spleen", "liver spleen", LIVER),
        (LIVER, SPLEEN, "tumor", "spleen", SPLEEN),
        (LIVER, IGNORE, "liver", "liver", LIVER),
        (IGNORE, SPLEEN, "liver", "spleen", SPLEEN),
        (IGNORE, 0, "liver", "liver spleen", 0),
        (IGNORE, 0, "liver spleen", "liver", IGNORE),
        (0, IGNORE, "spleen", "liver", IGNORE),
        (0, IGNORE, "liver", "liver", 0),
    ],
)
def test_who_decides(one, two, known_one, known_two, expected):
    known = set(known_one.split()), set(known_two.split())
    assert decide(one, two, *known, CLASSES) == expected


def test_whole_labels_as_voxel_by_voxel():
    rng = np.random.default_rng(0)
    labels = [
        rng.choice([0, LIVER, TUMOR, IGNORE], (4, 5, 6)).astype(dtype) for dtype in (np.uint8, np.uint8, np.uint16)
    ]
    known = [("tumor",), ("liver",), ("liver", "tumor")]
    expected = np.zeros((4, 5, 6), np.uint16)
    for place in np.ndindex(expected.shape):
        value, so_far = int(labels[0][place]), set(known[0])
        for label, more in itertools.islice(zip(labels, known, strict=True), 1, None):
            value = decide(value, int(label[place]), so_far, set(more), CLASSES)
            so_far |= set(more)
        expected[place] = value
    united, disputed = unite(labels, known, CLASSES, NAMES)
    np.testing.assert_array_equal(united, expected)
    assert (united.dtype, disputed) == (np.uint16, 0)


def lines(overlap):
    """A liver of 60 voxels, and a spleen of 40 of which some are in it."""
    liver, spleen = np.zeros((1, 1, 100), np.uint8), np.zeros((1, 1, 100), np.uint8)
    liver[..., :60] = LIVER
    spleen[..., 60 - overlap : 100 - overlap] = SPLEEN
    return [liver, spleen]


def test_a_stray_boundary_is_counted():
    united, disputed = unite(lines(2), [("liver",), ("spleen",)], CLASSES, NAMES[:2])
    assert disputed == 2
    np.testing.assert_array_equal(united, [[[LIVER] * 60 + [SPLEEN] * 38 + [0] * 2]])
    assert unite(lines(2)[::-1], [("spleen",), ("liver",)], CLASSES, NAMES[:2])[0][0, 0, 58] == SPLEEN


def test_more_than_a_boundary_is_refused():
    with pytest.raises(MASTProError, match='"liver" and "spleen": 3, more than 5% of the smaller one\'s 40; nest one'):
        unite(lines(3), [("liver",), ("spleen",)], CLASSES, NAMES[:2])


def test_one_voxel_is_never_too_many():
    small = np.zeros((1, 1, 100), np.uint8)
    small[..., 59:62] = SPLEEN
    assert unite([lines(0)[0], small], [("liver",), ("spleen",)], CLASSES, NAMES[:2])[1] == 1


def test_labels_of_two_shapes():
    with pytest.raises(MASTProError, match="a of A and b of B are one, their labels differ in shape"):
        unite([np.zeros((1, 2, 3)), np.zeros((1, 2, 4))], [("liver",), ("liver",)], CLASSES, NAMES[:2])


def test_the_first_source_decides_in_a_merge(three):
    boxes = {1: slice(2, 4), 2: slice(10, 12)}
    three.write(SAME, {"liver": 1, "spleen": 2}, {"s1": (1, boxes)})
    assert three.merge("-d", 3, 12) == 0
    assert three.merged.label("liver_1")[4, 4].tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 2, 2, 3, 3, 0, 0]
    assert three.merge("-d", 12, 3, output="901", name="Reverse") == 0
    reverse = type(three.merged)(three.raw / "Dataset901_Reverse")
    assert reverse.label("s1")[4, 4].tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 3, 3, 2, 2, 0, 0]


def test_stray_voxels_are_told(three, capsys):
    folder, spleen = three.write(SAME, {"spleen": 1}, {"s1": (1, {})}), np.zeros(SHAPE, np.uint8)
    spleen[2:8, 2:8, 10:12] = spleen[4, 4, 5] = 1
    write(spleen, folder / "labelsTr" / "s1.nii.gz")
    assert three.merge("-d", 3, 12) == 0
    told = "note: voxels with another class in each label of one image, the first of which stays: liver_1 (1)"
    assert told in capsys.readouterr().out
    assert three.merged.label("liver_1")[4, 4, 5] == 1


def test_what_overlaps_in_a_merge_is_refused(three, capsys):
    three.write(SAME, {"spleen": 1}, {"s1": (1, {1: slice(5, 12)})})
    check_refused(three, capsys, ["-d", 3, 12], 'the same voxels are "liver" and "spleen": 36, more than 5%')

"""Whether two label maps lie on one grid, by what nnU-Net's readers say."""

import numpy as np
import pytest

from nnunetv2_mastpro.label_maps import differences


def simpleitk(shift_mm):
    stuff = {"spacing": (2.0, 1.0, 1.0), "origin": (shift_mm, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())}
    return {"sitk_stuff": stuff, "spacing": [1.0, 1.0, 2.0]}


def nibabel(shift_mm):
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    affine[0, 3] = shift_mm
    return {"nibabel_stuff": {"original_affine": affine}, "spacing": [1.0, 1.0, 2.0]}


@pytest.mark.parametrize("reader", [simpleitk, nibabel])
def test_origins_agree_to_a_hundredth_of_a_voxel_and_all_else_to_a_thousandth(reader):
    assert differences(reader(0.0), reader(0.009)) == []
    assert len(differences(reader(0.0), reader(0.011))) == 1
    other = reader(0.0)
    for stuff in (value for value in other.values() if isinstance(value, dict)):
        for key in {"direction", "original_affine"} & {*stuff}:
            changed = np.array(stuff[key])
            changed.flat[1] += 2e-3
            stuff[key] = changed
    assert len(differences(reader(0.0), other)) == 1

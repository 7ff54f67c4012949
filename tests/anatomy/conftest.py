"""Small volumes on a grid, written as users have them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.geometry import Geometry


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def grid() -> Geometry:
    """7 x 6 x 5 voxels of different edges, upright."""
    return Geometry((7, 6, 5), (1.5, 2.0, 3.0), (-10.0, 20.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="session")
def write_volume(grid) -> Callable[..., Path]:
    """`write_volume(path, values, on=grid)`: array (Z, Y, X) or image to a file; folders are made. Gives the path."""

    def write(path, values, on=grid):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = values
        if not isinstance(values, sitk.Image):
            image = sitk.GetImageFromArray(values)
            image.SetSpacing(on.spacing_mm)
            image.SetOrigin(on.origin_mm)
            image.SetDirection(on.direction)
        sitk.WriteImage(image, str(path))
        return path

    return write


@pytest.fixture(scope="session")
def host() -> Callable[..., HostValue]:
    """`host(value, *structures)`: an entry of the table of hosts, of the class of that label."""

    def make(value, *structures):
        return HostValue(value=value, channel=value - 1, structures=structures, classes=(value - 1,))

    return make

"""Phantom cases shared by the demo's tests: making one takes seconds."""

import pytest

from nnunetv2_mastpro.demo.phantom import TUMOR_TYPES, Grid, make_case

GRID = Grid(shape=(30, 34, 46), spacing_mm=(6.0, 6.0, 6.0))


@pytest.fixture(scope="session")
def grid():
    return GRID


@pytest.fixture(scope="session")
def cases():
    return [make_case(seed, TUMOR_TYPES, GRID) for seed in range(7)]

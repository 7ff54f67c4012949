"""setup.cfg against the folders: what is not listed there is missing from the wheel only."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from nnunetv2_mastpro import resources
from nnunetv2_mastpro.errors import MASTProError

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def lines(text):
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def test_every_package_is_listed(setup_cfg):
    folders = {path.parent for path in (REPOSITORY / "nnunetv2_mastpro").rglob("__init__.py")}
    expected = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    expected |= {"nnunetv2_mastpro.trainers", "nnunetv2_mastpro.plans"}
    assert set(lines(setup_cfg["options"]["packages"])) == expected


def test_every_data_file_is_package_data(setup_cfg):
    patterns = lines(setup_cfg["options.package_data"]["nnunetv2_mastpro"])
    package = REPOSITORY / "nnunetv2_mastpro"
    for path in package.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts:
            assert any(path in package.glob(pattern) for pattern in patterns), path


def test_overlays_and_recipes_are_package_data(setup_cfg):
    patterns = lines(setup_cfg["options.package_data"]["nnunetv2_mastpro.plans"])
    shipped = {path for pattern in patterns for path in (REPOSITORY / "plans").glob(pattern)}
    assert shipped == {path for path in (REPOSITORY / "plans").rglob("*") if path.is_file()}


def test_every_import_is_a_requirement(setup_cfg):
    required = {
        re.match(r"[\w.-]+", line).group().lower().replace("_", "-")
        for line in lines(setup_cfg["options"]["install_requires"])
    }
    owners = packages_distributions()
    for path in [*REPOSITORY.glob("nnunetv2_mastpro/**/*.py"), *REPOSITORY.glob("trainers/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - {"nnunetv2_mastpro"} - sys.stdlib_module_names:
                distributions = {name.lower().replace("_", "-") for name in owners.get(top, [top])}
                assert distributions & required, f"{path} imports {top}"


@pytest.mark.parametrize("inside", [True, False])
def test_folders_are_found_in_a_wheel_and_in_a_checkout(monkeypatch, tmp_path, inside):
    package = tmp_path / "nnunetv2_mastpro"
    package.mkdir()
    (tmp_path / "setup.cfg").touch()
    folder = (package if inside else tmp_path) / "trainers"
    folder.mkdir()
    (folder / "trainer.py").touch()
    monkeypatch.setattr(resources, "PACKAGE", package)
    assert resources.trainers_dir() == folder


def test_a_folder_of_a_stranger_is_not_ours(monkeypatch, tmp_path):
    """site-packages/plans of another distribution lies beside our package, as the checkout's does."""
    package = tmp_path / "nnunetv2_mastpro"
    for folder in (package, tmp_path / "plans", package / "plans"):
        folder.mkdir()
    (tmp_path / "plans" / "theirs.json").write_text("{}")
    monkeypatch.setattr(resources, "PACKAGE", package)
    with pytest.raises(MASTProError, match=r"no plans folder with \*\.json .* reinstall nnunetv2_mastpro"):
        resources.plans_dir()

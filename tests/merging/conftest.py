"""Tiny data sets to merge: noise, with boxes as labels."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli
from nnunetv2_mastpro.training.setup import resolve

SHAPE = (10, 12, 14)
ORIGIN_MM, SPACING_MM = (5.0, -3.0, 2.0), (1.0, 1.5, 2.0)
LIVER, KIDNEY, COLON = "Dataset003_Liver", "Dataset006_Kidney", "Dataset010_Colon"


@dataclass(frozen=True)
class Merged:
    """A merged data set as it lies on disk."""

    folder: Path

    @property
    def content(self) -> dict:
        return json.loads((self.folder / "dataset.json").read_text())

    @property
    def splits(self) -> list[dict]:
        path = self.folder.parents[1] / "nnUNet_preprocessed" / self.folder.name / "splits_final.json"
        return json.loads(path.read_text())

    def label(self, case: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(self.folder / "labelsTr" / f"{case}.nii.gz"))


class Sources:
    """nnUNet_raw, into which data sets are written."""

    def __init__(self, raw: Path):
        self.raw = raw

    def write(self, name: str, labels: dict, cases: dict, spacing_mm=SPACING_MM, **more) -> Path:
        """`cases`: name -> (seed of the image, {value: slice of the last axis})."""
        folder = self.raw / name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        ending = more.get("file_ending", ".nii.gz")
        for case, (seed, boxes) in cases.items():
            image = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
            label = np.zeros(SHAPE, np.uint8)
            for value, where in boxes.items():
                label[2:8, 2:8, where] = value
            write(image, folder / "imagesTr" / f"{case}_0000{ending}", spacing_mm)
            write(label, folder / "labelsTr" / f"{case}{ending}", spacing_mm)
        content = {"channel_names": {"0": "CT"}, "numTraining": len(cases), "file_ending": ".nii.gz", **more}
        (folder / "dataset.json").write_text(json.dumps({**content, "labels": {"background": 0, **labels}}))
        return folder

    def merge(self, *arguments, output="900", name="PanTumour", workers=1) -> int:
        return cli.main(["merge", *map(str, arguments), "-o", output, "-n", name, "-np", str(workers)])

    @property
    def merged(self) -> Merged:
        return Merged(self.raw / "Dataset900_PanTumour")

    def everything(self) -> dict[Path, bytes]:
        files = (path for path in self.raw.parent.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}


def write(array: np.ndarray, path: Path, spacing_mm=SPACING_MM) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(ORIGIN_MM)
    sitk.WriteImage(image, path)


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Sources:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return Sources(tmp_path / "nnUNet_raw")


@pytest.fixture
def three(sources) -> Sources:
    """Liver with its tumour, kidney tumour, colon: 6, 6 and 4 cases."""
    here, there = slice(2, 6), slice(8, 10)
    sources.write(LIVER, {"liver": 1, "liver_tumor": 2}, {f"liver_{n}": (n, {1: here, 2: there}) for n in range(6)})
    sources.write(KIDNEY, {"kidney_tumor": 1}, {f"kidney_{n}": (10 + n, {1: there}) for n in range(6)})
    sources.write(COLON, {"colon cancer": 1}, {f"colon_{n}": (20 + n, {1: here} if n else {}) for n in range(4)})
    return sources


def write_model(folder, labels, channel="CT", prompts=None, **more):
    """What a trained model's folder says of its classes."""
    content = {
        "channel_names": {"0": channel},
        "labels": {"background": 0, **labels},
        "mastpro": {"prompts": prompts or {}},
        **more,
    }
    config, _ = resolve({"dataset_name": "Dataset001_Model", "configurations": {}}, content)
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "plans.json").write_text(json.dumps({"mastpro": config.to_dict()}))
    return folder


def check_refused(sources, capsys, arguments, match, **output):
    """One sentence, and no file is written."""
    before = sources.everything()
    assert sources.merge(*arguments, **output) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mastpro: error: ")]
    assert match in line
    assert sources.everything() == before

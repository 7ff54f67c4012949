"""Tiny downloads, written in the layouts of the real ones."""

import locale
import multiprocessing.dummy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli

SHAPE = (6, 10, 12)  # slices, rows, columns
SPACING_MM, ORIGIN_MM = (0.8, 0.9, 2.5), (-40.0, -35.0, 100.0)
TAGS = {"position": "0020|0032", "orientation": "0020|0037", "series": "0020|000e", "instance": "0020|0013"}


@pytest.fixture(autouse=True)
def callers_locale() -> Iterator[None]:
    """Writing DICOM sets the process's locale to C, and later tests would read other programs' output as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


def volume(values: np.ndarray, spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin_mm)
    return image


def write(path: Path, values: np.ndarray, **where) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume(values, **where), str(path))


def scan(seed: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def label(*values: int, shape=SHAPE, dtype=np.uint8) -> np.ndarray:
    """Each value in voxels of its own, on no axis symmetric."""
    result = np.zeros(shape, dtype)
    for number, value in enumerate(values):
        result[1 + number % 3, 1 + number // 3, 2:5] = value
    return result


def write_series(folder: Path, values: np.ndarray, name="{:03d}.dcm", downwards=False, skip=()) -> list[str]:
    """A DICOM series of slices; `downwards`: names from the highest slice on. Gives the names from the lowest on."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    names = [name.format(number) for number in range(len(values))]
    names = names[::-1] if downwards else names
    uid = f"1.2.826.0.1.3680043.2.1125.{abs(hash(str(folder))) % 10**9}"
    for z, file in enumerate(names):
        if z in skip:
            continue
        piece = sitk.GetImageFromArray(values[z])
        piece.SetSpacing(SPACING_MM[:2])
        height = ORIGIN_MM[2] + z * SPACING_MM[2]
        for tag, text in (
            ("0008|0060", "CT"),
            (TAGS["series"], uid),
            ("0020|000d", f"{uid}.1"),
            ("0008|0018", f"{uid}.{z + 2}"),
            (TAGS["instance"], str(z + 1)),
            (TAGS["position"], f"{ORIGIN_MM[0]}\\{ORIGIN_MM[1]}\\{height}"),
            (TAGS["orientation"], "1\\0\\0\\0\\1\\0"),
            ("0018|0050", str(SPACING_MM[2])),
        ):
            piece.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"{file}.dcm"))
        writer.Execute(piece)
        (folder / f"{file}.dcm").rename(folder / file)
    return names


class Downloads:
    """A folder for downloads, an empty nnUNet_raw beside it, and the command."""

    def __init__(self, root: Path):
        self.folder, self.raw = root / "download", root / "nnUNet_raw"
        self.folder.mkdir()

    def convert(self, name: str, identifier=11, *more) -> int:
        given = ["convert", name, "-i", self.folder, "-d", identifier, "-np", 1, *more]
        return cli.main([*map(str, given)])

    def image(self, dataset: str, case: str) -> sitk.Image:
        return sitk.ReadImage(str(self.raw / dataset / "imagesTr" / f"{case}_0000.nii.gz"))

    def label(self, dataset: str, case: str) -> sitk.Image:
        return sitk.ReadImage(str(self.raw / dataset / "labelsTr" / f"{case}.nii.gz"))

    def verify(self, dataset: str) -> None:
        """nnU-Net's own check, which raises; in threads, since each of its two pools takes seconds to start."""
        from nnunetv2.experiment_planning import verify_dataset_integrity as check
        from nnunetv2.utilities import utils

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(check, "multiprocessing", SimpleNamespace(get_context=lambda kind: multiprocessing.dummy))
            patch.setattr(utils, "Pool", multiprocessing.dummy.Pool)
            check.verify_dataset_integrity(str(self.raw / dataset), 1)


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> Downloads:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return Downloads(tmp_path)


def lits(folder: Path, cases=(0, 1)) -> None:
    """As the archives of LiTS hold it."""
    for case in cases:
        write(folder / "Training Batch 1" / f"volume-{case}.nii", scan(case))
        write(folder / "Training Batch 1" / f"segmentation-{case}.nii", label(1, 2))

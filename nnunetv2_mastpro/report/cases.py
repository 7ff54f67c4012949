"""The cases of a report: which files belong together, whether they lie on one grid, and their voxels.

Volumes are (Z, Y, X), turned to the patient's axes: up, to the back, to the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mastpro.anatomy.given import check_hosts
from nnunetv2_mastpro.datasets import read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.label_maps import files_of
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.prompts.resolve import channel_names, channel_of, modality_of
from nnunetv2_mastpro.report.model import Model


@dataclass(frozen=True)
class Case:
    """Files of one case; `image` is the channel that is shown."""

    name: str
    image: Path
    prediction: Path
    reference: Path | None
    host_map: Path | None


@dataclass(frozen=True)
class Volumes:
    """Voxels of one case on one grid; `affine` takes x y z of a voxel to mm as NIfTI counts them (right to left)."""

    image: np.ndarray | None  # None where the label maps alone were wanted
    prediction: np.ndarray
    reference: np.ndarray | None
    host_map: np.ndarray | None
    spacing_mm: tuple[float, float, float]  # z y x
    affine: np.ndarray
    ignored: np.ndarray | None = None  # mask of what the truth says to ignore, which is 0 in `reference`

    def scored(self, mask: np.ndarray) -> np.ndarray:
        """The part of a mask that counts."""
        return mask if self.ignored is None else mask & ~self.ignored


@dataclass(frozen=True)
class Channel:
    """The one that is shown. `title`: its number and name where there are others, else empty."""

    number: int
    title: str
    is_ct: bool


def shown_channel(dataset_json: dict, wanted: int | None = None) -> Channel:
    """The first CT, or else the first, unless another is wanted. Raises MASTProError for a number that is not there."""
    names = dict(sorted((int(number), str(name)) for number, name in channel_names(dataset_json).items()))
    if wanted is not None and wanted not in names:
        known = ", ".join(f"{number} ({name})" for number, name in names.items())
        raise MASTProError(f"--channel {wanted} is none of the model's channels; give one of {known}")
    number = wanted if wanted is not None else channel_of(dataset_json, "CT") or 0
    name = names.get(number, "")
    is_ct = modality_of({"channel_names": {"0": name}}) == "CT"
    return Channel(number, f"channel {number} ({name})" if len(names) > 1 else "", is_ct)


def find_cases(
    model: Model,
    channel: Channel,
    *,
    images: Path,
    predictions: Path,
    reference: Path | None,
    maps: Path | None,
    chill: bool = False,
) -> list[Case]:
    """By name. `channel`: of the images. `chill`: images without a prediction are left out.

    Raises MASTProError for empty folders, a folder that lacks a case, and maps of another model's hosts.
    """
    ending = model.dataset_json["file_ending"]
    suffix = f"_{channel.number:04d}{ending}"
    files = {path.name.removesuffix(suffix): path for path in _files("-i", images, suffix)}
    found = {path.name.removesuffix(ending): path for path in _files("-pred", predictions, ending)}
    if not files or not found:
        option, folder, wanted = (
            ("-i", images, f"CASE{suffix}") if not files else ("-pred", predictions, f"CASE{ending}")
        )
        raise MASTProError(f"{option} {folder} has no cases (files such as {wanted}); give the folder of the model's")
    if found.keys().isdisjoint(files):
        raise MASTProError(f"-pred {predictions} and -i {images} have no case in common; one of them is another's")
    if chill:
        files = {name: path for name, path in files.items() if name in found}
    others = [("-i", images, files), ("-pred", predictions, found)]
    for option, folder in (("-ref", reference), ("--maps", maps)):
        if folder is not None:
            known = {path.name.removesuffix(ending): path for path in _files(option, folder, ending)}
            others.append((option, folder, {name: path for name, path in known.items() if name in files}))
    every = sorted({name for *_, known in others for name in known})
    for option, folder, known in others:
        missing = [name for name in every if name not in known]
        if missing:
            remedy = ", or leave out what has no prediction with --chill" if option == "-pred" else ""
            raise MASTProError(
                f"{option} {folder} lacks {some(missing, 10)} of {len(every)} cases; images, predictions, labels and "
                f"maps must be of the same cases{remedy}"
            )
    if maps is not None:
        check_hosts(maps, model.hosts, "give --maps what mastpro anatomy -m MODEL -i IMAGES -o MAPS wrote")
    known = {option: by_name for option, _, by_name in others}
    return [
        Case(name, files[name], found[name], known.get("-ref", {}).get(name), known.get("--maps", {}).get(name))
        for name in every
    ]


def _files(option: str, folder: Path, ending: str) -> list[Path]:
    if not folder.is_dir():
        raise MASTProError(f"{option} {folder} is no folder; give one with a file per case")
    return files_of(folder, ending)


def check_case(case: Case, model: Model) -> tuple[frozenset[int], Volumes]:
    """Values in the prediction, and the volumes without the image.

    Raises MASTProError where a file has not three axes, lies on another grid, or has unknown values.
    """
    from nnunetv2_mastpro.geometry import check_whole

    files = (case.prediction, case.reference, case.host_map)
    for path in filter(None, (case.image, *files)):
        check_whole(path)
    spacing = _spacing_beside(case.image)
    ours = _grid(case.image, spacing)
    if len(ours.size) != 3:
        raise MASTProError(f"{case.image} has {len(ours.size)} axes; the report shows volumes of three")
    hosts = {0, *(host.value for host in model.hosts)}
    allowed = (model.allowed, model.allowed | ({model.ignored} - {None}), hosts)
    present, maps = frozenset(), []
    for path, values in zip(files, allowed, strict=True):
        if path is None:
            maps.append(None)
            continue
        theirs = _grid(path, spacing)
        if not theirs.agrees(ours):
            raise MASTProError(
                f"{path} has {theirs}, its image {case.image.name} has {ours}; give files of the same images and grid"
            )
        labelmap, mm, affine = _read(path, spacing)
        found = np.unique(labelmap)
        unknown = [f"{value:g}" for value in found if value not in values]
        if unknown:
            raise MASTProError(
                f"{path} has the unknown label {some(unknown, 5)}; the model knows "
                f"{', '.join(map(str, sorted(values)))}: give files of this model's labels"
            )
        present = present or frozenset(map(int, found))
        maps.append(_small(labelmap))
    return present, _volumes(None, maps, mm, affine, model.ignored)


def read_case(case: Case, ignored: int | None = None) -> Volumes:
    """All voxels of a case, as check_case has found them good; what the truth ignores is no class of it."""
    image, spacing, affine = _read(case.image, _spacing_beside(case.image))
    files = (case.prediction, case.reference, case.host_map)
    maps = [None if path is None else _small(_read(path)[0]) for path in files]
    return _volumes(np.nan_to_num(image.astype(np.float32)), maps, spacing, affine, ignored)


def _volumes(image: np.ndarray | None, maps: list, spacing, affine: np.ndarray, ignored: int | None) -> Volumes:
    """`maps`: prediction, truth, host organs, or None for each."""
    prediction, reference, host_map = maps
    unknown = None
    if reference is not None and ignored is not None and (reference == ignored).any():
        unknown = reference == ignored
        reference = np.where(unknown, 0, reference).astype(reference.dtype)
    return Volumes(image, prediction, reference, host_map, spacing, affine, unknown)


def _small(labelmap: np.ndarray) -> np.ndarray:
    """In the smallest type that holds its values."""
    return labelmap.astype(np.min_scalar_type(int(labelmap.max())), copy=False)


def _spacing_beside(image: Path) -> tuple[float, ...] | None:
    """mm (z y x) of a TIFF image, as nnU-Net reads it: from the JSON file beside it, else 1; None for other images.

    Raises MASTProError for a file without three positive numbers.
    """
    if image.suffix.lower() not in (".tif", ".tiff"):
        return None
    file = image.with_name(f"{image.stem[: -len('_0000')]}.json")
    if not file.is_file():
        return 1.0, 1.0, 1.0
    spacing = read_json_object(file).get("spacing")
    if not (isinstance(spacing, list) and len(spacing) == 3 and all(map(_is_length, spacing))):
        raise MASTProError(
            f'{file} has the spacing {spacing}; give three positive numbers, millimetres: {{"spacing": [Z, Y, X]}}'
        )
    return tuple(map(float, spacing))


def _is_length(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value < float("inf")


def _grid(path: Path, spacing_mm: tuple[float, ...] | None):
    """From the header, in which nnU-Net reads no spacing (z y x) of TIFF files, and writes none."""
    from nnunetv2_mastpro.geometry import read_geometry

    found = read_geometry(path)
    return found if spacing_mm is None else found._replace(spacing_mm=spacing_mm[::-1])


def _read(path: Path, spacing_mm=None) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Voxels, spacing in mm (z y x) and NIfTI's affine, in the orientation of this module.

    `spacing_mm`: in place of the header's.
    """
    import SimpleITK as sitk

    try:
        volume = sitk.ReadImage(str(path))
        if spacing_mm is not None:
            volume.SetSpacing(spacing_mm[::-1])
        volume = sitk.DICOMOrient(volume, "LPS")
    except RuntimeError as error:
        raise MASTProError(f"{path} cannot be read ({str(error).strip().splitlines()[-1]}); write it again") from error
    spacing, affine = np.array(volume.GetSpacing()), np.eye(4)
    affine[:3, :3] = np.reshape(volume.GetDirection(), (3, 3)) * spacing
    affine[:3, 3] = volume.GetOrigin()
    return sitk.GetArrayFromImage(volume), tuple(spacing[::-1]), np.diag((-1, -1, 1, 1)) @ affine

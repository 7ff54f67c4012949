"""Maps in nnU-Net's preprocessed geometry, against nnU-Net's own preprocessing, and the check before training."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mastpro.anatomy.preprocessed import (
    check_training_maps,
    data_shape,
    preprocess_map,
    training_folder,
    write_training_maps,
)
from nnunetv2_mastpro.errors import MASTProError

DATASET_JSON = {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}, "channel_names": {"0": "T1"}}
RESAMPLING = "resample_data_or_seg_to_shape"
SHAPE = (10, 12, 14)


def plans(spacing_mm, order=(0, 1, 2), reader="SimpleITKIO"):
    configuration = {
        "architecture": {},
        "data_identifier": "data",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": spacing_mm,
        "patch_size": [8] * len(spacing_mm),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    content = {
        "plans_name": "Plans",
        "dataset_name": "Dataset001_A",
        "transpose_forward": list(order),
        "transpose_backward": np.argsort(order).tolist(),
        "image_reader_writer": reader,
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"used": configuration},
    }
    manager = PlansManager(content)
    return manager, manager.get_configuration("used")


def blobs(rng, shape=SHAPE):
    """Coarse blocks of values 0 to 3, so that resampling leaves something of them."""
    coarse = rng.choice([0, 0, 1, 2, 3], [-(-n // 3) for n in shape])
    return np.kron(coarse, np.ones((3, 3, 3)))[tuple(map(slice, shape))].astype(np.uint8)


@pytest.fixture
def case(grid, rng, write_volume, tmp_path):
    """`case(border=..., spacing_mm=...)`: files of an image and of a map that is zero where nnU-Net asks for it."""

    def make(border=0, spacing_mm=(1.5, 1.5, 1.5), code=None):
        image = rng.normal(100, 20, SHAPE).astype(np.float32)
        kept = np.zeros(SHAPE, bool)
        kept[border : SHAPE[0] - border, border:, : SHAPE[2] - 2 * border] = True
        if border:
            kept[:4, :4] = False  # a corner in the box that is cropped to, outside the image all the same
        image[~kept] = 0
        values = np.where(kept, blobs(rng), 0).astype(np.uint8)
        on = grid._replace(spacing_mm=spacing_mm)
        paths = []
        for name, array in (("image", image), ("map", values)):
            volume = sitk.ReadImage(write_volume(tmp_path / f"{name}.nii.gz", array, on))
            paths.append(write_volume(tmp_path / f"{name}.nii.gz", sitk.DICOMOrient(volume, code) if code else volume))
        return paths

    return make


CASES = {
    "as it is": ([1.5, 1.5, 1.5], {}, {}),
    "isotropic": ([1.1, 1.1, 1.1], {}, {"border": 2}),
    "coarser": ([2.5, 2.5, 2.5], {}, {"border": 2}),
    "anisotropic": ([4.5, 0.8, 1.0], {"order": (2, 0, 1)}, {"border": 1, "spacing_mm": (5.0, 1.0, 0.7)}),
    "thick slices, in plane only": ([5.0, 0.8, 1.0], {"order": (2, 1, 0)}, {"spacing_mm": (5.0, 1.0, 0.7)}),
    "2d": ([0.8, 1.0], {"order": (1, 0, 2)}, {"border": 2, "spacing_mm": (1.2, 4.0, 0.7)}),
    "reoriented by the reader": ([1.0, 1.4, 2.0], {"reader": "NibabelIOWithReorient"}, {"code": "PIR"}),
}


@pytest.mark.parametrize(("spacing_mm", "planned", "made"), CASES.values(), ids=CASES)
def test_a_map_is_what_nnunet_makes_of_a_segmentation(case, tmp_path, spacing_mm, planned, made):
    image, drawn = case(**made)
    manager, configuration = plans(spacing_mm, **planned)
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, expected, properties = preprocessor.run_case([str(image)], str(drawn), manager, configuration, DATASET_JSON)
    values = recursive_find_reader_writer_by_name(planned.get("reader", "SimpleITKIO"))().read_seg(str(drawn))[0][0]
    found = preprocess_map(values, properties, data.shape[1:], manager, configuration)
    np.testing.assert_array_equal(found, np.maximum(expected[0], 0))
    assert set(np.unique(found)) == {0, 1, 2, 3}
    assert found.dtype == np.int8
    assert (expected == -1).any() == ("border" in made)


def test_large_values_take_a_larger_type(case):
    image, drawn = case()
    manager, configuration = plans([1.5, 1.5, 1.5])
    data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
        [str(image)], None, manager, configuration, DATASET_JSON
    )
    values = sitk.GetArrayFromImage(sitk.ReadImage(drawn)).astype(np.uint16) * 100
    found = preprocess_map(values, properties, data.shape[1:], manager, configuration)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.int16


@pytest.fixture
def stored(tmp_path):
    """`stored(count)`: a folder of tiny preprocessed cases that need no resampling, and their maps as arrays."""

    def make(count=3, dataset_class=nnUNetDatasetBlosc2, shape=(3, 4, 5)):
        rng, folder, drawn = np.random.default_rng(1), tmp_path / "data", {}
        folder.mkdir()
        for index in range(count):
            image, name = rng.normal(size=(1, *shape)).astype(np.float32), f"case_{index}"
            box = [[0, n] for n in shape]
            properties = {"spacing": [1.5] * 3, "bbox_used_for_cropping": box, "shape_before_cropping": shape}
            settings = {"chunks": image.shape, "blocks": image.shape} if dataset_class is nnUNetDatasetBlosc2 else {}
            dataset_class.save_case(image, np.zeros_like(image, np.int8), properties, str(folder / name), **settings)
            drawn[name] = rng.integers(0, 4, shape).astype(np.uint8)
        return folder, drawn

    return make


@pytest.fixture
def write_maps(tmp_path, hosts):
    """`write_maps(folder, drawn)`: the maps as files, and from them those for training; their folder."""

    def write(folder, drawn, processes=1):
        files = {name: tmp_path / "maps" / f"{name}.nii.gz" for name in drawn}
        for name, values in drawn.items():
            files[name].parent.mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(values), files[name])
        return write_training_maps(folder, *plans([1.5] * 3), hosts, files, processes)

    return write


@pytest.fixture
def hosts(host):
    return (host(1, "liver"), host(2, "kidney_left", "kidney_right"), host(3, "colon"))


@pytest.mark.parametrize("dataset_class", [nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
@pytest.mark.parametrize("times", [1, 2])
def test_nnunet_loads_what_was_written_as_its_previous_stage(stored, hosts, write_maps, dataset_class, times):
    folder, drawn = stored(dataset_class=dataset_class)
    for count in range(times):
        drawn = {name: 3 - values for name, values in drawn.items()}
        made = write_maps(folder, drawn, 1 + count)
    assert made == training_folder(folder) == folder.parent / "data_anatomy"
    data = dataset_class(str(folder), folder_with_segs_from_previous_stage=str(made))
    assert data.identifiers == sorted(drawn)
    for name, values in drawn.items():
        np.testing.assert_array_equal(data.load_case(name)[2][:], values)
        assert data_shape(folder, name) == values.shape
    check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")


def test_unpacked_data_have_the_same_shape(stored):
    folder, drawn = stored(dataset_class=nnUNetDatasetNumpy)
    nnUNetDatasetNumpy.unpack_dataset(str(folder), num_processes=1, verify=False)
    (folder / "case_0.npz").unlink()
    assert data_shape(folder, "case_0") == drawn["case_0"].shape


def test_an_interrupted_run_is_no_complete_one_and_the_next_goes_on(stored, hosts, write_maps):
    folder, drawn = stored()
    with pytest.raises(MASTProError, match="a map has the shape"):
        write_maps(folder, {**drawn, "case_1": np.zeros((2, 2, 2), np.uint8)})
    made = training_folder(folder)
    with pytest.raises(MASTProError, match=r"was interrupted in .*, so maps are missing; run mastpro anatomy"):
        check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")
    assert not (made / "case_2.b2nd").exists()
    before = mark_as_older(made / "case_0.b2nd")
    write_training_maps(folder, *plans([1.5] * 3), hosts, write_again(folder.parent, drawn, "case_1"))
    assert (made / "case_0.b2nd").stat().st_mtime_ns == before
    check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")


def mark_as_older(made):
    """A minute; clocks of files are coarse."""
    then = made.stat().st_mtime_ns - 60 * 10**9
    os.utime(made, ns=(then, then))
    return then


def write_again(root, drawn, case):
    """The files of all maps, this one written again."""
    files = {name: root / "maps" / f"{name}.nii.gz" for name in drawn}
    sitk.WriteImage(sitk.GetImageFromArray(drawn[case]), files[case])
    return files


@pytest.mark.parametrize("change", ["nothing", "order", "map", "preprocessed case", "hosts", "damage"])
def test_what_was_made_of_the_same_files_stays(stored, host, hosts, write_maps, change):
    folder, drawn = stored()
    made = write_maps(folder, drawn)
    before, file = mark_as_older(made / "case_1.b2nd"), made / "case_1.b2nd"
    files = {name: folder.parent / "maps" / f"{name}.nii.gz" for name in drawn}
    if change == "map":
        drawn["case_1"] = 3 - drawn["case_1"]
        files = write_again(folder.parent, drawn, "case_1")
    if change == "preprocessed case":
        os.utime(folder / "case_1.pkl", ns=(0, 0))  # older, as what is copied with its times may be
    if change == "order":  # of structures, and what they host: the map is the same
        first, second, third = hosts
        hosts = (first, replace(second, structures=second.structures[::-1]), replace(third, classes=(0, 7)))
        check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")
    if change == "hosts":
        hosts = (*hosts, host(4, "spleen"))
    if change == "damage":
        os.truncate(file, file.stat().st_size // 2)
    write_training_maps(folder, *plans([1.5] * 3), hosts, files)
    assert (file.stat().st_mtime_ns == before) == (change in ("nothing", "order"))
    check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")
    data = nnUNetDatasetBlosc2(str(folder), folder_with_segs_from_previous_stage=str(made))
    np.testing.assert_array_equal(data.load_case("case_1")[2][:], drawn["case_1"])


def rewrite(folder, change):
    content = json.loads((folder / "anatomy.json").read_text())
    change(content)
    (folder / "anatomy.json").write_text(json.dumps(content))


DAMAGE = {
    "no folder": (lambda f: f.rename(f.with_name("other")), r"has no anatomy\.json.* were not made"),
    "no index": (lambda f: (f / "anatomy.json").unlink(), r"has no anatomy\.json.* were not made"),
    "torn index": (lambda f: (f / "anatomy.json").write_text('{"hosts": ['), r"anatomy\.json cannot be read"),
    "a list": (lambda f: (f / "anatomy.json").write_text("[]"), r"anatomy\.json cannot be read"),
    "torn case": (lambda f: rewrite(f, lambda c: c["cases"]["case_1"].pop("values")), r"anatomy\.json cannot be read"),
    "no cases": (lambda f: rewrite(f, lambda c: c.pop("cases")), r"anatomy\.json cannot be read"),
    "other hosts": (lambda f: rewrite(f, lambda c: c["hosts"].pop()), "made for other host organs than the plans"),
    "missing case": (lambda f: rewrite(f, lambda c: c["cases"].pop("case_1")), "has no map for case_1;"),
    "missing file": (lambda f: (f / "case_2.b2nd").unlink(), "has no map for case_2;"),
    "missing files": (lambda f: [path.unlink() for path in f.glob("*.b2nd")], "has no map for case_0, case_1, case_2;"),
    "other shape": (
        lambda f: nnUNetDatasetBlosc2.save_seg(np.zeros((3, 4, 6), np.int8), str(f / "case_0")),
        r"map for case_0 in .* has the shape \(3, 4, 6\), its image \(3, 4, 5\);",
    ),
    "torn file": (lambda f: (f / "case_0.b2nd").write_bytes(b""), "map for case_0 in .* cannot be read"),
    "other file": (
        lambda f: nnUNetDatasetBlosc2.save_seg(np.full((3, 4, 5), 77, np.int8), str(f / "case_0")),
        r"case_0\.b2nd is not the file that mastpro anatomy wrote;",
    ),
    "unknown value": (
        lambda f: rewrite(f, lambda c: c["cases"]["case_1"].update(values=[1, 4])),
        r"map for case_1 in .* has the values \[1, 4\], known are \[1, 2, 3\];",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_unsound_maps_are_refused_before_training(stored, hosts, write_maps, damage, message):
    folder, drawn = stored()
    made = write_maps(folder, drawn)
    damage(made)
    with pytest.raises(
        MASTProError, match=f"{message}.*mastpro anatomy -d {folder.parent.name} -p PLANS --masks MASKS"
    ):
        check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")


def test_cases_that_are_not_asked_for_do_not_matter(stored, hosts, write_maps):
    folder, drawn = stored()
    made = write_maps(folder, drawn)
    (made / "case_2.b2nd").unlink()
    check_training_maps(made, folder, ["case_0", "case_1"], hosts, "PLANS")


def test_values_beyond_the_table_are_written_down_and_refused(stored, hosts, write_maps):
    folder, drawn = stored()
    drawn["case_1"][0, 0, 0] = 9
    made = write_maps(folder, drawn)
    with pytest.raises(MASTProError, match=r"map for case_1 in .* has the values \[1, 2, 3, 9\]"):
        check_training_maps(made, folder, sorted(drawn), hosts, "PLANS")


def test_three_hundred_cases(stored, hosts, write_maps):
    folder, drawn = stored(300)
    check_training_maps(write_maps(folder, drawn), folder, sorted(drawn), hosts, "PLANS")

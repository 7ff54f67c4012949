"""Windows, slices, panels, plots, and the volumes of the viewer, against plain computations."""

import base64
import gzip
import io
import json
import re
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.report import viewer
from nnunetv2_mastpro.report.cases import Case, Volumes, check_case, read_case
from nnunetv2_mastpro.report.model import Output
from nnunetv2_mastpro.report.panels import cut, draw_panels, encode, shown_slice
from nnunetv2_mastpro.report.plots import draw_boxes, draw_curves
from nnunetv2_mastpro.report.windows import Window, ct_window, percentile_window

TUMOR = Output("tumor", (1,), "#ff0000", True, "", ())
OTHER = Output("other", (2,), "#00ff00", True, "", (), (2,))


def volumes(**given):
    blank = np.zeros((6, 20, 24), np.uint8)
    known = {"image": blank.astype(np.float32), "prediction": blank, "reference": blank, "host_map": None}
    return Volumes(**{**known, **given}, spacing_mm=(5.0, 2.0, 1.0), affine=np.eye(4))


def marked(*boxes):
    mask = np.zeros((6, 20, 24), np.uint8)
    for value, z, y, x in boxes:
        mask[z, y, x] = value
    return mask


@pytest.mark.parametrize(
    ("structures", "name", "low", "high"),
    [
        (["liver"], "soft-tissue", -160, 240),
        (["lung_upper_lobe_left", "liver"], "lung", -1350, 150),
        (["vertebrae_L3"], "bone", -500, 1300),
        (["rib_left_4"], "bone", -500, 1300),
        (["brain"], "brain", 0, 80),
        (["tissue_types:skeletal_muscle"], "soft-tissue", -160, 240),
        ([], "soft-tissue", -160, 240),
    ],
)
def test_the_window_is_that_of_the_host_organ(structures, name, low, high):
    window = ct_window(structures)
    assert (window.low, window.high) == (low, high)
    assert window.title == f"{name} window, {low} to {high} HU"


def test_without_a_scale_the_window_is_of_the_image():
    image = np.concatenate([np.zeros(500), np.arange(1, 101)])
    window = percentile_window(image)
    assert (window.low, window.high) == pytest.approx((1.99, 99.01))
    flat = percentile_window(np.zeros((3, 3)))
    assert flat.low < flat.high


def test_the_slice_is_where_truth_and_prediction_differ_most():
    truth = marked((1, 1, slice(2, 12), slice(2, 12)), (1, 4, slice(2, 5), slice(2, 5)))
    prediction = marked((1, 1, slice(2, 12), slice(2, 12)), (2, 5, slice(0, 9), slice(0, 9)))
    assert shown_slice(TUMOR, volumes(reference=truth, prediction=prediction)) == 4
    assert shown_slice(TUMOR, volumes(reference=truth, prediction=truth)) == 1  # the largest
    assert shown_slice(TUMOR, volumes(reference=None, prediction=prediction)) == 1


def test_the_zoom_is_a_square_in_mm_around_the_finding():
    whole = marked((1, 3, slice(10, 12), slice(20, 23)))
    shown = cut(TUMOR, [TUMOR], volumes(reference=whole, prediction=whole * 0), 3)
    rows, columns = shown.box  # 60 mm at least, of 40 and 24 mm
    assert (rows, columns) == (slice(0, 20), slice(0, 24))
    wide = Volumes(
        np.zeros((1, 90, 90), np.float32), *[np.zeros((1, 90, 90), np.uint8)] * 2, None, (5.0, 2.0, 2.0), np.eye(4)
    )
    wide.prediction[0, 80:84, 40:44] = 1
    rows, columns = cut(TUMOR, [TUMOR], wide, 0).box
    assert (rows.stop - rows.start, columns.stop - columns.start) == (30, 30)
    assert (rows, columns) == (slice(60, 90), slice(27, 57))


@pytest.mark.parametrize(("with_truth", "key"), [(True, "truth solid, prediction dashed"), (False, "prediction")])
def test_a_picture_that_stands_alone_says_what_it_shows(with_truth, key):
    prediction = marked((2, 3, slice(10, 16), slice(12, 20)))
    shown = cut(OTHER, [TUMOR, OTHER], volumes(reference=prediction if with_truth else None, prediction=prediction), 3)
    plain = draw_panels(shown, Window(-1, 1, ""))
    figure = draw_panels(
        shown, Window(-1, 1, ""), "case_1, liver tumor", {"liver tumor": "#ff0000", "other": "#00ff00"}
    )
    assert [text.get_text() for text in figure.texts] == ["case_1, liver tumor"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["liver tumor", "other"]
    assert key in legend.get_texts()[2].get_text()
    assert figure.get_figheight() > plain.get_figheight()
    assert not plain.texts + plain.legends


def test_a_legend_of_many_classes_stays_within_the_picture():
    prediction = marked((2, 3, slice(10, 16), slice(12, 20)))
    shown = cut(OTHER, [TUMOR, OTHER], volumes(prediction=prediction), 3)
    names = {f"tumour of the organ number {number}": "#ff0000" for number in range(13)}
    figure = draw_panels(shown, Window(-1, 1, ""), "case_1", names)
    figure.canvas.draw()
    drawn = [legend.get_window_extent() for legend in figure.legends]
    assert sum(len(legend.get_texts()) for legend in figure.legends) == 14
    assert max(box.x1 for box in drawn) <= figure.bbox.width
    lowest = min(axis.get_window_extent().y0 for axis in figure.axes)
    assert max(box.y1 for box in drawn) <= lowest + 1


@pytest.mark.parametrize(("with_truth", "form"), [(True, "webp"), (False, "png")])
def test_panels_show_each_mask_in_its_column(with_truth, form):
    truth, prediction = marked((1, 3, slice(4, 9), slice(4, 10))), marked((2, 3, slice(10, 16), slice(12, 20)))
    host = marked((2, 3, slice(10, 14), slice(2, 8)))
    given = volumes(reference=truth if with_truth else None, prediction=prediction, host_map=host)
    shown = cut(OTHER, [TUMOR, OTHER], given, 3)
    drawn = Image.open(io.BytesIO(encode(draw_panels(shown, Window(-1, 1, "")), form)))
    assert drawn.format == form.upper()
    picture = np.asarray(drawn.convert("RGB")).astype(int)
    titles = ["image", "host organ", *(["truth"] if with_truth else []), "prediction", "contours"]
    parts = np.array_split(picture, len(titles), axis=1)
    counts = {
        title: [(part[..., c] > part.sum(2) / 3 + 40).sum() > 150 for c in (0, 1)]
        for title, part in zip(titles, parts, strict=True)
    }
    expected = {"image": [0, 0], "host organ": [0, 0], "truth": [1, 0], "prediction": [0, 1]}
    assert {title: counts[title] for title in titles[:-1]} == {title: expected[title] for title in titles[:-1]}
    assert counts["contours"] == [with_truth, True]  # truth red, prediction green


def test_plots_are_small_and_name_what_they_show():
    rng, epochs = np.random.default_rng(0), 1000
    curves = {name: rng.random(epochs).tolist() for name in ("train_losses", "val_losses", "lrs")}
    curves["dice_per_class_or_region"] = rng.random((epochs, 2)).tolist()
    plot = draw_curves(curves, ["liver", "lung tumor"]).decode()
    assert len(plot) < 120_000
    for text in ("training", "validation", "lung tumor", "epoch", "learning rate"):
        assert f">{text}</text>" in plot
    boxes = draw_boxes({"Dice": {"liver": [0.1, 0.5, np.nan], "spleen": []}, "HD95, mm": {"liver": [3], "spleen": []}})
    assert re.search(r">liver \(2\)</text>", boxes.decode())
    assert re.search(r">spleen \(0\)</text>", boxes.decode())
    counts = {"Dice": {"liver": [0.1, 0.5], "spleen": [0.2, 0.3]}, "HD95, mm": {"liver": [3], "spleen": [4]}}
    assert re.search(r">spleen \(1\)</text>", draw_boxes(counts).decode())
    same = draw_boxes({"Dice": counts["Dice"], "NSD": counts["Dice"]}).decode()
    assert same.count(">spleen (2)</text>") == 1


@pytest.fixture
def oblique(tmp_path):
    """A case whose axes are turned and reflected, with one bright voxel that is also the truth, and where it lies."""
    array = np.full((14, 18, 22), -1000, np.int16)
    array[4, 7, 15] = 402
    paths = {}
    for name, values in (("image", array), ("labels", (array > 0).astype(np.uint8))):
        volume = sitk.GetImageFromArray(values)
        volume.SetSpacing((1.5, 2.0, 3.0))
        volume.SetOrigin((10.0, -20.0, 30.0))
        volume.SetDirection((0.0, -0.8, 0.6, -1.0, 0.0, 0.0, 0.0, 0.6, 0.8))
        paths[name] = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(volume, paths[name])
        place = volume.TransformIndexToPhysicalPoint((15, 7, 4))
    return Case("c", paths["image"], paths["labels"], paths["labels"], None), np.array(place) * (-1, -1, 1)


def open_nifti(code):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(code)))


def test_the_viewers_volumes_lie_where_the_image_lies(oblique):
    case, place = oblique
    found = viewer.embed("c", read_case(case), is_ct=True)
    for kind, value in (("image", 400), ("prediction", 1), ("truth", 1)):  # in steps of 4 HU
        volume = open_nifti(found.files[kind])
        (index,) = np.argwhere(np.asarray(volume.dataobj) > 0)
        assert volume.get_fdata()[tuple(index)] == value
        np.testing.assert_allclose(volume.affine @ [*index, 1], [*place, 1], atol=1e-3)
    sizes = np.array(volume.shape)
    np.testing.assert_allclose(found.focus, (index + 0.5) / sizes)
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.get_data_dtype() == np.uint8


def test_large_volumes_are_thinned_out_along_the_finest_axis(monkeypatch, oblique):
    assert viewer.thinning((40, 40, 56), (5, 5, 5)) == (1, 1, 1)
    steps = viewer.thinning((100, 512, 512), (5.0, 0.8, 0.8))
    assert np.prod([-(-size // step) for size, step in zip((100, 512, 512), steps, strict=True)]) <= viewer.MOST_VOXELS
    assert steps[0] == 1 < steps[1]
    monkeypatch.setattr(viewer, "MOST_VOXELS", 900)
    case, _ = oblique
    whole = read_case(case)
    found = viewer.embed("c", whole, is_ct=False)
    volume = open_nifti(found.files["image"])
    assert (
        volume.shape
        == tuple(-(-size // step) for size, step in zip(whole.image.shape, found.thinned, strict=True))[::-1]
    )
    corner = np.array(volume.affine @ [volume.shape[0] - 1, volume.shape[1] - 1, 0, 1])  # the first voxel of the whole
    np.testing.assert_allclose(corner, whole.affine @ [0, 0, 0, 1], atol=1e-3)


def test_the_viewers_data_cannot_end_the_script(write_model, tmp_path):
    from nnunetv2_mastpro.report.model import read_model

    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "</script>": 1, "kidney_tumor": 2}}
    with pytest.warns(UserWarning, match="not in the knowledge base"):
        folder = write_model(tmp_path / "a__b__2d", {**dataset, "numTraining": 1, "file_ending": ".nii.gz"})
    model = read_model(folder, None, with_maps=False)
    text = viewer.viewer_data([], model, is_ct=True)
    assert "<" not in text
    content = json.loads(text)
    assert content["labels"] == ["", "</script>", "kidney tumor"]
    assert content["values"] == [0, 1, 2]
    assert content["colors"]["prediction"][1] == [255, 95, 86]


@pytest.fixture
def half_ignored():
    """A perfect prediction, and a blob in a slab that the truth says to ignore."""
    truth = marked((1, 1, slice(4, 9), slice(4, 10)))
    prediction = marked((1, 1, slice(4, 9), slice(4, 10)), (1, 4, slice(0, 15), slice(0, 20)))
    ignored = np.zeros(truth.shape, bool)
    ignored[4:] = True
    host = marked((1, 1, slice(0, 20), slice(0, 24)))
    return volumes(reference=truth, prediction=prediction, ignored=ignored, host_map=host)


def test_what_is_ignored_has_no_part_in_slice_shares_and_crosshair(half_ignored):
    from nnunetv2_mastpro.report.draw import host_shares

    assert shown_slice(TUMOR, half_ignored) == 1
    hosted = Output("tumor", (1,), "#ff0000", True, "", ("liver",), (1,))
    (share,) = host_shares("c", half_ignored, SimpleNamespace(classes=[hosted]))
    assert (share["prediction"], share["truth"]) == (1, 1)
    found = viewer.embed("c", half_ignored, is_ct=True)
    assert found.focus[2] == pytest.approx(1.5 / 6)


def test_what_is_ignored_is_striped(half_ignored):
    shown = cut(TUMOR, [TUMOR], half_ignored, 4)
    assert shown.box == (slice(0, 20), slice(0, 24))  # nothing that counts is there
    figure = draw_panels(shown, Window(-1, 1, ""), "case_1", {"tumor": "#ff0000"})
    keys = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "; striped grey what the truth says to ignore, which is not scored" in keys[-1]
    layers = {axis.get_title(): [layer.get_array() for layer in axis.images] for axis in figure.axes}
    assert len(layers.pop("image")) == 1
    for stack in layers.values():  # in each other column a third of the slice
        assert 0.2 < np.mean(stack[-1][..., 3] > 0) < 0.5
    unstriped = draw_panels(cut(TUMOR, [TUMOR], half_ignored, 1), Window(-1, 1, ""), "case_1", {"tumor": "#ff0000"})
    assert "striped" not in unstriped.legends[-1].get_texts()[-1].get_text()


@pytest.mark.parametrize("width", [24, 64, 128, 512, 1024])
def test_stripes_can_be_told_apart_whatever_the_size_of_the_slice(width):
    """In a panel of 230 pixels: a stripe has more than 2 of them, and there are several."""
    blank = np.zeros((1, 16, width), np.uint8)
    ignoring = Volumes(blank, blank, blank, None, (5.0, 1.0, 1.0), np.eye(4), ignored=blank == 0)
    figure = draw_panels(cut(TUMOR, [TUMOR], ignoring, 0), Window(-1, 1, ""))
    row = figure.axes[1].images[-1].get_array()[0, :, 3] > 0
    stripes = (np.diff(row.astype(int), prepend=0) == 1).sum()
    assert 8 <= stripes <= 25
    assert 2 < row.sum() / stripes * 230 / width < 12


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("classes", "cases"), [(20, 300), (117, 300), (400, 2)])
def test_plots_of_many_classes_and_cases_are_small_and_whole(classes, cases):
    rng = np.random.default_rng(0)
    names = [f"tumour of the organ number {number}" for number in range(classes)]
    dice = rng.random((1000, classes))
    dice[:, 3], dice[:5] = np.nan, np.nan  # a class that no patch had, and epochs without any
    plot = draw_curves({"dice_per_class_or_region": dice.tolist()}, names).decode()
    assert len(plot) < 120_000
    assert f">mean of {classes} classes</text>" in plot
    assert ">lowest to highest</text>" in plot
    assert names[0] not in plot
    values = {name: rng.random(cases).tolist() for name in names}
    boxes = draw_boxes({"Dice": values, "surface Dice": values, "HD95, mm": values}).decode()
    assert len(boxes) < (600_000 if classes == 20 else 2_000_000)
    assert all(f">{name} ({cases})</text>" in boxes for name in names)
    _, height = map(float, re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', boxes).groups())
    assert height <= 20 * 72
    assert boxes.count("<image ") == 3


def test_a_long_title_stays_within_the_picture():
    shown = cut(OTHER, [TUMOR, OTHER], volumes(), 3)
    title = "case_0123, pancreatic tumour" + "; not annotated in this case: " + ", ".join(["another tumour"] * 12)
    figure = draw_panels(shown, Window(-1, 1, ""), title, {"other": "#00ff00"})
    figure.canvas.draw()
    (text,) = figure.texts
    box = text.get_window_extent()
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= max(axis.title.get_window_extent().y1 for axis in figure.axes)
    assert " ".join(text.get_text().split()) == title


@pytest.fixture
def tiff(tmp_path):
    """A case, its image with a resolution, its prediction as nnU-Net writes it."""
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    labels = marked((1, 3, slice(4, 9), slice(4, 10)))
    image, prediction = tmp_path / "c_0000.tif", tmp_path / "predicted" / "c.tif"
    tifffile.imwrite(image, labels.astype(np.int16), resolution=(5, 8), resolutionunit="CENTIMETER")
    prediction.parent.mkdir()
    Tiff3DIO().write_seg(labels, str(prediction), {"spacing": [5.0, 2.0, 1.5]})
    (tmp_path / "c.json").write_text('{"spacing": [5.0, 2.0, 1.5]}')
    return Case("c", image, prediction, None, None), labels


KNOWN = SimpleNamespace(allowed=frozenset({0, 1}), ignored=None, hosts=())


def test_tiff_files_are_of_one_grid_where_they_are_of_one_size(tiff, capsys):
    case, labels = tiff
    assert sitk.ReadImage(case.image).GetSpacing() != sitk.ReadImage(case.prediction).GetSpacing()
    check_case(case, KNOWN)
    assert "WARNING" not in capsys.readouterr().out
    tifffile.imwrite(case.prediction, labels[1:])
    with pytest.raises(MASTProError, match=r"has size \(24 20 5\), spacing \(1.5 2 5\).*has size \(24 20 6\), spacing"):
        check_case(case, KNOWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"mm": [1, 1, 1]}', "c.json has the spacing None; give three positive numbers"),
        ('{"spacing": [1, 1]}', r"c.json has the spacing \[1, 1\]; give three"),
        ('{"spacing": [0, 1, 1]}', r"c.json has the spacing \[0, 1, 1\]; give three"),
        ('{"spacing": [1, 1, NaN]}', r"c.json has the spacing \[1, 1, nan\]; give three"),
        ('{"spacing": ["1", 1, 1]}', r"c.json has the spacing \['1', 1, 1\]; give three"),
        ('{"spacing": 1}', "c.json has the spacing 1; give three"),
        ("{", "c.json cannot be read as JSON"),
    ],
)
def test_a_bad_spacing_beside_a_tiff_file_is_refused(tiff, content, message):
    case, _ = tiff
    case.image.with_name("c.json").write_text(content)
    with pytest.raises(MASTProError, match=message):
        check_case(case, KNOWN)


def test_the_spacing_of_tiff_files_is_that_of_the_file_beside_them(tiff, capsys):
    """As nnU-Net's Tiff3DIO reads them."""
    case, labels = tiff
    found = read_case(case)
    assert found.spacing_mm == (5, 2, 1.5)
    np.testing.assert_array_equal(found.prediction, labels)
    volume = open_nifti(viewer.embed("c", found, is_ct=False).files["prediction"])
    assert volume.header.get_zooms() == (1.5, 2, 5)
    case.image.with_name("c.json").unlink()
    assert read_case(case).spacing_mm == (1, 1, 1)
    assert capsys.readouterr().out == ""

"""Windows, slices and panels, against plain computations."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nnunetv2_mastpro.report import viewer
from nnunetv2_mastpro.report.cases import Volumes
from nnunetv2_mastpro.report.model import Output
from nnunetv2_mastpro.report.panels import cut, draw_panels, encode, shown_slice
from nnunetv2_mastpro.report.windows import Window, ct_window, percentile_window

from .voxels import marked, volumes

TUMOR = Output("tumor", (1,), "#ff0000", True, "", ())


OTHER = Output("other", (2,), "#00ff00", True, "", (), (2,))


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

"""The page in headless Chromium, opened from disk: it loads, the viewer draws, keyboard and contrast are sane."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

CANVAS = "document.getElementById('viewer-canvas')"
CONTRASTS = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = channels(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const pair = [light(channels(getComputedStyle(element).color)), light(ground(element))];
    found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
})()
"""


def load_browser():
    """tests/ is no package, so the module beside this one is loaded by its path."""
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def chromium():
    """Before the page is made: its path, or a skip."""
    executable = load_browser().find_chromium()
    if executable is None:
        pytest.skip("no Chromium (apt install chromium-headless-shell, or MASTPRO_TEST_CHROMIUM): page not opened")
    return executable


@pytest.fixture(scope="module")
def browser(chromium, report, tmp_path_factory):
    """Chromium with the page, the viewer drawn. Each test leaves case, layout and opacity as they were."""
    opened = load_browser().Browser(chromium, tmp_path_factory.mktemp("profile"))
    try:
        opened.open(report[1])
        opened.wait(f"{status()} === 'case_b is shown.'")
        yield opened
    finally:
        opened.close()


def status():
    return "document.getElementById('viewer-status').textContent"


@pytest.fixture
def pixels(browser, tmp_path):
    """`pixels()`: (height, width, 3) of what the canvas shows."""
    from PIL import Image

    def take():
        browser.evaluate(f"{CANVAS}.scrollIntoView({{block: 'center'}})")
        browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = browser.evaluate(
            f"(() => {{ const b = {CANVAS}.getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom]; }})()"
        )
        browser.screenshot(tmp_path / "window.png")
        return np.asarray(Image.open(tmp_path / "window.png").convert("RGB").crop(list(map(round, box)))).astype(int)

    return take


@pytest.fixture
def axial(browser):
    """One slice alone, which a processor draws quickly."""
    for layout in ("0", "3"):
        browser.evaluate(f"document.querySelector('[data-layout=\"{layout}\"]').click()")
        if layout == "0":
            yield


def set_range(browser, selector, value):
    """As a user who drags it."""
    browser.evaluate(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = {value}; "
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def colors(picture):
    """How many."""
    return len(np.unique(picture @ (1 << 16, 1 << 8, 1)))


def reddish(picture):
    red, green, blue = np.moveaxis(picture, 2, 0)
    return int(((red > green + 60) & (red > blue + 60)).sum())


def test_it_loads_without_complaint_and_without_network(browser, report):
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(("data:", "blob:"))] == [report[1].as_uri()]


def test_the_viewer_draws_slices_and_volume(browser, pixels):
    picture = pixels()
    assert colors(picture) > 200
    assert reddish(picture) > 100  # the liver tumour of truth and prediction
    height, width = (size // 2 for size in picture.shape[:2])
    for part in (
        picture[:height, :width],
        picture[:height, width:],
        picture[height:, :width],
        picture[height:, width:],
    ):
        assert colors(part) > 50


def test_opacity_hides_the_overlays(browser, axial, pixels):
    before = pixels()
    for kind in ("prediction", "truth"):
        set_range(browser, f'[data-opacity="{kind}"]', 0)
    assert reddish(pixels()) < 0.05 * reddish(before)
    for kind, value in (("prediction", 0.6), ("truth", 0.4)):
        set_range(browser, f'[data-opacity="{kind}"]', value)
    assert np.abs(pixels() - before).mean() < 1


def test_slices_are_chosen_by_the_keyboard(browser, axial, pixels):
    before = pixels()
    place = browser.evaluate(
        "document.querySelector('[data-axis=\"2\"]').focus(), document.querySelector('[data-axis=\"2\"]').value"
    )
    for _ in range(5):
        browser.press("ArrowDown", 40)
    assert float(browser.evaluate("document.querySelector('[data-axis=\"2\"]').value")) < float(place)
    assert np.abs(pixels() - before).mean() > 0.5
    texts = [browser.evaluate(f"document.querySelector('[data-axis=\"{n}\"]').ariaValueText") for n in range(3)]
    assert [text.split(" of ")[1] for text in texts] == ["32", "30", "14"]
    set_range(browser, '[data-axis="2"]', 3.5 / 14)
    assert browser.evaluate("document.querySelector('[data-axis=\"2\"]').ariaValueText") == "slice 4 of 14"


def test_layouts_are_chosen_by_the_keyboard(browser, pixels):
    together = pixels()
    for layout in ("0", "4", "3"):
        browser.evaluate(f"document.querySelector('[data-layout=\"{layout}\"]').focus()")
        browser.press("Enter", 13)
        pressed = browser.evaluate("[...document.querySelectorAll('[aria-pressed=true]')].map((e) => e.dataset.layout)")
        assert pressed == [layout]
        if layout != "3":
            assert np.abs(pixels() - together).mean() > 2


def test_another_case_is_shown(browser, axial, pixels):
    before = pixels()
    names = browser.evaluate("[...document.getElementById('viewer-case').options].map((o) => o.text)")
    assert names == ["case_b", "case_a", "case_c"]  # largest error first
    browser.evaluate("document.getElementById('viewer-case').focus()")
    browser.press("ArrowDown", 40)
    browser.wait(f"{status()} === 'case_a is shown.'")
    assert np.abs(pixels() - before).mean() > 0.5
    browser.press("ArrowUp", 38)
    browser.wait(f"{status()} === 'case_b is shown.'")


def test_a_window_changes_the_grey_values(browser, axial, pixels):
    before = pixels()
    browser.evaluate("document.getElementById('viewer-window').focus()")
    browser.press("ArrowDown", 40)
    assert browser.evaluate("document.getElementById('viewer-window').value").startswith("lung window")
    assert np.abs(pixels() - before).mean() > 2
    browser.press("ArrowUp", 38)


def choose(browser, name, place):
    """As a user does."""
    browser.evaluate(
        f"(() => {{ const e = document.getElementById('viewer-{name}'); e.selectedIndex = {place}; "
        "e.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def test_a_case_that_cannot_be_read_is_told_and_no_other_is_shown(browser, axial, pixels):
    before = pixels()
    browser.evaluate("window.kept = niivue.NVImage.loadFromBase64, undefined")
    browser.evaluate("niivue.NVImage.loadFromBase64 = () => Promise.reject(new Error('torn')), undefined")
    choose(browser, "case", 1)
    browser.wait(f"{status()}.startsWith('case_a cannot be shown (torn);')")
    assert browser.evaluate("document.querySelectorAll('[aria-valuetext]').length") == 0
    for place in (1, 0):  # with no volumes, as before the first are read
        choose(browser, "window", place)
    set_range(browser, '[data-opacity="truth"]', 0.4)
    assert browser.complaints() == []
    assert colors(pixels()) < 100
    browser.evaluate("niivue.NVImage.loadFromBase64 = window.kept, undefined")
    choose(browser, "case", 0)
    browser.wait(f"{status()} === 'case_b is shown.'")
    assert np.abs(pixels() - before).mean() < 1
    assert browser.evaluate("document.querySelectorAll('[aria-valuetext]').length") == 3


def test_tab_reaches_every_control_and_each_has_a_name(browser):
    controls = "document.querySelectorAll('#viewer-section button, #viewer-section select, #viewer-section input')"
    named = browser.evaluate(
        f"[...{controls}].map((e) => (e.labels && e.labels.length ? e.labels[0] : e).textContent.trim())"
    )
    assert len(named) == 13
    assert all(named)
    browser.evaluate("document.getElementById('viewer-case').focus()")
    reached = set()
    for _ in range(16):
        focused = f"[...{controls}].indexOf(document.activeElement)"
        reached.add(browser.evaluate(focused))
        browser.press("Tab", 9)
    assert reached >= set(range(13))
    assert browser.evaluate("[...document.images].every((e) => e.alt.length > 10)")
    scrolled = "[...document.querySelectorAll('[tabindex=\"0\"]')].filter((e) => e.id !== 'viewer-canvas')"
    assert browser.evaluate(f"{scrolled}.every((e) => e.getAttribute('role') === 'region' && e.ariaLabel)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, scheme):
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    found = browser.evaluate(CONTRASTS)
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert len(found) > 100
    assert [entry for entry in found if entry[0] < 4.5] == []


def test_it_stays_without_complaint(browser):
    """After all of the above."""
    assert browser.complaints() == []

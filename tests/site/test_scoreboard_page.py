"""The scoreboard in a browser: one note opens under the pointer, by the Tab key and by a touch, inside the window, and the tile leads on."""

import time
from pathlib import Path

import pandas as pd
import pytest

from xai_repro.study import claims, scoreboard

browser = pytest.importorskip("browser")
STYLE = Path(__file__).parents[2] / "book/_static/home.css"
OPEN = "[...document.querySelectorAll('.xr-tip')].filter(tip => getComputedStyle(tip).visibility == 'visible').map(tip => tip.id)"
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    row = {"place": "Table 7", "says": "A claim in some words, as many as a claim has. " * 3, "estimate": 0.2, "low": 0.1, "high": 0.3, "n": 24, "networks": 5}
    row |= dict.fromkeys(("detail", "paper_outcome", "paper_count", "stands_in"), "")
    rows = [row | {"id": f"c{i}", "paper": paper, "outcome": claims.OUTCOMES[i % 5]} for i, paper in enumerate(["clam"] * 30 + ["lfi_cam"] * 3)]
    board = scoreboard.html(pd.DataFrame(rows, columns=claims.COLUMNS), {}, {"clam": ["One."], "lfi_cam": ["Two."]})
    page = f'<!doctype html><meta name="viewport" content="width=device-width"><style>{STYLE.read_text()}</style><div class="bd-article">{board}</div>'
    (folder / "index.html").write_text(page)
    (folder / "notebooks").mkdir()
    (folder / "notebooks/90_claims.html").write_text("<!doctype html><title>claims</title>")
    return folder / "index.html"


@pytest.fixture
def page(place):
    with browser.started() as page:
        page.open(place)
        yield page


def test_a_note_opens_under_the_pointer_and_by_the_keyboard(page):
    assert page.run(OPEN) == []
    page.move(*page.centre(".xr-tiles .xr-tile:nth-child(3)"))
    assert page.run(OPEN) == ["claim-c2"]
    for _ in range(6):  # the paper's name, then tile after tile
        page.press("Tab")
    assert page.run(OPEN) == ["claim-c4"] and page.run("document.activeElement.getAttribute('aria-labelledby')") == "claim-c4"
    page.press("Enter")
    page.until("document.title == 'claims'")


def test_a_first_touch_opens_the_note_and_a_second_leads_on(page, place):
    page.size(390, 844)
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "hover", "value": "none"}])
    page.open(place)
    for number, found in ((4, "claim-c3"), (11, "claim-c10")):
        touch(page, f".xr-tiles .xr-tile:nth-child({number})")
        page.until(f"JSON.stringify({OPEN}) == '[\"{found}\"]'")
    box = page.run("(r => [r.left, r.right])(document.getElementById('claim-c10').getBoundingClientRect())")
    assert 0 <= box[0] and box[1] <= 390 and page.run("document.documentElement.scrollWidth") <= 390
    touch(page, ".xr-tiles .xr-tile:nth-child(11)")
    page.until("document.title == 'claims'")


def touch(page, selector):
    time.sleep(0.4)  # else two touches are one double touch
    x, y = page.centre(selector)
    page.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


@pytest.mark.parametrize("dark", [False, True])
def test_signs_and_notes_have_the_contrast_of_text(page, dark):
    """4.5 to 1, by the colours that the browser computes."""
    page.run(f"document.documentElement.dataset.theme = '{'dark' if dark else 'light'}'")
    pairs = page.run(
        "[...document.querySelectorAll('.xr-tile > a, .xr-sign')].map(e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]).concat("
        "[...document.querySelectorAll('.xr-tip, .xr-tip *')].map(e => [getComputedStyle(e).color, getComputedStyle(e.closest('.xr-tip')).backgroundColor]))"
    )
    assert len(pairs) > 100 and min(contrast(*pair) for pair in pairs) >= 4.5


def contrast(one, other):
    bright, dim = sorted((luminance(colour) for colour in (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for weight, c in zip((0.2126, 0.7152, 0.0722), parts))

"""Every page as a browser shows it, light and dark, on a desk and on a phone.

A small site is built of the project's own prose, settings and styles; XAI_REPRO_SITE=build/html has these tests look at that site instead.
"""

import os
import re
from collections import defaultdict
from pathlib import Path

import browser
import pytest
from toy_site import built, EMPTY

HERE = Path(__file__).parent
SITE = os.environ.get("XAI_REPRO_SITE")
PARTS, LOOKS = ((HERE / name).read_text(encoding="utf-8") for name in ("parts.js", "looks.js"))
WIDTHS, SCHEMES = {"desk": (1280, 800), "phone": (390, 844)}, ("light", "dark")
KINDS = ("width", "contrast", "id", "words", "console", "network")
MOST = 3e6  # bytes of a page and its pictures; the explorer has many

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.chromium(), reason="no Chromium here, so what pages look like is not tested: install chromium"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Path(SITE).resolve() if SITE else built(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site):
    found = sorted(path for path in site.rglob("*.html") if path.relative_to(site).parts[0] not in ("_static", "files"))
    assert len(found) > 10
    return [path for path in found if EMPTY not in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def wrong(site, pages):
    """kind -> what is wrong on which pages."""
    found = defaultdict(list)
    with browser.started() as page:
        for path in pages:
            for where, kind, what in looked_at(page, path):
                found[kind].append(f"{path.relative_to(site)}{where}: {what}")
    return found


def looked_at(page, path):
    """(where, kind, sentence) of all that is wrong with one page, for a reader who comes for the first time."""
    page.open(path)
    for kind, what in page.run(PARTS):
        yield "", kind, what
    for width, size in WIDTHS.items():
        for scheme in SCHEMES:
            page.size(*size)
            page.scheme(scheme)
            page.until(f"document.documentElement.dataset.theme !== '{'dark' if scheme == 'light' else 'light'}'")
            for kind, what in page.run(LOOKS):
                yield f" ({scheme}, {width})", kind, what
    for error in page.errors:
        yield "", "console", error
    for address in page.foreign():
        yield "", "network", address


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong_with_any_page(kind, wrong):
    found = list(dict.fromkeys(wrong[kind]))
    if found:
        pytest.fail(f"{len(found)} found:\n" + "\n".join(found[:50]), pytrace=False)


def test_no_page_is_heavy(site, pages):
    heavy = {}
    for path in pages:
        text = path.read_text(encoding="utf-8")
        pictures = set(re.findall(r'<img[^>]*? src="([^":]+)"', text))
        files = [(path.parent / source).resolve() for source in pictures]
        size = len(text.encode()) + sum(file.stat().st_size for file in files if file.is_file())
        if size > MOST and "explorer" not in path.name:
            heavy[str(path.relative_to(site))] = f"{size / 1e6:.1f} MB"
    assert not heavy


def test_what_is_wrong_is_found(tmp_path):
    """One of each: the tests above are worth what they find."""
    path = tmp_path / "bad.html"
    path.write_text(
        """<!doctype html><html><meta name="viewport" content="width=device-width"><body style="background: #fff; color: #000"><article class="bd-article">
        <p id="twice" style="color: #999">Pale.</p><p id="twice">Dark.</p><p style="background: #0008; color: #888"><b style="background: #fff">Half.</b></p>
        <div style="overflow-x: auto"><div style="width: 2000px">May be scrolled.</div></div><div style="width: 1100px">Too wide for a phone.</div>
        <div style="overflow: hidden; white-space: nowrap; width: 30px">Cut off.</div><a href="#nowhere">To nothing.</a><button></button>
        <img src="none.png" alt=""><figure><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="f.png"></figure>
        <img src="https://example.org/a.png" alt="Elsewhere"></article><script>console.error("broken"); undefined.more</script>""",
        encoding="utf-8",
    )
    with browser.started() as page:
        found = {(where, kind, what.partition(":")[0].partition(",")[0]) for where, kind, what in looked_at(page, path)}
    kinds = defaultdict(set)
    for where, kind, what in found:
        kinds[kind].add((where, what))
    assert {what for where, what in kinds["width"] if "phone" not in where} == {"cut off"}
    assert {what.split(",")[0] for where, what in kinds["width"] if "light, phone" in where} == {"cut off", "wider than its column", "the page scrolls sideways"}
    assert {what for where, what in kinds["contrast"] if "light, desk" in where} == {"2.85", "3.54"}
    assert {what for _, what in kinds["id"]} == {"2 elements are #twice", "a link to nothing"}
    assert {"a picture without words", "a picture that is not there", "a figure without a caption", "a control without a name"} == {what for _, what in kinds["words"]}
    assert any("broken" in what for _, what in kinds["console"]) and any("TypeError" in what for _, what in kinds["console"])
    assert {what for _, what in kinds["network"]} == {"https"}

"""The explorer, as a reader uses it: from a file, by mouse and by keyboard alone."""

import base64
import json
import re
import shutil
from io import BytesIO
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image

import xai_repro as xr
from xai_repro.study import explorer

BOOK = Path(__file__).parents[2] / "book"
METHODS = ["grad-cam", "linear-approximation", "excitation-backprop", "random"]
pytestmark = pytest.mark.skipif(not browser.chromium(), reason="no Chromium is installed")


def page_of(folder):
    """The explorer as a page of its own, without the site around it."""
    body = re.search(r"```\{raw\} html\n(.*?)```", (BOOK / "explorer.md").read_text(), re.S)[1]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Explorer</title>'
    folder.joinpath("explorer.html").write_text(f'{head}<article class="bd-article">{body}</article>')
    shutil.copytree(BOOK / "_own", folder, dirs_exist_ok=True)
    return folder / "explorer.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    settings = {"name": "smoke", "hyper": {}, "costly": [name for name in xr.methods() if name not in METHODS]}
    explorer.write(folder / "files/07_explorer", settings | {"models": ["mini-vgg", "mini-resnet"], "datasets": ["mini-birds", "mini-scenes"]}, {"other": 2}, photographs=0)
    return page_of(folder)


@pytest.fixture(scope="module")
def started():
    with browser.started() as page:
        yield page


@pytest.fixture
def page(started, site):
    started.size(1280, 900)
    started.scheme("light")
    started.open(site)
    started.until("document.getElementById('xe').dataset.shown")
    yield started
    assert not started.errors and not started.foreign()


@pytest.fixture(scope="module")
def cases(site):
    read = {}
    for path in (site.parent / "files/07_explorer").glob("*.js"):
        read[path.name] = json.loads(path.read_text().partition(" = ")[2].rstrip(";\n"))
    return read


def case(cases, network, picture, kind):
    """The case of the n-th picture of a network and its n-th class, and the picture."""
    pictures = next(one for one in cases["data.js"]["networks"] if one["name"] == network)["pictures"]
    return cases[pictures[picture]["classes"][kind]["file"]], pictures[picture]


def choose(page, name, value):
    page.run(f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change', {{bubbles: true}})) }})(document.getElementById('xe-{name}'))")


def shown(page):
    return page.run("document.getElementById('xe').dataset.shown")


def table(page):
    """The scores as they stand: metric -> [left, right]."""
    rows = page.run("[...document.querySelectorAll('#xe-scores tr')].map(row => [...row.cells].map(cell => cell.textContent))")
    return {name.split()[0]: values for name, *values in rows}


def scores(one, metric, *methods):
    values = [one["scores"][metric][one["methods"].index(method)] for method in methods]
    return ["\u2013" if value is None else f"{value:.3f}" for value in values]


def pixels(page, name):
    """A canvas as [H,W,3]."""
    script = "(c => [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]])(document.getElementById('xe-%s'))" % name
    height, width, values = page.run(script)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def sprite(one, method):
    """The map and the order of a method, [H,W] each."""
    whole = np.asarray(Image.open(BytesIO(base64.b64decode(one["sprite"].partition(",")[2]))))[..., 0]
    side, row = whole.shape[1] // 2, one["methods"].index(method)
    return np.split(whole[row * side : (row + 1) * side], 2, axis=1)


def test_first_sight(page, cases):
    one, picture = case(cases, "mini-vgg", 0, 0)
    assert shown(page) == f"mini-vgg {picture['data']}/{picture['name']} {picture['classes'][0]['name']} grad-cam excitation-backprop"
    assert table(page) == {metric: scores(one, metric, "grad-cam", "excitation-backprop") for metric in explorer.METRICS}
    assert page.run("document.getElementById('xe-absent').hidden") and not page.run("document.getElementById('xe').hidden")


def test_choosing(page, cases):
    choose(page, "network", "mini-resnet")
    page.run("document.querySelectorAll('#xe-pictures input')[2].click()")
    page.until("document.getElementById('xe').dataset.shown.includes('mini-scenes')")
    one, picture = case(cases, "mini-resnet", 2, 1)
    choose(page, "class", picture["classes"][1]["name"])
    choose(page, "left", "random")
    choose(page, "right", "linear-approximation")
    page.until(f"document.getElementById('xe').dataset.shown.endsWith({json.dumps(picture['classes'][1]['name'] + ' random linear-approximation')})")
    assert table(page) == {metric: scores(one, metric, "random", "linear-approximation") for metric in explorer.METRICS}
    said = page.run("document.getElementById('xe-said').textContent")
    assert "left, random: average-drop " + scores(one, "average-drop", "random")[0] in said and "right, linear-approximation: " in said
    better = page.run("[...document.querySelectorAll('#xe-scores tr')].map(row => [...row.querySelectorAll('td')].findIndex(cell => cell.querySelector('strong')))")
    for place, (metric, about) in zip(better, cases["data.js"]["metrics"].items()):
        a, b = scores(one, metric, "random", "linear-approximation")
        assert place == (-1 if a == b or "\u2013" in (a, b) else int((float(b) > float(a)) == (about["better"] == "higher"))), metric
    assert page.run("document.getElementById('xe-same').hidden")
    choose(page, "left", "linear-approximation")
    assert not page.run("document.getElementById('xe-same').hidden")
    choose(page, "left", "random")
    choose(page, "network", "mini-vgg")  # the picture and the methods stay
    page.until("document.getElementById('xe').dataset.shown.startsWith('mini-vgg mini-scenes')")
    assert shown(page).endswith("random linear-approximation")


def test_maps_have_their_colours(page, cases):
    choose(page, "right", "linear-approximation")
    one, _ = case(cases, "mini-vgg", 0, 0)
    tables = {name: np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(256, 3).astype(float) for name, digits in cases["data.js"]["colours"].items()}
    photo = np.array(page.run("(async () => { const i = new Image(); i.src = document.querySelector('#xe-pictures input:checked + img').src; await i.decode();"
                              " const c = Object.assign(document.createElement('canvas'), {width: i.naturalWidth, height: i.naturalHeight}).getContext('2d');"
                              " c.drawImage(i, 0, 0); return [...c.getImageData(0, 0, i.naturalWidth, i.naturalHeight).data] })()"), float)  # fmt: skip
    heat, signed = sprite(one, "grad-cam")[0], sprite(one, "linear-approximation")[0]
    grey = photo.reshape(*heat.shape, 4)[..., :3] @ [0.299, 0.587, 0.114]
    share = (0.25 + 0.6 * heat / 255)[..., None]
    assert np.abs(pixels(page, "map-left") - ((1 - share) * grey[..., None] + share * tables["heat"][heat])).max() <= 1
    assert np.abs(pixels(page, "map-right") - tables["signed"][signed] * (0.55 + 0.45 * grey / 255)[..., None]).max() <= 1


def test_wiping_by_the_mouse(page):
    x, y = page.centre("#xe-stage")
    box = page.run("(r => [r.left, r.width])(document.getElementById('xe-stage').getBoundingClientRect())")
    page.drag((x, y), (x - 40, y), (box[0] + box[1] / 4, y + 10))
    assert page.run("document.getElementById('xe-divider').value") in ("24", "26")
    value = int(page.run("document.getElementById('xe-divider').value"))
    assert page.run("document.getElementById('xe-map-left').style.clipPath") == f"inset(0px {100 - value}% 0px 0px)"
    assert page.run("document.getElementById('xe-line').style.left") == f"{value}%"
    page.drag((x, y), (box[0] - 50, y))  # beyond the edge
    assert page.run("document.getElementById('xe-divider').value") == "0"


def test_what_is_under_the_mouse(page, tmp_path):
    """Left of the divider the left map is seen, right of it the right one."""
    x, y = page.centre("#xe-stage")
    left, top, width, height = page.run("(r => [r.left, r.top, r.width, r.height])(document.getElementById('xe-stage').getBoundingClientRect())")
    page.picture(tmp_path / "seen.png")
    seen = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB")).astype(int)
    maps = {side: pixels(page, f"map-{side}").astype(int) for side in ("left", "right")}
    for across in (0.1, 0.3, 0.7, 0.9):
        for down in (0.15, 0.85):
            here = seen[int(top + down * height), int(left + across * width)]
            found = {side: np.abs(one[int(down * len(one)), int(across * len(one))] - here).max() for side, one in maps.items()}
            assert found["left" if across < 0.5 else "right"] <= 3


@pytest.mark.parametrize("way", ["deletion", "insertion"])
def test_dragging_along_the_curve(page, cases, way):
    if way == "insertion":
        page.click(*page.centre("input[value=insertion]"))
    one, picture = case(cases, "mini-vgg", 0, 0)
    page.centre("#xe-chart")
    left, top, width, height = page.run("(r => [r.left, r.top, r.width, r.height])(document.getElementById('xe-chart').getBoundingClientRect())")
    y, points = top + height / 3, explorer.STEPS - 1
    page.drag((left + width / 2, y), (left + width * (34 + 278 * 3 / points) / 320, y))
    assert page.run("document.getElementById('xe-share').value") == "3" and page.run("document.getElementById('xe-share-said').textContent") == "30 %"
    for side, method in (("left", "grad-cam"), ("right", "excitation-backprop")):
        chance = one[way][one["methods"].index(method)][3]
        assert page.run(f"document.getElementById('xe-chance-{side}').textContent") == f"{method}: probability {chance:.3f}"
        assert f"{chance:.3f}" in page.run(f"document.getElementById('xe-seen-{side}').ariaLabel")
        seen, replaced = pixels(page, f"seen-{side}"), sprite(one, method)[1] <= 3
        gone = (seen == picture["nothing"]).all(-1)
        assert gone[replaced].all() and not gone[~replaced].all() if way == "deletion" else gone.mean() < 0.1


def test_the_keyboard_alone(page, cases):
    """Every control is reached by Tab and changed by keys; what has the focus is named."""
    focus = "(e => e.id || e.name + '=' + e.value)(document.activeElement)"
    visited = []
    for _ in range(8):
        page.press("Tab")
        visited.append(page.run(focus))
        assert page.run("(e => !!(e.labels?.length || e.ariaLabel))(document.activeElement)"), visited[-1]
        name = visited[-1]
        if name in ("xe-network", "xe-left", "xe-right") or name.startswith(("xe-picture=", "xe-way=")):
            page.press("ArrowDown")
        elif name in ("xe-divider", "xe-share"):
            page.press("ArrowRight", "ArrowRight", "ArrowRight")
        page.until("!window.wait") if name != "xe-network" else page.until("document.getElementById('xe').dataset.shown.startsWith('mini-resnet')")
    _, first = case(cases, "mini-resnet", 0, 0)
    _, second = case(cases, "mini-resnet", 1, 0)
    names = [f"xe-picture={first['data']}/{first['name']}", "xe-class", "xe-left", "xe-right", "xe-divider", "xe-way=deletion", "xe-share"]
    assert visited[0] == "xe-network" and visited[1:8] == names, visited
    page.until(f"document.getElementById('xe').dataset.shown.includes({json.dumps(second['data'] + '/' + second['name'])})")
    assert page.run("document.getElementById('xe-divider').value") == "56" and page.run("document.getElementById('xe-share').value") == "5"
    assert page.run("document.querySelector('input[name=xe-way]:checked').value") == "insertion"
    left, right = (page.run(f"document.getElementById('xe-{side}').value") for side in ("left", "right"))
    assert left != "grad-cam" and right != "excitation-backprop" and shown(page).endswith(f"{left} {right}")
    assert page.run("document.getElementById('xe-divider').ariaValueText ?? document.getElementById('xe-divider').getAttribute('aria-valuetext')").startswith(f"56 % {left}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(page, site, scheme):
    page.size(390, 844)
    page.scheme(scheme)
    page.open(site)
    page.until("document.getElementById('xe').dataset.shown")
    assert page.run("document.documentElement.scrollWidth") <= 390
    small = "[...document.querySelectorAll('#xe select, #xe-share, #xe-pictures label')].filter(e => e.getBoundingClientRect().height < 32).map(e => e.id)"
    assert page.run(small) == []
    assert page.run("[...document.querySelectorAll('#xe canvas')].filter(c => !c.ariaLabel && !c.getAttribute('aria-label')).length") == 0


def test_without_its_files_the_page_says_so(started, tmp_path):
    started.open(page_of(tmp_path))
    said = started.run("document.querySelector('#xe-absent').textContent")
    assert "files/07_explorer/data.js is missing" in said and "xai-repro run 07" in said
    assert started.run("document.getElementById('xe').hidden")

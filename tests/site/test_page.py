"""A page: the result first, and the way back under every table and figure."""

import json
import re

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from xai_repro.site.page import page
from xai_repro.study import figures, plots, provenance
from xai_repro.study.shown import Shown, size

v4 = nbformat.v4


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(provenance, "_SEEN", {})


@pytest.fixture
def place(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "10_a").mkdir()
    return tmp_path


def output(shown):
    data, metadata = shown._repr_mimebundle_()
    return v4.new_output("display_data", data=data, metadata=json.loads(json.dumps(metadata)))  # as a kernel sends it


def executed(*cells, **parameters):
    run = {"parameters": {"profile": "smoke", "results": ".."} | parameters, "end_time": "2026-01-02T03:04:05", "input_path": "/a/b.ipynb"}
    return v4.new_notebook(cells=[v4.new_markdown_cell("# Title\n\nWhat is asked."), *cells], metadata={"papermill": run})


def shown_in(place, *shown, **parameters):
    """The HTML that the page of a notebook with these outputs holds."""
    made = page(executed(v4.new_code_cell("show()", outputs=[output(one) for one in shown]), **parameters), "10_a", place)
    nbformat.validate(made)
    return [one.data["text/html"] for cell in made.cells for one in cell.get("outputs", [])]


def table(place, **about):
    (place / "10_a/t.csv").write_text("a\n1\n")
    return Shown({"text/html": "<table><tr><td>1</td></tr></table>"}, "../10_a/t.csv", {"kind": "table", "caption": "Of `a`, & more.", **about})


def test_the_result_comes_under_the_title_and_the_profile_is_said(place):
    cells = [
        v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
        v4.new_code_cell("n = 2", metadata={"tags": ["injected-parameters"]}),
        v4.new_markdown_cell("## Later"),
        v4.new_code_cell("say()", metadata={"tags": ["result"]}, outputs=[v4.new_output("display_data", data={"text/markdown": "It holds."})]),
    ]
    made = page(executed(*cells, n=2), "10_a", place)
    nbformat.validate(made)
    assert [cell.source for cell in made.cells] == [
        "# Title", "say()", "What is asked.", "*Profile `smoke`, run on 2026-01-02, with `n` = `2`.*", "n = 1", "n = 2", "## Later",
    ]  # fmt: skip
    tags = {cell.source: cell.metadata.tags for cell in made.cells}
    assert "hide-input" in tags["say()"] and "hide-input" in tags["n = 1"] and "remove-cell" in tags["n = 2"] and "hide-input" not in tags["n = 2"]
    assert "papermill" not in made.metadata and made.cells[1].outputs[0].data["text/markdown"] == "It holds."


def test_a_table_has_a_frame_a_caption_and_the_way_back(place):
    provenance.saw("net", "w" * 64, "birds", "i" * 64, (0, 3), commit="c" * 40, versions={"torch": "9"}, device="gpu", seed=5)
    provenance.saw("net", "v" * 64, "birds", "i" * 64, (2, 6), commit="c" * 40, versions={"torch": "9"}, device="gpu", seed=None)
    (html,) = shown_in(place, table(place, provenance=provenance.told()))
    assert '<div class="xr-scroll" tabindex="0"><table>' in html and "<figcaption>Of <code>a</code>, &amp; more.</figcaption>" in html
    assert re.findall(r'href="([^"]+)" download>(\w+)<', html) == [("../files/10_a/t.csv", "csv")]
    assert "<code>xai-repro run 10_a --profile smoke</code>" in html
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert facts == {
        "profile": "smoke", "commit": "c" * 12, "versions": "torch 9", "device": "gpu", "seed": "5",
        "weights of net": f"<code>{'w' * 12}</code>, <code>{'v' * 12}</code>", "images of birds": f"6; <code>{'i' * 12}</code>",
    }  # fmt: skip


def test_a_papers_table_names_its_own_command_and_its_parquet(place):
    (place / "10_a/t.parquet").touch()
    (html,) = shown_in(place, table(place, paper="lift_cam", table="4"))
    assert "<code>xai-repro table lift_cam 4 --profile smoke</code>" in html and 'href="../files/10_a/t.parquet" download>parquet<' in html


@pytest.mark.parametrize("ending", ["svg", "png", "webp"])
def test_a_figure_is_a_picture_with_words_and_a_size(place, ending):
    drawn = plots.curves({"ours": np.arange(5), "theirs": np.arange(5)[::-1]}, xlabel="share", ylabel="score")
    shown = plots.show(drawn, place / f"10_a/f.{ending}", caption='Two "lines".')
    shown = Shown(shown.content, f"../10_a/f.{ending}", shown.about)
    (html,) = shown_in(place, shown)
    image = re.search(r'<img src="([^"]+)" alt="([^"]+)" loading="lazy" width="(\d+)" height="(\d+)" style="min-width:(\d+)px">', html)
    assert image[1] == f"../files/10_a/f.{ending}" and image[2] == "Chart; across: share; up: score; lines: ours, theirs."
    assert 1.5 < int(image[3]) / int(image[4]) < 1.8 and '<figcaption>Two "lines".</figcaption>' in html
    smallest = 10 / 72 * (96 if ending == "svg" else 150)  # pixels of the legend's 10 points where the picture is as wide as it is
    assert smallest * int(image[5]) / int(image[3]) == pytest.approx(9, abs=0.05)


def test_the_smallest_text_that_is_drawn_says_how_wide_a_figure_has_to_be(tmp_path):
    figure = Figure(figsize=(4, 2))
    left, right = figure.subplots(1, 2)
    left.imshow(np.zeros((2, 2)))
    left.set_axis_off()
    left.set_xlabel("of an axis that is off", fontsize=1)
    right.plot([0, 1])
    right.text(0, 0, "", fontsize=2)
    right.text(0, 0, "hidden", fontsize=3, visible=False)
    right.text(0.5, 0.5, "seen", fontsize=6)
    path = figures.save(figure, tmp_path / "f.svg")
    assert figures.least_width(figure, path) == int(size(path)[0] * 9 / (6 * 96 / 72))
    bare = Figure(figsize=(4, 2))
    bare.subplots().set_axis_off()
    assert figures.least_width(bare, figures.save(bare, tmp_path / "bare.svg")) == 0


def test_what_was_not_saved_stays_as_it_was(place):
    plain = v4.new_output("display_data", data={"text/html": "<b>x</b>"})
    made = page(executed(v4.new_code_cell("x", outputs=[plain])), "10_a", place)
    assert made.cells[-1].outputs == [plain]


def test_pictures_are_described_by_their_headings():
    figure = Figure()
    axes = figure.subplots(2, 2)
    for axis, title, row in zip(axes.flat, ["image", "grad-\u200bcam", "", ""], ["owl", "", "jay", ""]):
        axis.imshow(np.zeros((2, 2)))
        axis.set_title(title)
        axis.set_ylabel(row)
    assert figures.described(figure) == "4 pictures; headed image, grad-cam; in rows for owl, jay."
    assert figures.described(Figure()) == "Nothing is drawn."


def test_the_same_figure_is_the_same_file(tmp_path):
    for ending in ("svg", "png", "webp"):
        paths = [plots.save(plots.curves({"a": np.arange(4.0)}), tmp_path / f"{n}.{ending}") for n in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_nothing_was_seen_of_is_this_process():
    found = provenance.told()
    assert found["models"] == found["data"] == {} and found["seed"] == [] and found["versions"][0].startswith("python 3")
    assert json.loads(json.dumps(found)) == found

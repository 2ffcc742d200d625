"""A small site, whole: the project's prose, settings and styles, with made-up results, one notebook of each kind of output, and the titles of the others."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from toy_rows import LIFT, table7

import xai_repro as xr
from xai_repro import claims, plots, tables
from xai_repro.site.book import book
from xai_repro.store.files import write_text
from xai_repro.study import explorer, scoreboard, slopes, which

ROOT = Path(__file__).parents[2]
SHOWN, EMPTY = "10_lift_cam_faithfulness", "Not shown here."
v4 = nbformat.v4


def built(folder):
    """Build the site in a folder; where it is."""
    place = folder / "results/smoke"
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source.split("\n")[0]
        _write(path.stem, [v4.new_markdown_cell(f"{title}\n\n{EMPTY}")], folder, place)
    rows = table7(LIFT, spread=0.1)
    checked = claims.check(rows, "lift_cam")
    _write(SHOWN, _cells(rows, checked, place / SHOWN), folder, place)
    _start(checked, place)
    read = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").rglob("*.md"))
    for name in sorted(set(re.findall(r"results/(\d\d_[\w-]+/[\w.-]+)", read))):
        _stand_in(place / name)
    assert book("smoke", results=folder / "results", out=folder / "build", folder=folder / "notebooks", pages=ROOT / "book")
    return folder / "build/html"


def _start(checked, place):
    """What the start page and the explorer show, of few rows and one bird."""
    rows = pd.concat([table7(LIFT, spread=0.1, run=0, empty=False, metric=metric) for metric in (which.FAITHFUL, which.FINDS)], ignore_index=True)
    settings = {"name": "smoke", "models": ["mini-vgg"], "datasets": ["mini-birds"], "hyper": {}, "costly": [name for name in xr.methods() if name not in ("grad-cam", "lift-cam")]}
    which.at_home(which.compared(rows, settings), place / "92_which_method")
    write_text(scoreboard.html(checked, {}, dict.fromkeys(checked["paper"], "Not run here.")), place / "90_claims/scoreboard.html")
    explorer.write(place / "07_explorer", settings, {"other": 1}, photographs=0)


def _write(name, cells, folder, place):
    """A notebook, and the same as if it had been run."""
    made = v4.new_notebook(cells=cells, metadata={"papermill": {"parameters": {"profile": "smoke"}, "end_time": "2026-01-02T03:04:05"}})
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for path in (folder / "notebooks", place / "notebooks"):
        path.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, path / f"{name}.ipynb")


def _cells(rows, checked, into):
    """Outputs of each kind: tables beside the papers', claims, a chart, pictures, words, mathematics, a table of pandas."""
    into.mkdir(parents=True)
    compared, summary, pictures = tables.compare(rows, "lift_cam", "7", column="Average"), tables.summary(rows), Figure()
    for axis in pictures.subplots(1, 3):
        axis.imshow(np.arange(16).reshape(4, 4))
    shown = [
        tables.show(compared, into / "table7.csv"),
        plots.show(slopes.slopes(compared), into / "slopes.svg", caption="Printed, and ours."),
        tables.show(summary, into / "summary.csv"),
        claims.show(checked, into / "claims.csv"),
        claims.show(checked.head(3), into / "some_claims.csv"),
        plots.show(plots.bars(summary), into / "bars.svg", caption="Means, by `method`."),
        plots.show(pictures, into / "pictures.webp", caption="Three pictures."),
        rows.head(),
    ]
    code = [v4.new_code_cell("show(" + "a_long_name, " * 30 + ")", outputs=[_output(one)]) for one in shown]
    words = v4.new_markdown_cell(
        "## Words\n\n$$\\sum_k \\alpha_k A_k + \\frac{a + b + c + d + e}{f + g + h + i + j} + \\prod_{m=1}^{M} x_m y_m z_m + u_1 + u_2 + u_3 + u_4 + u_5 + u_6 + u_7$$\n\n"
        "| a | b |\n|---|---|\n| 1 | [](04_known_truth) |\n\n`" + "a_long_name_" * 12 + "`\n"
    )
    said = v4.new_code_cell("say()", metadata={"tags": ["result"]}, outputs=[v4.new_output("display_data", data={"text/markdown": "It **holds**."})])
    printed = v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", text="1 " * 300)])
    return [v4.new_markdown_cell("# Every kind of output\n\nWhat is asked."), said, *code, words, printed]


def _output(shown):
    """As a kernel sends it."""
    if not hasattr(shown, "_repr_mimebundle_"):
        return v4.new_output("display_data", data={"text/html": shown._repr_html_()})
    data, metadata = shown._repr_mimebundle_()
    return v4.new_output("display_data", data=data, metadata=json.loads(json.dumps(metadata)))


def _stand_in(path):
    """Something to show where a page shows a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    if path.suffix == ".html":
        path.write_text("<p>Not run here.</p>")
    elif path.suffix == ".csv":
        path.write_text("claim,says,outcome,estimate\n" + "lift_cam,LIFT-CAM is better than the others by what is asked of all of them here,holds,.5 [.4; .6]\n" * 3)
    elif path.suffix in (".svg", ".png", ".webp"):
        plots.save(plots.curves({"a": np.arange(4.0)}), path)

"""From an executed notebook to a page: the result first, code folded, and under every table and figure the way back to what made it."""

import re
from html import escape
from pathlib import Path

import nbformat
from PIL import Image

from xai_repro.site.picker import picker

SERVED = "files"  # folder of the site with what notebooks wrote, NN_name/... in it
_POINT = 96 / 72  # pixels of a browser


def page(notebook, name, place):
    """The page of an executed notebook, as a notebook for the builder. place: the folder of the profile's results; name: of the notebook.

    What a cell tagged `result` shows is moved under the title, a line says which profile the numbers are from, and code is folded.
    """
    given = notebook.metadata.pop("papermill", {})
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        if cell.cell_type == "code":
            tags.append("remove-cell" if "injected-parameters" in tags else "hide-input")
            profile = given.get("parameters", {}).get("profile", "mini")
            cell.outputs = [_with_way_back(output, name, profile, place) for output in cell.outputs]
            cell.outputs = [picker(cell.outputs, cell.id)] if "picker" in tags else cell.outputs
        cell.metadata.pop("papermill", None)
    first = [cell for cell in notebook.cells if "result" in cell.metadata["tags"]]
    others = [cell for cell in notebook.cells if "result" not in cell.metadata["tags"]]
    note = nbformat.v4.new_markdown_cell(f"*{_told(given)}*", id="profile", metadata={"tags": []})
    notebook.cells = [*_title_apart(others[0]), *first, *_rest(others[0]), note, *others[1:]] if others else first
    return notebook


def _told(given):
    """Which profile the numbers of a page are from."""
    parameters = given.get("parameters", {})
    others = ", ".join(f"`{name}` = `{value}`" for name, value in parameters.items() if name not in ("profile", "results"))
    return f"Profile `{parameters.get('profile')}`, run on {(given.get('end_time') or '')[:10]}" + (f", with {others}" if others else "") + "."


def _title_apart(cell):
    """The title of a page alone, as a list of one cell."""
    title = cell.source.split("\n", 1)[0]
    return [nbformat.v4.new_markdown_cell(title, id="title", metadata={"tags": []})]


def _rest(cell):
    """What the first cell says after its title, as a list of no cell or one."""
    text = cell.source.partition("\n")[2].strip()
    return [nbformat.v4.new_markdown_cell(text, id="asked", metadata={"tags": []})] if text else []


def _with_way_back(output, name, profile, place):
    """An output as the page shows it: tables and figures that were saved are framed, captioned, and followed by the way back."""
    about = output.get("metadata", {}).get("xai_repro")
    if not about:
        return output
    file = (Path(place, "notebooks", about["file"])).resolve().relative_to(Path(place).resolve())
    caption = f"<figcaption>{_inline(about['caption'])}</figcaption>" if about.get("caption") else ""
    if about["kind"] == "figure":
        shown = _image(Path(place, file), file, about)
    else:
        shown = f'<div class="xr-scroll" tabindex="0">{output.data["text/html"]}</div>'
    html = f'<figure class="xr-{about["kind"]}">{shown}{caption}{_way_back(about, file, name, profile, place)}</figure>'
    return nbformat.v4.new_output("display_data", data={"text/html": html})


def _image(path, file, about):
    width, height = _size(path)
    return f'<img src="../{SERVED}/{file.as_posix()}" alt="{escape(about["alt"])}" loading="lazy" width="{width}" height="{height}">'


def _size(path):
    """Width and height of a picture in a browser's pixels."""
    if path.suffix == ".svg":
        head = path.read_text(encoding="utf-8")[:4000]
        return [round(float(re.search(rf'<svg[^>]* {side}="([\d.]+)pt"', head)[1]) * _POINT) for side in ("width", "height")]
    with Image.open(path) as picture:
        return picture.size


def _way_back(about, file, name, profile, place):
    """The line under a table or figure: its files, the command that makes it again, and a fold with what made it."""
    files = [one for one in (file, file.with_suffix(".parquet")) if Path(place, one).is_file()]
    links = [f'<a href="../{SERVED}/{one.as_posix()}" download>{one.suffix[1:]}</a>' for one in files]
    command = f"xai-repro table {about['paper']} {about['table']}" if about.get("table") else f"xai-repro run {name}"
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in _facts(about.get("provenance", {}), profile))
    fold = f"<details><summary>provenance</summary><dl>{facts}</dl></details>"
    return f'<div class="xr-back">{" ".join(links)} <code>{escape(command)} --profile {escape(profile)}</code> {fold}</div>'


def _facts(made, profile):
    """Pairs of a name and a text in HTML: what provenance.told() found, shortened."""
    yield "profile", escape(profile)
    for key, called in (("commit", "commit"), ("versions", "versions"), ("device", "device"), ("seed", "seed")):
        if values := [str(value)[:12] if key == "commit" else str(value) for value in made.get(key, []) if value != ""]:
            yield called, escape("; ".join(values))
    for label, weights in made.get("models", {}).items():
        yield f"weights of {label}", _hashes(weights)
    for label, known in made.get("data", {}).items():
        yield f"images of {label}", f"{known['images']}; {_hashes(known['fingerprints'])}"


def _hashes(found, most=5):
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(f"<code>{escape(str(one)[:12])}</code>" for one in found[:most]) + more or "no fingerprint"


def _inline(text):
    """A caption's text as HTML: words between ` are code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))

"""From an executed notebook to a page: the result first, code folded, and under every table and figure the way back to what made it."""

import re
from html import escape
from pathlib import Path

import nbformat

from xai_repro.site.picker import picker
from xai_repro.study.markup import scrolling
from xai_repro.study.shown import size

SERVED = "files"  # folder of the site with what notebooks wrote, NN_name/... in it


def page(notebook, name, place):
    """The page of an executed notebook, as a notebook for the builder. place: the folder of the profile's results; name: of the notebook.

    What a cell tagged `result` shows is moved under the title, a line says which profile the numbers are from, and code is folded.
    """
    given = notebook.metadata.pop("papermill", {})
    profile = given.get("parameters", {}).get("profile", "mini")
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        if cell.cell_type == "code":
            tags.append("remove-cell" if "injected-parameters" in tags else "hide-input")
            cell.outputs = [_with_way_back(output, name, profile, place) for output in cell.outputs]
            cell.outputs = [picker(cell.outputs, cell.id)] if "picker" in tags else cell.outputs
        cell.metadata.pop("papermill", None)
    first = [cell for cell in notebook.cells if "result" in cell.metadata["tags"]]
    others = [cell for cell in notebook.cells if "result" not in cell.metadata["tags"]]
    if others:
        title, _, asked = others.pop(0).source.partition("\n")
        texts = {"asked": asked.strip(), "profile": f"*{_told(given)}*"}
        others = [*(_words(text, name) for name, text in texts.items() if text), *others]
        first = [_words(title, "title"), *first]
    notebook.cells = first + others
    return notebook


def _told(given):
    """Which profile the numbers of a page are from."""
    parameters = given.get("parameters", {})
    others = ", ".join(f"`{name}` = `{value}`" for name, value in parameters.items() if name not in ("profile", "results"))
    return f"Profile `{parameters.get('profile')}`, run on {(given.get('end_time') or '')[:10]}" + (f", with {others}" if others else "") + "."


def _words(text, name):
    return nbformat.v4.new_markdown_cell(text, id=name, metadata={"tags": []})


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
        shown = scrolling(output.data["text/html"])
    html = f'<figure class="xr-{about["kind"]}">{shown}{caption}{_way_back(about, file, name, profile, place)}</figure>'
    return nbformat.v4.new_output("display_data", data={"text/html": html})


def _image(path, file, about):
    width, height = size(path)
    least = min(about.get("least", 0), width)  # on a phone a figure rather scrolls than that its words are too small to be read
    return scrolling(f'<img src="../{SERVED}/{file.as_posix()}" alt="{escape(about["alt"])}" loading="lazy" width="{width}" height="{height}" style="min-width:{least}px">')


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
    for key in ("commit", "versions", "device", "seed"):
        if values := [str(value)[:12] if key == "commit" else str(value) for value in made.get(key, []) if value != ""]:
            yield key, escape("; ".join(values))
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

"""What the files of the project promise each other."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

import xai_repro as xr
from xai_repro.doctor import locked

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(p for p in (ROOT / "book").rglob("*.md") if "_vendor" not in p.parts)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = locked(ROOT / "requirements.lock")


def named(name):
    return [r for r in LOCK if r.name.lower().replace("_", "-") == name.lower().replace("_", "-")]


def test_the_lock_holds_what_the_project_asks_for():
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras]):
        assert named(wanted.name), f"{wanted.name} is not in requirements.lock: make lock"
        for locked in named(wanted.name):
            version = str(locked.specifier).removeprefix("==")
            assert wanted.specifier.contains(version), f"{locked} does not meet {wanted}: make lock"


def test_every_package_of_the_lock_has_its_checksums():
    """pip and uv then install only what is known; one package without a checksum would stop pip."""
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.findall(r"^\w.*(?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)+$", text, re.M)
    assert len(blocks) == len(LOCK) > 200
    lines = Path(ROOT / "Makefile").read_text().splitlines()
    assert any("uv pip compile" in line and "--generate-hashes" in line for line in lines)
    assert sum("--no-deps -r requirements.lock" in line for line in lines) == 2  # by pip and by uv


def test_torch_and_torchvision_are_pinned_as_a_pair():
    for name in ("torch", "torchvision"):
        asked = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name)
        assert str(asked.specifier).startswith("==") and str(named(name)[0].specifier) == str(asked.specifier)


def test_the_conda_environment_installs_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]} and "pip" in plain  # the library itself is a step of its own: a folder has no checksum
    python = next(p for p in plain if p.startswith("python")).split("=")[1]
    assert Requirement("x" + PROJECT["requires-python"]).specifier.contains(python)


def test_versions_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"] == xr.__version__ and cited["license"] == PROJECT["license"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    bibtex = (ROOT / "book/cite.md").read_text()
    assert all(f"{{{part}}}" in bibtex for part in (cited["title"], cited["version"], str(cited["date-released"])[:4], cited["repository-code"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_lean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "committed without outputs"
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1 and not any("injected-parameters" in cell.metadata.get("tags", []) for cell in code)
    names = {node.target.id for node in ast.parse(parameters[0].source).body}  # every one is annotated
    assert {"profile", "results"} <= names
    trees = [ast.parse(cell.source) for cell in code if cell not in parameters]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in nodes), "what needs a def belongs in the library"
    assert not any(cell.source.rstrip().endswith(";") for cell in code), "nbval sees the value that a semicolon hides"
    lines = [
        line
        for cell in code
        if cell not in parameters
        for line in cell.source.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    assert len(lines) <= 30, f"{len(lines)} lines of code"
    assert not any(".to_parquet(" in line for line in lines), "rows are written whole or not at all: xr.write_rows"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# "), "begins with its title"


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if 10 <= int(path.stem[:2]) < 90], ids=lambda p: p.stem)
def test_a_page_of_a_paper_says_first_what_came_out_and_last_what_deviates(path):
    cells = nbformat.read(path, as_version=4).cells
    assert sum("result" in cell.metadata.get("tags", []) for cell in cells) == 1
    headings = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines() if line.startswith("#")]
    assert "?" not in headings[0], "a title says what is measured"
    assert "*Deviation" not in cells[0].source and "## Deviations" not in headings[:-1]
    checked = [cell.source for cell in cells if "claims.check(" in cell.source]
    assert all("said.tested(claims.check(" in source for source in checked), "a page shows the claims that its rows decide"


def test_the_book_has_every_notebook_and_every_page():
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    listed = {toc["root"], *_files(toc)}
    there = {p.relative_to(ROOT / "book").with_suffix("").as_posix() for p in PAGES} | {f"notebooks/{p.stem}" for p in NOTEBOOKS}
    assert listed == there


def _files(node):
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            yield from _files(value)
    if isinstance(node, dict) and "file" in node:
        yield node["file"]


def test_links_of_the_pages_lead_somewhere():
    documents = {p.relative_to(ROOT / "book").with_suffix("").as_posix() for p in PAGES} | {
        f"notebooks/{p.stem}" for p in NOTEBOOKS
    }
    for page in PAGES:
        text = page.read_text()
        targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"^:link: (\S+)$", text, re.M)
        for target in targets:
            if not re.match(r"https?:", target):
                resolved = (page.parent / target).resolve().relative_to(ROOT / "book").as_posix()
                assert resolved in documents or (ROOT / "book" / resolved).exists(), f"{page.name}: {target}"


def test_citations_are_in_the_bibliography():
    known = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text(), re.M))
    sources = [*PAGES, *NOTEBOOKS]
    cited = {
        key.strip() for p in sources for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", p.read_text()) for key in keys.split(",")
    }
    cited |= {xr.method_info(name).cite for name in xr.methods()} | {xr.metric_info(name).cite for name in xr.metrics()}
    assert cited - {""} <= known


def test_every_printed_table_has_its_place_in_the_book():
    shown = {name for p in PAGES for name in re.findall(r":file: \S*results/published/(\S+)\.html", p.read_text())}
    printed = xr.published()[["paper", "table"]].drop_duplicates()
    assert shown == {f"{paper}_{table}" for paper, table in printed.itertuples(index=False)}


def test_pages_load_nothing_from_elsewhere():
    config = yaml.safe_load((ROOT / "book/_config.yml").read_text())["sphinx"]["config"]
    vendored = ROOT / "book/_vendor/mathjax"
    assert (
        config["mathjax_path"] == "../mathjax/tex-svg.js" and (vendored / "tex-svg.js").exists() and (vendored / "LICENSE").exists()
    )
    for style in (ROOT / "book/_static").glob("*.css"):
        assert not re.search(r"url\(|@import", style.read_text())


def test_the_makefile_explains_its_targets():
    text = (ROOT / "Makefile").read_text()
    for target in re.search(r"\.PHONY: (.*)", text).group(1).split():
        assert re.search(rf"^{target}:.*##", text, re.M), f"{target} has no explanation"

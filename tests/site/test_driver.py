"""The driver, on notebooks that take no time."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from toy_notebooks import write

from xai_repro.errors import UnknownName
from xai_repro.site import book, driver
from xai_repro.site.execute import check, inspect
from xai_repro.store import progress

COUNT = """
from pathlib import Path
log = Path(results, '{0}', 'runs.csv')
log.parent.mkdir(exist_ok=True)
log.open('a').write('run\\n')
print(profile)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project, worked in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(folder, name):
    return len((folder / "results/smoke" / name / "runs.csv").read_text().splitlines())


def test_parameters_are_checked_before_anything_runs(here):
    path = write(here / "notebooks", "10_toy", more="n: int = 3\nrate: float = 0.1\nnames: list = []\nfast: bool = True\n")
    types = inspect(path)
    check(path, types, {"n": 4, "rate": 1, "names": ["a"], "fast": False})
    with pytest.raises(UnknownName, match="unknown parameter of 10_toy 'rates'; did you mean 'rate'"):
        check(path, types, {"rates": 1})
    for name, value in [("n", "five"), ("n", 1.5), ("n", True), ("rate", [1]), ("names", "a"), ("fast", 1)]:
        with pytest.raises(TypeError, match=f"'{name}' of 10_toy takes"):
            check(path, types, {name: value})
    with pytest.raises(ValueError, match="set by the driver"):
        driver.run(parameters={"profile": "mini"})
    with pytest.raises(UnknownName, match="did you mean 'smoke'"):
        driver.run(profile="smoky")
    with pytest.raises(UnknownName, match="did you mean '10_toy'"):
        driver.run("10_toi")
    assert not (here / "results").exists()


def test_a_notebook_needs_its_parameters_cell(here):
    path = write(here / "notebooks", "10_toy")
    broken = nbformat.read(path, 4)
    broken.cells[1].source = "profile: str = 'mini'"
    nbformat.write(broken, path)
    with pytest.raises(ValueError, match="no parameter results"):
        driver.run()


def test_names_numbers_and_patterns_choose_notebooks(here):
    for name in ("00_a", "10_b", "11_c"):
        write(here / "notebooks", name)
    stems = lambda *names: [p.stem for p in driver.select(names)]  # noqa: E731
    assert stems("10") == stems("notebooks/10_b.ipynb") == stems("*_b") == ["10_b"]
    assert stems("1*", "00_a") == ["00_a", "10_b", "11_c"] == [p.stem for p in driver.select()]
    with pytest.raises(FileNotFoundError, match="no notebooks in elsewhere"):
        driver.select(folder="elsewhere")


def test_progress_goes_to_the_file_that_the_driver_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(progress.FILE, str(tmp_path / "now"))
    with progress.track(3, "toy images") as step:
        assert (tmp_path / "now").read_text() == "toy images 0/3"
        step(2)
        step()
    assert (tmp_path / "now").read_text() == "toy images 3/3"
    monkeypatch.delenv(progress.FILE)
    with progress.track(3, "toy images") as step:
        step()
    assert capsys.readouterr().err == ""  # not a terminal: a notebook's page stays clean


@pytest.mark.slow
def test_only_what_changed_runs_again(here, capsys):
    write(here / "notebooks", "10_a", COUNT.format("10_a"), more="n: int = 3\n")
    write(here / "notebooks", "90_sum", COUNT.format("90_sum"), more="n: int = 3\n")
    assert driver.run(profile="smoke")
    assert (runs(here, "10_a"), runs(here, "90_sum")) == (1, 1)
    executed = here / "results/smoke/notebooks/10_a.ipynb"
    assert str(here) not in executed.read_text()  # no folders of this machine
    assert not list(here.rglob("*.part"))

    capsys.readouterr()
    assert driver.run(profile="smoke")
    assert capsys.readouterr().err == "" and runs(here, "10_a") == 1
    os.utime(here / "notebooks/10_a.ipynb")
    assert driver.run(profile="smoke") and runs(here, "10_a") == 1  # contents decide, not times

    assert driver.run(profile="smoke", parameters={"n": 4})
    assert (runs(here, "10_a"), runs(here, "90_sum")) == (2, 2)
    (here / "results/smoke/10_a/runs.csv").unlink()
    assert driver.run("10", profile="smoke", parameters={"n": 4}) and runs(here, "10_a") == 1  # what it wrote was gone


@pytest.mark.slow
def test_a_failure_is_told_kept_and_stops_nothing_else(here, capfd):
    write(here / "notebooks", "10_good", COUNT.format("10_good"))
    bad = write(here / "notebooks", "11_bad", "1 + 1", "raise ValueError('boom')")
    write(here / "notebooks", "90_sum", COUNT.format("90_sum"))
    (here / "results/smoke/notebooks").mkdir(parents=True)
    stale = here / "results/smoke/notebooks/11_bad.ipynb"
    stale.write_text("an older copy")
    assert not driver.run(profile="smoke")
    said = capfd.readouterr().err
    assert "11_bad: failed" in said and "cell In [4] failed" in said and "ValueError: boom" in said
    assert "results/smoke/logs/11_bad.log" in said and "90_sum: not run, as it needs 11_bad" in said
    assert "boom" in (here / "results/smoke/logs/11_bad.log").read_text()
    assert "boom" in (here / "results/smoke/logs/11_bad.failed.ipynb").read_text()
    assert not stale.exists() and runs(here, "10_good") == 1

    write(here / "notebooks", bad.stem, "1 + 1")
    assert driver.run(profile="smoke") and runs(here, "10_good") == 1 and runs(here, "90_sum") == 1
    assert not (here / "results/smoke/logs/11_bad.failed.ipynb").exists()


@pytest.mark.slow
def test_a_killed_run_is_started_again_and_repeats_only_what_was_under_way(here):
    write(here / "notebooks", "10_a", COUNT.format("10_a"))
    write(
        here / "notebooks",
        "11_slow",
        COUNT.format("11_slow"),
        "import time; time.sleep(0 if Path(results, 'go').exists() else 600)",
    )
    command = [sys.executable, "-m", "xai_repro.cli", "run", "--profile", "smoke", "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    waited = time.monotonic()
    while not (here / "results/smoke/11_slow/runs.csv").exists():
        assert time.monotonic() - waited < 120 and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (here / "results/smoke/notebooks/left.ipynb.part").write_text("{")
    (here / "results/smoke/go").touch()
    assert driver.run(profile="smoke", jobs=1)
    assert runs(here, "10_a") == 1 and runs(here, "11_slow") == 2
    assert not list(here.rglob("*.part"))
    time.sleep(3)
    ours = [line for line in _processes() if str(here) in line]
    assert not ours, "worker or kernel of the killed run is still there"


def _processes():
    """Working folder of every process that may be looked at."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            folder = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        if int(pid) != os.getpid():
            yield folder


@pytest.mark.slow
def test_two_runs_at_once_take_turns(here):
    write(here / "notebooks", "10_a", COUNT.format("10_a"))
    command = [sys.executable, "-m", "xai_repro.cli", "run", "--profile", "smoke"]
    both = [subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [p.wait(120) for p in both] == [0, 0] and runs(here, "10_a") == 1


def test_the_book_names_the_command_for_a_notebook_that_was_not_run(here):
    write(here / "notebooks", "10_a")
    with pytest.raises(FileNotFoundError, match="xai-repro run 10_a --profile smoke"):
        book.book("smoke")


def test_a_page_says_its_profile_and_hides_what_was_injected():
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["injected-parameters"]}),
    ]
    run = {
        "parameters": {"profile": "smoke", "results": "..", "n": 1},
        "end_time": "2026-01-02T03:04:05",
        "input_path": "/a/b.ipynb",
    }
    page = book.page(nbformat.v4.new_notebook(cells=cells, metadata={"papermill": run}))
    assert page.cells[1].source == "*Profile `smoke`, run on 2026-01-02, with `n` = `1`.*"
    assert "remove-cell" in page.cells[2].metadata.tags and "papermill" not in page.metadata
    nbformat.validate(page)


@pytest.mark.slow
def test_the_book_is_built_once_and_its_warnings_are_errors(here, capfd):
    write(here / "notebooks", "10_a", "print(profile)")
    assert driver.run(profile="smoke")
    pages = here / "book"
    pages.mkdir()
    (pages / "_config.yml").write_text("title: toy\nexecute: {execute_notebooks: 'off'}\n")
    (pages / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: notebooks/10_a}]\n")
    table = "```{csv-table}\n:file: results/published/clam_1.csv\n:header-rows: 1\n```\n"
    (pages / "index.md").write_text(f"# Toy\n\n{{doc}}`nowhere`\n\n{table}")
    assert not book.book("smoke")
    said = capfd.readouterr().err
    assert "nowhere" in said and "WARNING" in said and "book.log" in said
    (pages / "index.md").write_text(f"# Toy\n\n{table}")
    assert book.book("smoke")
    said = capfd.readouterr()
    assert (
        f"Open {(here / 'build/html/index.html').as_uri()}" in said.out and ".5550" in (here / "build/html/index.html").read_text()
    )
    assert book.book("smoke") and capfd.readouterr().err == ""

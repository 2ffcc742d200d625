"""The driver, on notebooks that take no time."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from toy_notebooks import write

from xai_repro.errors import UnknownName
from xai_repro.site import driver
from xai_repro.site.execute import check, inspect
from xai_repro.store import progress

COUNT = """
from pathlib import Path
log = Path(results, '{0}', 'runs.csv')
log.parent.mkdir(exist_ok=True)
log.open('a').write('run\\n')
print(profile)
"""


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


def test_names_numbers_and_patterns_choose_notebooks(here):
    for name in ("00_a", "10_b", "11_c"):
        write(here / "notebooks", name)
    stems = lambda *names: [p.stem for p in driver.select(names)]  # noqa: E731
    assert stems("10") == stems("notebooks/10_b.ipynb") == stems("*_b") == ["10_b"]
    assert stems("1*", "00_a") == ["00_a", "10_b", "11_c"] == [p.stem for p in driver.select()]
    assert [p.stem for p in driver.select(10)] == [p.stem for p in driver.select("10")] == ["10_b"]
    with pytest.raises(FileNotFoundError, match="no notebooks in elsewhere"):
        driver.select(folder="elsewhere")


def test_arguments_of_a_wrong_kind_are_told(here):
    write(here / "notebooks", "10_a")
    for wrong, why in [
        ({"profile": 3}, "profile is 3"), ({"profile": ["mini"]}, "a text is needed"), ({"results": 3}, "results is 3"),
        ({"folder": 3}, "folder is 3"), ({"parameters": "n=3"}, "a dictionary is needed"), ({"jobs": 0}, "jobs is 0"),
        ({"jobs": 1.5}, "jobs is 1.5"), ({"jobs": -1}, "jobs is -1"), ({"notebooks": []}, "no notebook is named"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=why):
            driver.run(**wrong)
    assert not (here / "results").exists()
    (here / "results/smoke/logs/10_a.log").mkdir(parents=True)
    with pytest.raises(OSError, match="10_a.log is a folder"):
        driver.run(profile="smoke")
    (here / "file").touch()
    with pytest.raises(OSError, match="cannot write to file/smoke/notebooks/10_a.ipynb: Not a directory"):
        driver.run(profile="smoke", results="file")


def test_what_progress_says_is_shown_or_nothing_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").write_bytes(b"maps \xff 3/9\n" * 100)
    assert progress.said(tmp_path / "folder") == progress.said(tmp_path / "none") == ""
    assert progress.said(tmp_path / "torn").startswith("maps \ufffd 3/9 maps") and len(progress.said(tmp_path / "torn")) == 80


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
    said = capsys.readouterr()
    assert said.err == "" and runs(here, "10_a") == 1
    assert said.out == "2 notebooks are current in results/smoke/notebooks; the site is built by: xai-repro book --profile smoke --results results\n"
    os.utime(here / "notebooks/10_a.ipynb")
    assert driver.run(profile="smoke") and runs(here, "10_a") == 1  # contents decide, not times

    assert driver.run(profile="smoke", parameters={"n": 4})
    assert (runs(here, "10_a"), runs(here, "90_sum")) == (2, 2)
    (here / "results/smoke/10_a/runs.csv").unlink()
    assert driver.run("10", profile="smoke", parameters={"n": 4}) and runs(here, "10_a") == 1  # what it wrote was gone


@pytest.mark.slow
def test_what_was_altered_by_hand_is_made_again(here):
    table = "from pathlib import Path; Path(results, '{0}').mkdir(exist_ok=True); Path(results, '{0}/t.csv').write_text('0.25')"
    for name in ("10_a", "10_a_b"):
        write(here / "notebooks", name, table.format(name), "print(0.25)")
    executed, written = here / "results/smoke/notebooks/10_a.ipynb", here / "results/smoke/10_a/t.csv"
    assert driver.run(profile="smoke")
    first = executed.read_text()
    before = written.stat()
    written.write_text("0.75")
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))  # as long as it was, and as old
    other = (here / "results/smoke/notebooks/10_a_b.ipynb").read_text()
    assert driver.run(profile="smoke") and written.read_text() == "0.25"
    assert (here / "results/smoke/notebooks/10_a_b.ipynb").read_text() == other
    second = executed.read_text()
    assert second != first  # it ran again
    shown = '"0.25\\n', '"0.75\\n'  # as an output says it: the times of a run have such digits, too
    executed.write_text(second.replace(*shown))
    assert second.count(shown[0]) == 1
    assert driver.run(profile="smoke") and shown[1] not in executed.read_text()
    third = executed.read_text()
    os.utime(executed)
    assert driver.run(profile="smoke") and executed.read_text() == third


@pytest.mark.slow
def test_a_source_edited_while_it_runs_is_run_again(here):
    edit = "p = '../../../notebooks/10_a.ipynb'; s = open(p).read(); open(p, 'w').write(s.replace(str(111), str(2 * 111)))"
    write(here / "notebooks", "10_a", "print(111)", edit)
    executed = here / "results/smoke/notebooks/10_a.ipynb"
    assert driver.run(profile="smoke") and "print(222)" not in executed.read_text()
    assert driver.run(profile="smoke") and "print(222)" in executed.read_text()


@pytest.mark.slow
def test_a_run_leaves_alone_what_others_have_in_the_temporary_folder(here, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        os.makedirs(f"{folder}/xai-repro-999999-notes/thesis")  # no process has this number
        write(here / "notebooks", "10_a")
        assert driver.run(profile="smoke")
        assert sorted(os.listdir(folder)) == [f"xai-repro-{os.getuid()}", "xai-repro-999999-notes"]
        assert os.listdir(f"{folder}/xai-repro-{os.getuid()}") == ["lock"]


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
    half = here / "results/smoke/10_a/rows.parquet.12345678.tmp"
    half.touch()
    os.utime(half, (time.time() - 7200,) * 2)
    (here / "results/smoke/go").touch()
    assert driver.run(profile="smoke", jobs=1)
    assert runs(here, "10_a") == 1 and runs(here, "11_slow") == 2
    assert not list(here.rglob("*.part")) and not half.exists()
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

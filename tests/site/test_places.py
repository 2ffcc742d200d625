"""Places on the disk: what is private, what is tidied, and what is left alone."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from xai_repro.site import places
from xai_repro.store.files import path_of
from xai_repro.store.files import whole

HOLD = "from xai_repro.site.places import private\nwith private() as folder:\n    print(folder, flush=True)\n    input()"


@pytest.fixture
def temporary(monkeypatch):
    """A place for temporary files with a short name, as the system's has."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def holder():
    """A process that holds a private folder, and that folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_a_path_is_a_text_or_a_path():
    assert path_of("out", "a") == path_of("out", Path("a")) == Path("a")
    with pytest.raises(ValueError, match=r"out is 3 \(int\); a path is needed"):
        path_of("out", 3)


def test_a_private_folder_is_closed_short_and_gone_at_the_end(temporary):
    with places.private() as one, places.private() as other:
        assert one != other and one.is_relative_to(temporary)
        for folder in (one, one.parent):
            assert folder.stat().st_mode & 0o777 == 0o700
        assert len(f"{one}/abcdefgh/kernel-12345") < 100
    assert not one.exists() and not other.exists()


def test_a_long_place_for_temporary_files_is_not_used_for_sockets(temporary, monkeypatch):
    long = temporary / ("n" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with places.private() as folder:
        assert folder.is_relative_to("/tmp") and len(str(folder)) < 75


def test_only_the_folders_of_ended_processes_are_removed(temporary):
    theirs = [temporary / name for name in ("xai-repro-999999-notes", "xai-repro-1", "xai-repro-0-x")]
    for folder in theirs:
        (folder / "thesis").mkdir(parents=True)
    living, used = holder()
    killed, left = holder()
    (used / "k-1").touch()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left.exists()
    with places.private():
        assert not left.exists() and (used / "k-1").exists()
    assert all((folder / "thesis").exists() for folder in theirs)
    living.communicate("\n")
    assert not used.exists()


@pytest.mark.parametrize("how", ["open", "link", "file"])
def test_a_place_that_others_may_have_prepared_is_refused(how, temporary):
    place = temporary / f"xai-repro-{os.getuid()}"
    if how == "link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(temporary / "elsewhere")
    elif how == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(OSError, match="not a folder of yours that is closed to others"), places.private():
        pass


def test_old_half_written_files_are_swept(tmp_path):
    with whole(tmp_path / "deep" / "rows.parquet") as name:
        halves = [name, name.with_name(name.name.replace("rows", "young"))]
        others = [tmp_path / "notes.tmp", tmp_path / "a.12345678.csv", tmp_path / "linked.12345678.tmp"]
        for path in [*halves, *others[:2]]:
            path.touch()
        others[2].symlink_to(others[0])
        for path in [halves[0], *others[:2]]:
            os.utime(path, (time.time() - 7200,) * 2)
        places.sweep(tmp_path)
        assert not halves[0].exists() and halves[1].exists() and all(path.is_file() for path in others)
        halves[0].touch()

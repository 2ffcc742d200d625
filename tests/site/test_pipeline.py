"""What is current: the record, the files a task wrote, the lock."""

import sqlite3
import time

import pytest

from xai_repro.site.pipeline import lock, make, settings_are, unchanged, written


def done(here, name="a"):
    """Bring one task up to date; the names that were done."""
    (here / "out").touch()
    actions, same = [(written, [[here / "out"]])], settings_are({"n": 3})
    task = {"name": name, "actions": actions, "targets": [str(here / "out")], "uptodate": [same, unchanged]}
    return make([task], here / ".doit.db")


def test_nothing_is_done_twice(here):
    assert done(here) == ({}, ["a"]) and done(here) == ({}, [])


def _garbage(record):
    record.write_bytes(b"no database" * 100)


def _folder(record):
    record.unlink()
    record.mkdir()
    (record / "notes").touch()


def _cut(record):
    record.write_bytes(record.read_bytes()[:5000])


def _torn(record):
    with sqlite3.connect(record) as connection:
        connection.execute("update doit set task_data = ?", (b'{"values',))


def _foreign(record):
    with sqlite3.connect(record) as connection:
        connection.execute("update doit set task_data = '3'")


@pytest.mark.parametrize("damage", [_garbage, _folder, _cut, _torn, _foreign])
def test_a_damaged_record_is_set_aside_and_made_again(damage, here, capsys):
    done(here)
    for number in ("", ".2"):
        damage(here / ".doit.db")
        assert done(here) == ({}, ["a"])
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f".doit.db is damaged: it is now .doit.db.bad{number}" in said
        assert (here / f".doit.db.bad{number}").exists()
        assert done(here) == ({}, []) and not capsys.readouterr().err
    assert damage is not _folder or (here / ".doit.db.bad/notes").exists()


def test_files_are_what_was_written(here):
    (here / "a").write_text("0.25")
    values = written([here / "a"])
    assert unchanged(None, values) and unchanged(None, {})
    (here / "a").write_text("0.75")
    assert not unchanged(None, values)
    (here / "a").unlink()
    assert not unchanged(None, values)
    (here / "a").mkdir()
    assert not unchanged(None, values)


def test_looking_at_much_takes_no_time(here):
    with open(here / "large", "wb") as file:
        file.truncate(100 << 20)
    values = written([here / "large"])
    start = time.monotonic()
    assert unchanged(None, values)
    assert time.monotonic() - start < 1.5


def test_a_folder_in_the_place_of_the_lock_is_told(here):
    (here / ".lock").mkdir()
    with pytest.raises(OSError, match=".lock is a folder, but the name is needed for a file: remove it"), lock(here):
        pass

"""Archives: unpacked whole or not at all, and nothing of them lands outside their folder."""

import gzip
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import namedtuple

import pytest
from toy_bad import contents, untouched

from xai_repro.store import unpack as module
from xai_repro.store.files import sha256
from xai_repro.store.unpack import ENDINGS, unpack, unpacked

FILES = {"a/one.jpg": b"1" * 3000, "a/b/two.txt": b"2", "three [1].txt": b"", "a/b/c/four": bytes(range(256)) * 40}


def packed(path, files=FILES):
    """An archive of files, by its ending. files: {name: bytes, or None for a folder}, or pairs of them."""
    pairs = files.items() if isinstance(files, dict) else files
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, held in pairs:
                archive.writestr(name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name), held or b"", zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, "w" if path.name.endswith(".tar") else "w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, held in pairs:
            one = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if held is None and one.type == tarfile.REGTYPE:
                one.type = tarfile.DIRTYPE
            one.size = len(held or b"") or one.size
            archive.addfile(one, io.BytesIO(held) if held else None)
    return path


def there(folder):
    """{path: bytes} of all files in a folder but locks and marks."""
    return {name: held for name, held in contents(folder).items() if isinstance(held, bytes) and not name.startswith(".")}


@pytest.fixture
def into(tmp_path):
    """A folder with one file of somebody else's."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("mine")
    return tmp_path / "data"


def refused(archive, folder, match, **options):
    """Nothing but a lock is left of the attempt, in the folder or elsewhere."""
    with untouched(folder.parent, (f".{archive.name}.lock",)), pytest.raises(ValueError, match=match):
        unpack(archive, folder, **options)


# -- Unpacking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*ENDINGS, ".TGZ", ".ZIP"])
def test_an_archive_is_unpacked_once(ending, tmp_path):
    archive, folder = packed(tmp_path / f"x{ending.lower()}").rename(tmp_path / f"x{ending}"), tmp_path / "new"
    assert unpack(archive, folder) == folder and there(folder) == FILES
    assert unpacked(folder, archive.name) == sha256(archive) and unpacked(folder, "other.zip") is None
    assert {path.name for path in folder.glob(".*")} == {f".x{ending}.lock", f".x{ending}.unpacked"}
    (folder / "a" / "one.jpg").unlink()
    unpack(archive, folder)
    assert not (folder / "a" / "one.jpg").exists()
    unpack(archive, folder, again=True)
    assert there(folder) == FILES


def test_another_archive_of_the_same_name_is_unpacked(tmp_path):
    unpack(packed(tmp_path / "x.zip"), tmp_path / "new")
    unpack(packed(tmp_path / "x.zip", {"more": b"x"}), tmp_path / "new")
    assert there(tmp_path / "new") == FILES | {"more": b"x"} and unpacked(tmp_path / "new", "x.zip") == sha256(tmp_path / "x.zip")


@pytest.mark.parametrize("ending", [".tar", ".zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_folders_and_dots_and_what_lies_there_already(ending, into, tmp_path):
    held = [("./", None), ("./empty/", None), ("a/", None), ("a/", None), ("./a/x", b"1"), ("a//y", b"2")]
    (into / "a").mkdir()
    (into / "a" / "x").write_bytes(b"1")
    (into / "a" / "mine").write_text("mine")
    unpack(packed(tmp_path / f"x{ending}", held), into)
    assert there(into) == {"mine": b"mine", "a/mine": b"mine", "a/x": b"1", "a/y": b"2"} and (into / "empty").is_dir()


def test_below_a_folder_and_without_its_own(into, tmp_path):
    unpack(packed(tmp_path / "x.tgz"), into, into="p/q")
    assert there(into) == {f"p/q/{name}": held for name, held in FILES.items()} | {"mine": b"mine"}
    unpack(packed(tmp_path / "y.zip", [("top-1/", None), ("top-1/x.jpg", b"x"), ("top-1/b/y", b"y")]), into, bare=True)
    assert (into / "x.jpg").read_bytes() == b"x" and (into / "b" / "y").exists() and not (into / "top-1").exists()


@pytest.mark.parametrize("files", [[("top/x", b""), ("other/y", b"")], [("x", b""), ("x/y", b"")], [("x", b"1")]])
def test_where_not_all_lie_in_one_folder(files, into, tmp_path):
    refused(packed(tmp_path / "x.zip", files), into, "does not lie in (top|x) like the rest", bare=True)


# -- Members that are refused -------------------------------------------------------------------------------------------

NAMES = [
    ("../x", "leads out"), ("a/../../x", "leads out"), ("a/..", "leads out"), ("/etc/x", "absolute"), ("//x", "absolute"), ("C:/x", "absolute"), ("c:x", "absolute"),
    ("a\\..\\x", "Windows"), ("a/nul", "Windows"), ("con.txt/x", "Windows"), ("x.", "Windows"), ("x ", "Windows"), ("a:b", "absolute|Windows"), ("a?", "Windows"),
    ("a\nb", "Windows"), ("n" * 256, "too long"), ("a/" * 300 + "x", "too long"), (".x.tgz.unpacked", "used here"), (".y.unpacking/x", "used here"), (".X.LOCK", "used here"),
]  # fmt: skip


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".zip"])
@pytest.mark.parametrize(("name", "why"), NAMES, ids=lambda value: ascii(value)[:20])
def test_names(name, why, ending, into, tmp_path):
    archive = packed(tmp_path / f"x{ending}", [("good", b"good"), (name, b"bad")])
    refused(archive, into, f"x{ending} holds .*({why}).*nothing was unpacked")


def test_names_of_no_alphabet(into, tmp_path):
    refused(packed(tmp_path / "x.tar", [("\udcff", b"")]), into, "Windows")


@pytest.mark.parametrize("ending", [".tar", ".zip"])
@pytest.mark.parametrize("pair", [("x", "x"), ("x", "./x"), ("a/x", "A/X"), ("x", "x/y"), ("x/y", "x"), ("\u00e9", "e\u0301"), ("x/", "x")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(pair, ending, into, tmp_path):
    archive = packed(tmp_path / f"x{ending}", [(name, None if name.endswith("/") else b"1") for name in pair])
    refused(archive, into, "there twice")


TYPES = {"SYMTYPE": "a link", "LNKTYPE": "a link", "FIFOTYPE": "neither", "CHRTYPE": "neither", "BLKTYPE": "neither", "GNUTYPE_SPARSE": "neither|damaged"}


@pytest.mark.parametrize("kind", TYPES)
def test_links_and_devices_in_a_tar(kind, into, tmp_path):
    one = tarfile.TarInfo("x")
    one.type, one.linkname = getattr(tarfile, kind), "/etc/passwd"
    refused(packed(tmp_path / "x.tar", [("good", b"good"), (one, None)]), into, TYPES[kind])


@pytest.mark.parametrize(("mode", "why"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "neither"), (stat.S_IFCHR, "neither"), (stat.S_IFBLK, "neither")])
def test_links_and_devices_in_a_zip(mode, why, into, tmp_path):
    one = zipfile.ZipInfo("x")
    one.external_attr = (mode | 0o777) << 16
    refused(packed(tmp_path / "x.zip", [("good", b"good"), (one, b"/etc/passwd")]), into, why)


def test_zips_with_a_password_or_packed_unusually(into, tmp_path):
    archive = packed(tmp_path / "x.zip", {"x": b"x"})
    held = bytearray(archive.read_bytes())
    held[held.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(held)
    refused(archive, into, "password")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x", b"x" * 1000, zipfile.ZIP_LZMA)
    refused(archive, into, "unusual way")


# -- Bombs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".tar", ".tgz", ".zip"])
def test_more_bytes_or_files_than_are_unpacked(ending, into, tmp_path, monkeypatch):
    archive = packed(tmp_path / f"x{ending}", {"a": b"x" * 700, "b": b"x" * 700, "c": b""})
    monkeypatch.setattr(module, "MOST_BYTES", 1399)
    refused(archive, into, "holds 'b', with which it has more than 1399 bytes")
    monkeypatch.setattr(module, "MOST_BYTES", 1400)
    monkeypatch.setattr(module, "MOST_FILES", 2)
    refused(archive, into, "holds 'c', its member 3; at most 2")
    monkeypatch.setattr(module, "MOST_FILES", 3)
    assert len(there(unpack(archive, into))) == 4


def test_a_tar_that_announces_what_it_does_not_hold(into, tmp_path):
    one = tarfile.TarInfo("x")
    one.size = 1 << 45
    (tmp_path / "x.tar").write_bytes(one.tobuf(tarfile.GNU_FORMAT))
    refused(tmp_path / "x.tar", into, f"holds 'x', with which it has more than {32 << 30} bytes")
    one.size = -512  # sends its reader back to where it was
    (tmp_path / "y.tar").write_bytes(one.tobuf(tarfile.GNU_FORMAT) * 3)
    refused(tmp_path / "y.tar", into, "more than|damaged")


@pytest.mark.parametrize("kind", ["name", "pax"])
def test_a_long_story_about_a_member(kind, into, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_SAID", 1 << 20)
    one = tarfile.TarInfo("n" * (1 << 22) if kind == "name" else "x")
    one.pax_headers = {"comment": "c" * (1 << 22)} if kind == "pax" else {}
    held = one.tobuf(tarfile.GNU_FORMAT if kind == "name" else tarfile.PAX_FORMAT)
    (tmp_path / "x.tgz").write_bytes(gzip.compress(held))
    refused(tmp_path / "x.tgz", into, "says more than 1048576 bytes about its members")


def test_a_zip_with_more_in_it_than_it_says(into, tmp_path):
    archive = packed(tmp_path / "x.zip", {"x": b"x" * 5000})
    held = archive.read_bytes()
    archive.write_bytes(held.replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    refused(archive, into, "x.zip is damaged: .*nothing was unpacked")


def test_no_room(into, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(13_000))
    with untouched(into, (".x.zip.lock",)), pytest.raises(OSError, match=r"needs 0.0 GB in .*make room, or choose another folder"):
        unpack(packed(tmp_path / "x.zip"), into)


# -- Damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_a_cut_archive(ending, share, into, tmp_path):
    archive = packed(tmp_path / f"x{ending}", {name: held + bytes(range(256)) * 99 for name, held in FILES.items()})
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    refused(archive, into, "is damaged: .*remove it and start again")


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_archive(ending, into, tmp_path):
    (tmp_path / f"x{ending}").write_bytes(b"<html>" * 2000)
    refused(tmp_path / f"x{ending}", into, "is damaged")


@pytest.mark.parametrize("ending", [".tgz", ".zip"])
def test_a_flipped_bit(ending, into, tmp_path):
    archive = packed(tmp_path / f"x{ending}", {"x": bytes(i * i % 251 for i in range(90_000))})
    held = bytearray(archive.read_bytes())
    held[len(held) // 2] ^= 16
    archive.write_bytes(held)
    refused(archive, into, "is damaged")


def test_nothing_to_unpack(into, tmp_path):
    refused(packed(tmp_path / "x.tar", []), into, "holds no file|damaged")
    refused(packed(tmp_path / "x.zip", [("a/", None)]), into, "holds no file")
    refused(packed(tmp_path / "x.zip").rename(tmp_path / "x.rar"), into, "possible: .tar, .tar.gz, .tgz, .zip")
    with pytest.raises(FileNotFoundError, match="no archive"):
        unpack(tmp_path / "none.zip", into)
    with pytest.raises(ValueError, match="archive is 3"):
        unpack(3, into)


# -- What lies there, and runs that were killed -------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a/one.jpg", "a", "a/b/c/four/x"])
def test_another_file_in_the_way(place, into, tmp_path):
    path = into / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    refused(packed(tmp_path / "x.zip"), into, "is there already and is not what x.zip holds: move it away")


class Killed(BaseException):
    pass


def killing(number):
    """A function in place of os.replace that ends the run instead of moving the file of this number."""
    replace, left = module.os.replace, iter(range(number))

    def instead(*paths):
        if next(left, None) is None:
            raise Killed
        replace(*paths)

    return instead


@pytest.mark.parametrize("number", range(5))
def test_a_run_that_ends_early_is_not_taken_for_a_whole_one(number, into, tmp_path, monkeypatch):
    """0: before anything is marked; 1, 2: while files are moved; 3: before the mark of the end."""
    archive = packed(tmp_path / "x.zip", {"a": b"1", "b/c": b"2"})
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", killing(number))
        if number < 4:
            with pytest.raises(Killed):
                unpack(archive, into)
            assert unpacked(into, "x.zip") == (None if number == 0 else "")
            assert len(there(into)) == 1 + max(number - 1, 0)
    unpack(archive, into)
    assert there(into) == {"mine": b"mine", "a": b"1", "b/c": b"2"} and unpacked(into, "x.zip") == sha256(archive)


def test_what_a_killed_run_left_is_swept(into, tmp_path):
    (into / ".x.zip.unpacking" / "a").mkdir(parents=True)
    (into / ".x.zip.unpacking" / "a" / "half.jpg").write_text("half")
    unpack(packed(tmp_path / "x.zip"), into)
    assert there(into) == FILES | {"mine": b"mine"} and not (into / ".x.zip.unpacking").exists()


def test_two_at_a_time_take_turns(into, tmp_path, monkeypatch):
    archive, write, written = packed(tmp_path / "x.zip"), module._write, []
    monkeypatch.setattr(module, "_write", lambda *args: written.append(1) or write(*args))
    both = [threading.Thread(target=unpack, args=(archive, into)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert written == [1] and there(into) == FILES | {"mine": b"mine"}

"""Archives from elsewhere, unpacked whole or not at all: what they hold can neither leave its folder nor fill the disk.

All members are looked at before the first is written. They are written to a folder of their own beside their place and then
moved there; a mark, `.NAME.unpacked`, holds the SHA-256 of the archive. A run that was killed starts over.
"""

import filecmp
import gzip
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass

from xai_repro.errors import short
from xai_repro.store.files import path_of, sha256, turn, whole

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
MOST_BYTES = 32 << 30  # unpacked, in all; the largest archive of the papers, COCO's training images, holds 13.5 GB
MOST_FILES = 200_000  # COCO's are 82,783
MOST_SAID = 256 << 20  # bytes of what an archive says of its members; a few hundred bytes for each are usual
LONGEST = 400  # letters of a name with its folders
BLOCK = 1 << 20

_NOT_ON_WINDOWS = re.compile(r'(?i)[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)')
_OURS = re.compile(r"(?i)\..*\.(unpacked|unpacking|lock)")  # names that are used beside what is unpacked


class _Refused(ValueError):
    """An archive that holds what is not unpacked."""


@dataclass(frozen=True)
class Member:
    """What an archive says of one of its members. why: what speaks against its kind; None: it is a file or a folder."""

    name: str
    size: int
    folder: bool
    why: str | None
    inner: object


def unpack(archive, folder, into=None, bare=False, again=False):
    """Unpack a .tar, .tar.gz, .tgz or .zip into a folder, which is made if it is missing; returns the folder.

    into: a folder below it that takes what the archive holds. bare: leave out the one folder that all members lie in. Does nothing if the mark says that this
    archive has been unpacked there; again: do it all the same. A file that is there already has to be the same as in the archive.

    Raises ValueError, and unpacks nothing, for an archive that is damaged, that holds a path out of its folder, a link, a device, a name that Windows cannot
    hold or one name twice, more than 200,000 files or 32 GiB in all; and for a file that is there already and is another one. Raises OSError where there is no room.
    """
    archive, folder = path_of("archive", archive), path_of("folder", folder)
    if not archive.name.lower().endswith(ENDINGS):
        raise ValueError(f"{short(str(archive))} is no archive that can be unpacked; possible: {', '.join(ENDINGS)}")
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive {short(str(archive))}")
    temporary = folder / f".{archive.name}.unpacking"
    with turn(folder / archive.name):
        digest = sha256(archive)
        if unpacked(folder, archive.name) == digest and not again:
            return folder
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run has left
        try:
            with _readable(archive), _opened(archive) as (members, content, file):
                places, total = _examined(archive, members, into, bare)
                _check_room(archive, folder, total)
                file.left = 1 << 62  # from here on the sizes that were looked at are the limit
                _write(archive.name, places, total, content, temporary)
            _check_same(temporary, folder, archive.name)
            _mark(folder, archive.name, "unfinished")
            _move(temporary, folder)
            _mark(folder, archive.name, f"{digest}  {archive.name}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def unpacked(folder, name):
    """SHA-256 of the archive `name` that was unpacked into a folder; "" if that was begun and not finished, None if there is no mark."""
    mark = folder / f".{name}.unpacked"
    if not mark.exists():
        return None
    found = re.match(r"[0-9a-f]{64}\b", mark.read_text(errors="replace"))
    return found[0] if found else ""


def _mark(folder, name, text):
    with whole(folder / f".{name}.unpacked") as part:
        part.write_text(f"{text}\n", encoding="utf-8")


def _check_room(archive, folder, total):
    free = shutil.disk_usage(folder).free
    if total > free:
        raise OSError(f"{archive} needs {total / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free: make room, or choose another folder")


# -- Reading an archive -----------------------------------------------------------------------------------------------


class _Limited:
    """A file of which `left` bytes can be read: Python's readers take whatever an archive says about itself into memory."""

    def __init__(self, file):
        self.file, self.left = file, MOST_SAID

    def read(self, size=-1):
        block = self.file.read(min(size, self.left + 1) if size is not None and size >= 0 else self.left + 1)
        self.left -= len(block)
        if self.left < 0:
            raise ValueError(f"it says more than {MOST_SAID} bytes about its members")
        return block

    def __getattr__(self, name):
        return getattr(self.file, name)


@contextmanager
def _readable(archive):
    """A block that reads an archive: whatever a damaged one raises becomes a ValueError that names it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        if isinstance(error, _Refused) or isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise ValueError(f"{archive} is damaged: {short(str(error) or repr(error))}: nothing was unpacked; remove it and start again") from error


@contextmanager
def _opened(archive):
    """Yield the members of an archive, one by one; a function that opens one of them; and the file below, which has a limit."""
    name = archive.name.lower()
    with open(archive, "rb") as raw:
        file = _Limited(gzip.GzipFile(fileobj=raw) if name.endswith((".tgz", ".tar.gz")) else raw)
        if name.endswith(".zip"):
            with zipfile.ZipFile(file) as packed:
                yield _of_zip(packed), packed.open, file
        else:
            with tarfile.open(fileobj=file, mode="r:") as packed:
                yield _of_tar(packed), packed.extractfile, file
            file.left = MOST_SAID
            while file.read(BLOCK):  # the checksum of gzip stands at the end
                pass


def _of_tar(packed):
    for one in packed:
        plain = one.isdir() or one.isreg() and not one.issparse()  # the map of a sparse file can lead its reader in circles
        why = None if plain else "a link" if one.issym() or one.islnk() else "neither a file nor a folder"
        yield Member(one.name, one.size, one.isdir(), why, one)


def _of_zip(packed):
    for one in packed.infolist():
        kind = stat.S_IFMT(one.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        why = None if plain else "a link" if kind == stat.S_IFLNK else "neither a file nor a folder"
        if one.flag_bits & 1 or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = "a file packed with a password or in an unusual way"
        yield Member(one.orig_filename, one.file_size, one.is_dir(), why, one)


# -- Looking at it ----------------------------------------------------------------------------------------------------


def _examined(archive, members, into, bare):
    """[(member, its place as parts of a path)] and the bytes of all of them. Raises for the first that is not unpacked."""
    places, total, top, files, folders = [], 0, None, set(), set()
    for number, member in enumerate(members, 1):
        total += 0 if member.folder else member.size
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        why = member.why or _against(member.name, parts)
        if member.size < 0 or total > MOST_BYTES:
            why = why or f"with which it has more than {MOST_BYTES} bytes unpacked"
        if number > MOST_FILES:
            why = why or f"its member {number}; at most {MOST_FILES} are unpacked"
        if bare and parts:
            top = top or parts[0]
            if parts[0] != top or len(parts) == 1 and not member.folder:
                why = why or f"which does not lie in {short(top)} like the rest"
            parts = parts[1:]
        if parts:
            parts = [*(into.split("/") if into else []), *parts]
            key = tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)  # as systems that ignore capitals compare names
            above = {key[:n] for n in range(1, len(key) + member.folder)}
            if above & files or not member.folder and (key in files or key in folders):
                why = why or "a name that is there twice (capitals count as small letters)"
            folders |= above
            if not member.folder:
                files.add(key)
            if _OURS.fullmatch(parts[0]):
                why = why or "a name that is used here"
            places.append((member, parts))
        if why:
            raise _Refused(f"{archive} holds {short(ascii(member.name))}, {why}: nothing was unpacked")
    if not files:
        raise _Refused(f"{archive} holds no file")
    return places, total


def _against(name, parts):
    """What speaks against a member's name; None if nothing does."""
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "an absolute path"
    if ".." in parts:
        return "a path that leads out of its folder"
    if any(_NOT_ON_WINDOWS.search(part) for part in parts) or name != name.encode("utf-8", "replace").decode():
        return "a name that not every system can hold, such as Windows"
    if len(name) > LONGEST or any(len(part.encode()) > 255 for part in parts):
        return "a name that is too long"
    return None


# -- Writing it -------------------------------------------------------------------------------------------------------


def _write(name, places, total, content, temporary):
    """Write all members to the temporary folder, each with as many bytes as the archive said."""
    from tqdm import tqdm

    temporary.mkdir()
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"unpack {name}") as bar:
        for member, parts in places:
            place = temporary.joinpath(*parts)
            (place if member.folder else place.parent).mkdir(parents=True, exist_ok=True)
            if member.folder:
                continue
            with content(member.inner) as data, open(place, "xb") as file:
                while block := data.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
                if file.tell() != member.size:
                    raise ValueError(f"{short(member.name)} has {file.tell()} bytes, where {member.size} are announced")


def _check_same(temporary, folder, name):
    """Raise ValueError for a file that is there already and differs from the one that would take its place."""
    for new in temporary.rglob("*"):
        old = folder / new.relative_to(temporary)
        same = old.is_dir() if new.is_dir() else old.is_file() and filecmp.cmp(new, old, shallow=False)
        if os.path.lexists(old) and not same:
            raise ValueError(f"{old} is there already and is not what {name} holds: move it away and start again")


def _move(temporary, folder):
    """Move everything into the folder, a whole folder at once where there is none of its name."""
    for path in sorted(temporary.iterdir()):
        place = folder / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place)
        else:
            os.replace(path, place)

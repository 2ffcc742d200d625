"""The real data sets: fetched, verified and unpacked where `load_data` looks for them. What data_scripts/fetch_NAME.py do.

`sources.toml` says where the files are. An archive is fetched into `.archives` in the data set's folder and removed when it is unpacked. One that lies in the
folder itself was put there by hand: it is verified and unpacked like a fetched one, and kept.
"""

import shutil
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Optional

import typer

from xai_repro.data.photographs import data_folder
from xai_repro.errors import unknown
from xai_repro.store.fetch import cache_dir, convert, doubt, fetch, wrong
from xai_repro.store.files import recorded, set_aside, turn
from xai_repro.store.unpack import unpack, unpacked

ARCHIVES = ".archives"

Root = Annotated[Optional[Path], typer.Option("--root", metavar="FOLDER", file_okay=False, help="Where the data set lies. Without it: where load_data looks.")]
Check = Annotated[bool, typer.Option("--check", help="Fetch nothing: say what is there and verify it.")]


@dataclass(frozen=True)
class Piece:
    """One file of a data set, as sources.toml describes it."""

    name: str
    there: dict
    url: str = ""
    register: str = ""
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    unpack: str | None = None
    bare: bool = False
    convert: bool = False

    @property
    def stays(self):
        """Whether it is used as it is fetched."""
        return self.unpack is None and not self.convert

    def published(self):
        """What `fetch` verifies. An MD5 is looked at only where nothing better is known."""
        return {"prefix": self.sha256, "size": self.bytes, "md5": None if self.sha256 else self.md5}


@cache
def sources():
    """What sources.toml holds: {data set: facts}."""
    return tomllib.loads(files("xai_repro.data").joinpath("sources.toml").read_text(encoding="utf-8"))


def pieces_of(name):
    """The files of a data set. Raises UnknownName with the nearest match."""
    if name not in sources():
        raise unknown("data set to fetch", name, sources())
    return [Piece(**facts) for facts in sources()[name]["files"]]


def folder_of(name, root=None):
    """The folder of a data set: `root`, or where the library looks for it."""
    if root is None and sources()[name].get("in_cache"):
        return cache_dir()
    return data_folder(name, root)


def script(name, root=None, check=False):
    """Fetch what is missing of a data set and say what is there; check: only say it. Ends with exit status 1 where something is missing or damaged."""
    folder = folder_of(name, root)
    try:
        faults = [] if check else fetch_data(name, folder)
        seen = _faults(name, folder, check)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{name} in {folder}")
    for pattern, (count, number) in _counts(pieces_of(name), folder).items():
        print(f"{count:8} of {number:<6} {pattern}")
    for piece in pieces_of(name):
        if _is_there(piece, folder):
            print(f"{piece.name}: {_vouched(piece, folder)}")
    faults = faults or seen
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if faults:
        hint = "" if not check else f" To fetch what is missing: python data_scripts/fetch_{name.replace('-', '_')}.py{'' if root is None else f' --root {root}'}"
        print(f"not complete.{hint}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"complete: {sources()[name]['holds']}")


# -- What is there ----------------------------------------------------------------------------------------------------


def _counts(pieces, folder):
    """{pattern: (files that it finds, files that belong there)}; of several numbers the largest, which is that of the whole data set."""
    numbers = {}
    for pattern, number in (item for piece in pieces for item in piece.there.items()):
        numbers[pattern] = max(number, numbers.get(pattern, 0))
    return {pattern: (sum(not path.name.startswith(".") for path in folder.glob(pattern)), number) for pattern, number in numbers.items()}


def _is_there(piece, folder):
    """Whether a file of a data set is in its place, unpacked or converted, as far as marks, records and numbers of files tell."""
    return not _fault(piece, folder) and all(count >= number for count, number in _counts([piece], folder).values())


def _fault(piece, folder):
    """What speaks against what is there of a file; None if nothing does or nothing is there."""
    if piece.stays:
        return wrong(path, **piece.published()) if (path := folder / piece.name).exists() else None
    if piece.convert:
        return doubt(path) if (path := _converted(piece, folder)).exists() else None
    mark = unpacked(folder, piece.name)
    if mark == "":
        return "was not unpacked to the end"
    if mark and not mark.startswith(piece.sha256 or ""):
        return f"was unpacked from another archive than the published one: SHA-256 {mark}"


def _faults(name, folder, check):
    """All that a data set lacks, as sentences. check: archives that were put there by hand are verified, too."""
    found = []
    for piece in pieces_of(name):
        by_hand = folder / piece.name
        fault = _fault(piece, folder)
        if check and not piece.stays and by_hand.exists():
            fault = fault or wrong(by_hand, **piece.published())
        if fault:
            found.append(f"{piece.name} {fault}")
    for pattern, (count, number) in _counts(pieces_of(name), folder).items():
        if count != number:
            found.append(f"{count} files {folder / pattern}, where {number} belong")
    return found


def _vouched(piece, folder):
    """Which checksum vouches for a file that is there, in words."""
    if piece.convert:
        return f"converted to {_converted(piece, folder).name}"
    digest = recorded(folder / piece.name) if piece.stays else unpacked(folder, piece.name)
    if digest is None:
        return "was not put there by this script, so that no checksum vouches for it"
    if piece.sha256 or piece.md5:
        return f"SHA-256 {digest}, {'as published' if piece.sha256 else 'verified by its MD5'}"
    return f"SHA-256 {digest}, as it came: nobody publishes a checksum, so that nothing tells whether it was altered on its way"


def _converted(piece, folder):
    return folder / next(iter(piece.there))


# -- Bringing it ------------------------------------------------------------------------------------------------------


def fetch_data(name, folder):
    """Fetch, verify and unpack what is missing of a data set; returns what went wrong, as sentences. Raises OSError where there is no room."""
    failed, pieces = [], pieces_of(name)
    with turn(folder / "fetching"):
        missing = [piece for piece in pieces if not _is_there(piece, folder)]
        _check_room(name, folder, missing)
        for piece in missing:
            try:
                _bring(piece, folder)
            except (OSError, ValueError) as error:
                failed.append(f"{piece.name}: {error}")
        for piece in pieces:
            if not piece.stays and _is_there(piece, folder):
                (folder / ARCHIVES / piece.name).unlink(missing_ok=True)
    return failed


def _bring(piece, folder):
    by_hand = piece.stays or (folder / piece.name).exists()
    if piece.register and not by_hand:
        raise FileNotFoundError(f"only who registers gets it: {piece.register}; put it into {folder} and start again")
    try:
        path = fetch(piece.url, piece.name, folder=folder if by_hand else folder / ARCHIVES, **piece.published())
    except OSError as error:
        raise OSError(f"{error} (or get it in another way and put it into {folder})") from error
    if piece.unpack is not None:
        unpack(path, folder, into=None if piece.unpack == "." else piece.unpack, bare=piece.bare, again=True)
    elif piece.convert:
        if (old := _converted(piece, folder)).exists():
            set_aside(old)
        convert(path, _converted(piece, folder))


def _check_room(name, folder, missing):
    """Raise OSError where the disk has no room for what is missing: unpacked, images take about as much as packed, and one archive at a time lies beside them."""
    apart = [piece for piece in missing if not piece.stays and not (folder / piece.name).exists()]
    coming = [piece for piece in missing if not (piece.register and piece in apart)]
    largest = max((_left(piece, folder / ARCHIVES) for piece in coming if piece in apart), default=0)
    needed = largest + sum((piece.bytes or 0) if not piece.stays else _left(piece, folder) for piece in coming)
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if needed > free:
        raise OSError(f"{name} needs about {needed / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free: make room, or choose another disk with --root")


def _left(piece, folder):
    """Bytes of a file that have not arrived yet."""
    arrived = [path.stat().st_size for path in (folder / piece.name, folder / f"{piece.name}.part") if path.exists()]
    return max((piece.bytes or 0) - sum(arrived), 0)

"""Files from elsewhere: fetched once, resumed when cut off, verified, and kept in one folder.

Any file follows the same path: `fetch(url, name, check)` brings it, a conversion makes what the library reads, and a
record beside it holds the SHA-256 of both. A peer may be slow, broken or lying: all that it sends has a limit.
"""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urljoin

from xai_repro.errors import short, unknown, whole_number
from xai_repro.store.files import altered, path_of, record, recorded, set_aside, sha256, turn, writable
from xai_repro.store.waiting import in_time

NETWORKS = {  # of the five papers, with torchvision's file of their first ImageNet weights
    "vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth", "resnet18": "resnet18-f37072fd.pth", "resnet50": "resnet50-0676ba61.pth", "resnet101": "resnet101-63fe2227.pth",
    "densenet121": "densenet121-a639ec97.pth", "inception_v3": "inception_v3_google-0cc3c7bd.pth", "alexnet": "alexnet-owt-7be5be79.pth",
}  # fmt: skip
TORCHVISION = "https://download.pytorch.org/models"
BLOCK = 1 << 18
PATIENCE = 60  # seconds for an answer, and for each block: what brings less than 4 KiB a second is given up
UNSTATED = 1 << 30  # bytes taken at most where neither the publisher nor the server says how many there are
ROUNDING = 1e-3  # publishers state sizes in megabytes
HOPS = 10  # redirects

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}(?<!\.)")
_TAKEN = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(part|sha256|bad(\.\d+)?)")  # by Windows; by us
_PAGE = re.compile(rb"(?is)(\xef\xbb\xbf)?(?>\s+|<\?xml[^>]*>|<!--.*?-->)*+<(!doctype html|html|head|body)\b")


def cache_dir():
    """The folder of fetched files: the environment variable XAI_REPRO_CACHE, or the system's place for caches."""
    import pooch

    return Path(os.environ.get("XAI_REPRO_CACHE") or pooch.os_cache("xai-repro"))


def fetch(url, name, prefix=None, folder=None, size=None, md5=None):
    """Path of the verified file `name` from `url`, fetched if it is not there.

    prefix: first hexadecimal digits of its SHA-256, as the publisher gives them; with them, a cut-off transfer goes on
    where it ended. size: its bytes as the publisher states them, to a thousandth. md5: its MD5, where the publisher gives
    nothing better; it does what the prefix does. Once verified, the whole SHA-256 is kept in `name`.sha256 beside the file.
    A file put there by hand is verified like a fetched one.

    Raises ValueError for a name that is no plain file name and for any other argument of a wrong kind, and for a file that is empty, a web page, or of another size
    or checksum: what was sent is dropped, what was there is set aside as `name`.bad. Raises OSError when the server
    cannot be reached, is too slow, answers with an error, or sends more or less than it says.
    """
    folder = cache_dir() if folder is None else path_of("folder", folder)
    _check_asked(url, prefix, size, md5)
    path, part = folder / _plain(name), folder / f"{name}.part"
    with turn(path):
        said = _said(path, prefix)
        if path.exists():
            if why := _wrong(path, name, said, size, md5):
                raise ValueError(f"{path} {why}; it was set aside as {set_aside(path)}: start again to fetch it")
            part.unlink(missing_ok=True)
            record(path, sha256(path))
            return path
        _download(url, part, size, checked=any(said.values()) or md5 is not None)
        if why := _wrong(part, name, said, size, md5):
            part.unlink()
            raise ValueError(f"{name} as {url} sent it {why}; it was dropped")
        record(path, sha256(part))
        os.replace(part, path)  # the last step: what has the name is verified and on record
    return path


def wrong(path, prefix=None, size=None, md5=None):
    """What speaks against a file that is there, to be said after its name; None if nothing does. Arguments as of `fetch`."""
    return _wrong(path, path.name, _said(path, prefix), size, md5)


def _said(path, prefix):
    """The beginning of a file's SHA-256 by whoever says it."""
    return {"its publisher": (prefix or "").lower(), "the record beside it": recorded(path) or ""}


def _check_asked(url, prefix, size, md5):
    if not isinstance(url, str):
        raise ValueError(f"{short(repr(url))} is no address of a file; a text is needed")
    if prefix is not None and not (isinstance(prefix, str) and re.fullmatch("[0-9a-fA-F]{0,64}", prefix)):
        raise ValueError(f"prefix is {short(repr(prefix))}; the first hexadecimal digits of a SHA-256 are needed, at most 64")
    if md5 is not None and not (isinstance(md5, str) and re.fullmatch("[0-9a-fA-F]{32}", md5)):
        raise ValueError(f"md5 is {short(repr(md5))}; the 32 hexadecimal digits of an MD5 are needed")
    if size is not None:
        whole_number("size", size, most=2**60)


def _plain(name):
    """The name, if it stays in its folder on every system and is none of those we use beside it."""
    if isinstance(name, str) and _NAME.fullmatch(name) and not _TAKEN.fullmatch(name):
        return name
    raise ValueError(
        f"{short(repr(name))} cannot name a fetched file: letters, digits and . _ + - can, beginning with a letter or digit "
        "(except names that Windows keeps for itself, and the endings .part, .sha256 and .bad, which are used here)"
    )


def _wrong(path, name, said, size, md5):
    """What speaks against a file, to be said after its name; None if nothing does.

    said: the beginning of its SHA-256 by whoever says it; size, md5: as the publisher states them, or None.
    """
    length, digest = path.stat().st_size, sha256(path)
    if not length:
        return "is empty"
    with open(path, "rb") as file:
        if _PAGE.match(file.read(2048)) and not _is_page(name):
            return "is a web page"
    for who, digits in said.items():
        if not digest.startswith(digits):
            return f"has SHA-256 {digest}, but {who} says {digits}"
    if md5 and (found := _md5(path)) != md5.lower():
        return f"has MD5 {found}, but its publisher says {md5.lower()}"
    return _other_size(length, size)


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_page(name):
    return name.lower().endswith((".html", ".htm", ".xhtml"))


def _other_size(length, size):
    if size and abs(length - size) > ROUNDING * size:
        return f"has {length} bytes, where its publisher states {size}"


# -- The transfer -----------------------------------------------------------------------------------------------------


def _download(url, part, size, checked):
    """Bring url into `part`, as whole as the server says it is.

    checked: whether its checksum is known. Only then what is left from the last time is continued: nothing else would
    tell whether both pieces are of one file.
    """
    import requests

    start = part.stat().st_size if checked and part.exists() else 0
    arriving = _arriving(url, start)
    try:
        reply = _in_time(lambda: next(arriving), "no answer")
        if start and _misses(reply, start):
            part.unlink()
            return _download(url, part, size, checked)
        begin = start if reply.status_code == 206 else 0
        total = _stated(reply, begin)
        if why := _unwanted(reply, begin, part.stem, total, size, checked):
            raise OSError(f"{url} {why}: nothing was fetched")
        most = total or int((size or 0) * (1 + ROUNDING)) or UNSTATED
        arrived = _write(arriving, part, begin, most, total)
    except (requests.RequestException, TimeoutError) as error:
        raise OSError(f"could not fetch {url}: {error}; {_left(part, checked)}") from error
    if arrived > most:
        part.unlink()
        raise OSError(f"{url} sends more than {most} bytes{'' if total or size else ' without saying how many'}: dropped")
    if arrived < (total or 0):
        raise OSError(f"{url} was cut off at {arrived} of {total} bytes; {_left(part, checked)}")


def _left(part, checked):
    """What a transfer that failed leaves, in words: without a checksum nothing, since it could not be continued."""
    if checked:
        return "what has arrived is kept: start again to go on from there"
    part.unlink(missing_ok=True)
    return "nothing is kept, since no checksum is known: start again"


def _arriving(url, start):
    """The reply to a request for a file from its byte `start` on, then its blocks; dropped, it closes the connection."""
    with _answer(url, start) as reply:
        yield reply
        yield from reply.iter_content(BLOCK)


def _answer(url, start):
    """The reply at the end of all redirects, none of which may lead from https to something anybody could alter."""
    import requests

    late = 2 * PATIENCE  # ends the thread that `_in_time` has left behind, if the peer is silent
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    for _ in range(HOPS):
        reply = requests.get(url, headers=headers, stream=True, timeout=late, allow_redirects=False)
        if not reply.is_redirect:
            return reply
        reply.close()
        onward = urljoin(url, reply.headers["Location"])
        if _protected(url) and not _protected(onward):
            raise OSError(f"{url} sends on to {onward}, which is not protected by https: not followed")
        url = onward
    raise requests.TooManyRedirects(f"more than {HOPS} redirects")


def _protected(url):
    return url.lower().startswith("https:")


def _in_time(call, late):
    """The value of a call that waits for a peer; TimeoutError when it takes longer than PATIENCE.

    A byte now and then would keep the time-out of a socket from running off.
    """
    try:
        return in_time(call, PATIENCE)
    except TimeoutError:
        raise TimeoutError(f"{late} within {PATIENCE} seconds") from None


def _misses(reply, start):
    """Whether a reply is not what follows byte `start`: there is nothing after it, or the server sent another piece."""
    piece = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range", ""))
    return reply.status_code == 416 or reply.status_code == 206 and not (piece and int(piece[1]) == start)


def _stated(reply, begin):
    """Bytes of the whole file, of which this reply brings those from `begin` on; None if the server does not say."""
    whole = re.search(r"/(\d+)$", reply.headers.get("Content-Range", ""))
    rest = re.fullmatch(r"\d+", reply.headers.get("Content-Length", ""))
    return int(whole[1]) if whole else begin + int(rest[0]) if rest else None


def _unwanted(reply, begin, name, total, size, checked):
    """What speaks against taking a reply, to be said after its address; None if nothing does."""
    kind, packing = (reply.headers.get(f"Content-{what}", "") for what in ("Type", "Encoding"))
    if reply.status_code not in (200, 206) or _misses(reply, begin):
        return f"answered {reply.status_code} {reply.reason}"
    if packing not in ("", "identity"):
        return f"compresses ({packing}) what was asked for as it is"
    if kind.lower().startswith("text/html") and not _is_page(name):
        return "answered with a web page"
    if total is None and not (size or checked or reply.headers.get("Transfer-Encoding", "").lower() == "chunked"):
        return "does not say how long the file is, and nobody else does"
    return total and _other_size(total, size)


def _write(arriving, part, begin, most, total):
    """Write blocks to `part`, from byte `begin` on, until there are no more or too many; returns its length then."""
    from tqdm import tqdm

    with (
        open(part, "ab" if begin else "wb") as file,
        tqdm(total=total, initial=begin, unit="B", unit_scale=True, desc=part.stem) as bar,
    ):
        while file.tell() <= most and (block := _in_time(lambda: next(arriving, b""), f"less than {BLOCK} bytes")):
            file.write(block)
            bar.update(len(block))
        return file.tell()


# -- torchvision's ImageNet weights -----------------------------------------------------------------------------------


def source(name):
    """(url, file name, SHA-256 prefix, bytes) of torchvision's first ImageNet weights for a network.

    The first ones (IMAGENET1K_V1) are those the papers used. Raises UnknownName with the nearest match.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("network", name, known)
    weights = next(w for w in torchvision.models.get_model_weights(name) if w.name.startswith("IMAGENET1K"))
    file = weights.url.rsplit("/", 1)[1]
    return weights.url, file, re.search(r"-([0-9a-f]{8,})\.pth$", file).group(1), round(weights.meta["_file_size"] * 2**20)


def not_fetched(name, url, file):
    """The error for a network's ImageNet weights that are not there; it says how to get them (the caller raises it)."""
    return FileNotFoundError(
        f"no ImageNet weights of {name} in {cache_dir()}. To fetch them: python data_scripts/fetch_weights.py {name}. "
        f"By hand: put {url} as {file} into {cache_dir()} and run the same command."
    )


def cached(name):
    """Path of a network's converted weights if they are in the cache, else None."""
    path = cache_dir() / source(name)[1].replace(".pth", ".safetensors")
    return path if path.exists() else None


def doubt(path):
    """What speaks against converted weights, to be said after their name; None if they are what was written."""
    return altered(path) if recorded(path) else "has no record of its SHA-256 beside it"


def fetch_weights(name):
    """Path of a network's verified weights as .safetensors, fetched and converted if they are not there.

    A .pth put into the folder by hand is verified and converted like a fetched one, and kept. Raises what `fetch` and
    `source` raise, and ValueError when converted weights are no longer what they were: they are set aside.
    """
    url, file, prefix, size = source(name)
    path = cache_dir() / file.replace(".pth", ".safetensors")
    with turn(path):
        if path.exists():
            if wrong := doubt(path):
                raise ValueError(f"{path} {wrong}; it was set aside as {set_aside(path)}: start again to fetch it")
            return path
        by_hand = path.with_suffix(".pth").exists()
        original = fetch(url, file, prefix, size=size)
        convert(original, path)
        if not by_hand:
            original.unlink()  # its checksum stays; the weights are read from the converted file from now on
    return path


def convert(original, path):
    """Write the tensors of a PyTorch file as .safetensors, read without running any code it may hold; returns `path`.

    Raises ValueError for a file that is damaged or holds anything but tensors.
    """
    from safetensors.torch import save_file

    part = Path(f"{path}.part")
    save_file({_modern(key): value.contiguous() for key, value in tensors_of(original).items()}, part)
    record(path, sha256(part))
    os.replace(part, path)
    return path


def tensors_of(original):
    import torch

    try:
        state = torch.load(original, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything; torch's advice is to run the code in it
        raise ValueError(f"{original} cannot be read as tensors alone: {short(str(error))}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise ValueError(f"{original} holds more than tensors by name")
    return state


def _modern(key):
    """DenseNet's weights were saved when a layer could still be called `norm.1`; it is `norm1` now."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key)

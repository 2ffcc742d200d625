"""Files from elsewhere: fetched once, resumed when cut off, verified, and kept in one folder.

Any file follows the same path: `fetch(url, name, check)` brings it, a conversion makes what the library reads, and a
record beside it holds the SHA-256 of both.
"""

import hashlib
import os
import re
from pathlib import Path

from filelock import FileLock

NETWORKS = ("vgg16", "vgg19", "resnet18", "resnet50", "resnet101", "densenet121", "inception_v3", "alexnet")  # of the five papers
_BLOCK = 1 << 20


def cache_dir():
    """The folder of fetched files: the environment variable XAI_REPRO_CACHE, or the system's place for caches."""
    import pooch

    return Path(os.environ.get("XAI_REPRO_CACHE") or pooch.os_cache("xai-repro"))


def fetch(url, name, prefix=None, folder=None):
    """Path of the verified file `name` from `url`, fetched if it is not there; a cut-off transfer goes on where it ended.

    prefix: first hexadecimal digits of its SHA-256, as the publisher gives them. Once verified, the whole SHA-256 is kept
    in `name`.sha256 beside the file. Raises ValueError for a file with another checksum (which is removed), OSError when
    the server cannot be reached or answers with an error.
    """
    import pooch

    folder = Path(folder or cache_dir())
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / name, folder / f"{name}.part"
    with FileLock(folder / f".{name}.lock"):  # two processes must not write to one .part
        if not path.exists():
            pooch.retrieve(url, known_hash=None, fname=name, path=folder, downloader=lambda url, out, _: _download(url, part, out))
        digest = sha256(path)
        known = recorded(path)
        if not digest.startswith(prefix or "") or known not in (None, digest):
            path.unlink()
            raise ValueError(
                f"{name} has SHA-256 {digest}, expected {known or prefix + '...'}: the file was removed, fetch it again"
            )
        record(path, digest)
    return path


def _download(url, part, out):
    """Bring url into `part`, from the byte where it ended the last time, then put it at `out`."""
    import requests
    from tqdm import tqdm

    done = part.stat().st_size if part.exists() else 0
    try:
        reply = requests.get(url, headers={"Range": f"bytes={done}-"} if done else {}, stream=True, timeout=60)
        if reply.status_code == 416:  # nothing after that byte: what is there is whole, or not this file
            part.unlink()
            return _download(url, part, out)
        reply.raise_for_status()
        resumed = reply.status_code == 206
        total = int(reply.headers.get("Content-Length", 0)) + (done if resumed else 0)
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=total or None, initial=done if resumed else 0, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            for block in reply.iter_content(_BLOCK):
                file.write(block)
                bar.update(len(block))
    except requests.RequestException as error:
        raise OSError(f"could not fetch {url}: {error}; what has arrived is kept, the next attempt goes on from there") from error
    if total and part.stat().st_size != total:
        raise OSError(f"{url} was cut off at {part.stat().st_size} of {total} bytes: start again to go on from there")
    os.replace(part, out)


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded(path):
    """The SHA-256 kept beside a file, None if there is none."""
    beside = Path(f"{path}.sha256")
    return beside.read_text().split()[0] if beside.exists() else None


def record(path, digest):
    """Keep a file's SHA-256 beside it, in the format of sha256sum."""
    beside = Path(f"{path}.sha256")
    part = Path(f"{beside}.part")
    part.write_text(f"{digest}  {Path(path).name}\n")
    os.replace(part, beside)


# -- torchvision's ImageNet weights -----------------------------------------------------------------------------------


def source(name):
    """(url, file name, SHA-256 prefix) of torchvision's first ImageNet weights for a network.

    The first ones (IMAGENET1K_V1) are those the papers used. Raises UnknownName with the nearest match.
    """
    import torchvision

    from xai_repro.errors import unknown

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown("network", name, known)
    url = next(w.url for w in torchvision.models.get_model_weights(name) if w.name.startswith("IMAGENET1K"))
    file = url.rsplit("/", 1)[1]
    return url, file, re.search(r"-([0-9a-f]{8,})\.pth$", file).group(1)


def cached(name):
    """Path of a network's converted weights if they are in the cache, else None."""
    path = cache_dir() / source(name)[1].replace(".pth", ".safetensors")
    return path if path.exists() else None


def fetch_weights(name):
    """Path of a network's verified weights as .safetensors, fetched and converted if they are not there.

    A .pth put into the folder by hand is verified and converted like a fetched one. Raises what `fetch` and `source` raise,
    and ValueError when converted weights are no longer what they were.
    """
    path = cached(name)
    if path:
        if recorded(path) != sha256(path):
            path.unlink()
            raise ValueError(f"{path.name} is not what was written: the file was removed, fetch it again")
        return path
    original = fetch(*source(name))
    path = convert(original, original.with_suffix(".safetensors"))
    original.unlink()  # its checksum stays; the weights are read from the converted file from now on
    return path


def convert(original, path):
    """Write the tensors of a PyTorch file as .safetensors, read without running any code it may hold; returns `path`."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(original, map_location="cpu", weights_only=True)
    part = Path(f"{path}.part")
    save_file({_modern(key): value.contiguous() for key, value in state.items()}, part)
    digest = sha256(part)
    os.replace(part, path)
    record(path, digest)
    return path


def _modern(key):
    """DenseNet's weights were saved when a layer could still be called `norm.1`; it is `norm1` now."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key)

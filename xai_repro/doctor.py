"""What this machine has and lacks: `xai-repro doctor`."""

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

_NEEDED_GIB = 2  # of free disk: results and site of the embedded default


def examine(results="results", lock="requirements.lock"):
    """List of (name, good, what was found, how to mend it); good is None for what is only needed for some uses."""
    return [
        _python(),
        *_packages(Path(lock)),
        _machine(),
        _gpu(),
        _disk(Path(results)),
        _kernel(),
        _writable(Path(results)),
        _cache(),
    ]


def _python():
    good = sys.version_info >= (3, 11)
    return "python", good, platform.python_version(), "" if good else "install Python 3.11 or newer and make the environment again"


def _packages(lock):
    if not lock.exists():
        yield "packages", None, f"no {lock.name} here to compare with", "run this in the folder that holds the project"
        return
    missing, other = [], []
    for line in lock.read_text().splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "--")):
            continue
        wanted = Requirement(line.split(" #")[0])
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            missing.append(wanted.name)
            continue
        if not wanted.specifier.contains(found.split("+")[0], prereleases=True):
            other.append(f"{wanted.name} {found} (lock: {str(wanted.specifier).removeprefix('==')})")
    fix = f"pip install -r {lock.name}, or remove .venv and run make env"
    text = "; ".join(
        part
        for part in (f"missing: {', '.join(missing)}" if missing else "", f"other versions: {', '.join(other)}" if other else "")
        if part
    )
    yield "packages", not missing and (None if other else True), text or f"as in {lock.name}", fix if text else ""


def _machine():
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return "machine", True, f"{os.cpu_count()} cores", ""
    small = memory < 4
    return (
        "machine",
        None if small else True,
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory",
        "run with --jobs 1" if small else "",
    )


def _gpu():
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation can raise anything
        return "torch", False, f"cannot be imported: {error}", "remove .venv and run make env"
    if torch.cuda.is_available():
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return "gpu", True, f"{cards} (CUDA {torch.version.cuda})", ""
    if torch.backends.mps.is_available():
        return "gpu", True, "Apple GPU (mps)", ""
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    return (
        "gpu",
        None,
        f"none usable; {built}",
        "only needed for the paper profile: install the card's driver and check with nvidia-smi",
    )


def _disk(results):
    free = shutil.disk_usage(_existing(results)).free / 2**30
    good = free >= _NEEDED_GIB
    return "disk", good, f"{free:.0f} GiB free", "" if good else f"free {_NEEDED_GIB} GiB, or choose another --results folder"


def _kernel():
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        KernelSpecManager().get_kernel_spec("python3")
    except Exception as error:  # noqa: BLE001
        return "notebooks", False, f"no kernel 'python3': {error}", "pip install -e '.[book]'"
    return "notebooks", True, "kernel 'python3'", ""


def _writable(results):
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(results)):
            pass
    except OSError as error:
        return "results", False, f"cannot write to {results}: {error.strerror}", "choose another folder with --results"
    return "results", True, f"{results} is writable", ""


def _existing(folder):
    """The folder, or the nearest one above it that exists: asking must not create anything."""
    return next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())


def _cache():
    from xai_repro.store.fetch import NETWORKS, cache_dir, cached

    have = [name for name in NETWORKS if cached(name)]
    lack = [name for name in NETWORKS if name not in have]
    text = f"{cache_dir()}: {', '.join(have) or 'no'} ImageNet weights"
    fix = f"only needed for the papers' networks: python data_scripts/fetch_weights.py {' '.join(lack)}"
    return "weights", None if lack else True, text, fix if lack else ""

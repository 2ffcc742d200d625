"""What this machine has and lacks: `xai-repro doctor`."""

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from xai_repro.errors import short

_NEEDED_GIB = 2  # of free disk: results and site of the embedded default


def examine(results="results", lock="requirements.lock"):
    """List of (name, good, what was found, how to mend it); good is None for what is only needed for some uses."""
    return [
        _python(),
        _packages(Path(lock)),
        _machine(),
        _gpu(),
        _disk(Path(results)),
        _kernel(),
        _home(),
        _writable("results", Path(results), "choose another folder with --results"),
        _cache(),
        _data(),
    ]


def _python():
    good = sys.version_info >= (3, 11)
    return "python", good, platform.python_version(), "" if good else "install Python 3.11 or newer and make the environment again"


def _packages(lock):
    if not lock.exists():
        return "packages", None, f"no {lock.name} here to compare with", "run this in the folder that holds the project"
    try:
        wanted = [one for one in locked(lock) if not one.marker or one.marker.evaluate()]
    except (OSError, ValueError) as error:
        return "packages", False, f"{lock} is damaged: {short(str(error))}", f"bring back {lock.name} as it was published"
    found = {one: _installed(one.name) for one in wanted}
    missing = [one.name for one in wanted if found[one] is None]
    other = [f"{one.name} {found[one]} (lock: {str(one.specifier).removeprefix('==')})" for one in wanted
             if found[one] and not one.specifier.contains(found[one].split("+")[0], prereleases=True)]  # fmt: skip
    said = [f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("other versions", other)) if names]
    if not said:
        return "packages", True, f"as in {lock.name}", ""
    fix = f"pip install --no-deps -r {lock.name}, or remove .venv and run make env"
    return "packages", False if missing else None, "; ".join(said), fix


def locked(lock):
    """The requirements of a lock file, its comments and checksums left out. Raises ValueError for what is not one."""
    found = []
    for line in Path(lock).read_text(encoding="utf-8").splitlines():
        line = line.split(" #")[0].removesuffix("\\").strip()
        if line and not line.startswith(("#", "--")):
            found.append(Requirement(line))  # InvalidRequirement is a ValueError
            if not str(found[-1].specifier).startswith("=="):
                raise ValueError(f"{line} names no version")
    if not found:
        raise ValueError("it names no package")
    return found


def _installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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


def _home():
    home, fix = Path(os.path.expanduser("~")), "set the environment variable HOME to a folder of yours"
    if not home.is_absolute():
        return "home", False, "this user has no home folder", fix
    return _writable("home", home, fix)


def _writable(name, folder, fix):
    above = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=above):
            return name, True, f"{folder} is writable", ""
    except OSError as error:
        return name, False, f"cannot write to {folder}: {error.strerror if above.is_dir() else f'{above} is a file'}", fix


def _existing(folder):
    """The folder, or the nearest one above it that exists: asking must not create anything."""
    return next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())


def _cache():
    from xai_repro.store.fetch import NETWORKS, cache_dir, cached

    try:
        have = [name for name in NETWORKS if cached(name)]
    except Exception as error:  # noqa: BLE001 - the names of the files are torchvision's
        return "weights", None, f"not looked for: {short(str(error))}", "remove .venv and run make env"
    lack = [name for name in NETWORKS if name not in have]
    text = f"{cache_dir()}: {', '.join(have) or 'no'} ImageNet weights"
    fix = f"only needed for the papers' networks: python data_scripts/fetch_weights.py {' '.join(lack)}"
    return "weights", None if lack else True, text, fix if lack else ""


def _data():
    from xai_repro.data.photographs import data_folder
    from xai_repro.data.readers import READERS

    fetched = [name for name in READERS if name != "free-photographs"]  # which come with scikit-image
    try:
        have = [name for name in fetched if data_folder(name).is_dir()]
    except RuntimeError as error:  # there is no home folder
        return "data", None, f"not looked for: {short(str(error))}", "say where it is with the environment variable XAI_REPRO_DATA"
    lack = [name for name in fetched if name not in have]
    text = f"{data_folder('NAME')}: {', '.join(have) or 'no'} real data sets"
    fix = f"only needed for the profiles photos and paper: python data_scripts/fetch_NAME.py, of {', '.join(lack)}"
    return "data", None if lack else True, text, fix if lack else ""

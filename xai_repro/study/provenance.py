"""The way back from a number: what made it. Shards say it of themselves; a page tells what all that it used have in common."""

import platform
import subprocess
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
_SEEN = {}  # facts of the shards and pairs of this process, each once: a notebook is a process of its own


@lru_cache
def versions():
    """The versions of Python and of what computes."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "xai-repro"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@lru_cache
def commit():
    """The commit of the checkout this library runs from, with "+" if files differ from it; "" outside a checkout."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    try:
        top, head = git(["git", "rev-parse", "--show-toplevel", "HEAD"]).stdout.split("\n")[:2]
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}{'+' if changed else ''}" if Path(top) == ROOT else ""


def device_name(device):
    """A device in words: a GPU by its name, a CPU by its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def saw(model, weights, data, images, block, **facts):
    """Note what some rows or maps of this process were made of.

    model, data: labels. weights, images: fingerprints. block: (start, stop) of the images. facts: commit, versions, device, seed, where these are another process's.
    """
    said = {"commit": commit(), "versions": versions(), "device": device_name(torch.device("cpu")), "seed": None} | facts
    row = {"model": model, "weights": weights, "data": data, "images": images, "block": tuple(block)} | said
    row["versions"] = ", ".join(f"{name} {number}".strip() for name, number in row["versions"].items())
    _SEEN[tuple(row.values())] = row


def told():
    """What was seen so far, in short (JSON-able): commit, versions, device and seed as lists of the different ones; models {label: fingerprints of
    weights}; data {label: {"images": how many, "fingerprints": ...}}. What nothing was seen of is what this process itself has."""
    rows = list(_SEEN.values())
    own = {"commit": commit(), "versions": ", ".join(f"{name} {number}".strip() for name, number in versions().items()), "device": device_name(torch.device("cpu"))}
    found = {key: list(dict.fromkeys(row[key] for row in rows)) or [value] for key, value in own.items()}
    found["seed"] = sorted({row["seed"] for row in rows} - {None})
    found["models"], found["data"] = {}, {}
    for row in rows:
        weights = found["models"].setdefault(row["model"], [])
        weights += [row["weights"]] * (bool(row["weights"]) and row["weights"] not in weights)
        known = found["data"].setdefault(row["data"], {"images": set(), "fingerprints": []})
        known["images"] |= set(range(*row["block"]))
        known["fingerprints"] += [row["images"]] * (bool(row["images"]) and row["images"] not in known["fingerprints"])
    for known in found["data"].values():
        known["images"] = len(known["images"])
    return found

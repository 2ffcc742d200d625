"""Toy models, data, methods and metrics for the tests of evaluate."""

from collections import UserDict

import pytest
import torch
from torch import nn

from xai_repro import registry
from xai_repro.data import Sample
from xai_repro.study import asked as asked_for, evaluate as evaluation, shards as shard_files

evaluate, COLUMNS = evaluation.evaluate, evaluation.COLUMNS


class Brightest(nn.Module):
    """Three classes: the mean of each colour channel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x.mean((2, 3))


def samples(n=7, labels=None):
    """Image i has a bright square of class i % 3."""
    found = []
    for i in range(n):
        image, mask = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)) * 0.1, torch.full((8, 8), -1)
        image[i % 3, 2:5, 2:6] += 1
        mask[2:5, 2:6] = i % 3
        own = (i % 3,) if labels is None else labels[i]
        boxes = torch.tensor([[i % 3, 2, 2, 6, 5]])
        found.append(Sample(image=image, labels=own, boxes=boxes, mask=mask, id=f"toy/{i}"))
    return found


class Calls(UserDict):
    """Counts calls; a method that holds it is the same method afterwards."""

    def __getstate__(self):
        return None


class Data(list):
    name, classes, multi_label, fingerprint = "toy", ("r", "g", "b"), False, "v1"


@pytest.fixture
def toys(monkeypatch):
    """Two methods, one that cannot, one that breaks, and two metrics, registered for one test; calls are counted."""
    registry.methods(), registry.metrics()  # the library's own are registered on first use
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    calls = Calls({"toy-channel": 0, "toy-flat": 0, "toy-mean": 0, "toy-inside": 0, "broken": True})

    @registry.method("toy-channel", family="toy", cite="none")
    def channel(model, x, y, *, gain=1.0):
        """The target's colour channel."""
        calls["toy-channel"] += 1
        return gain * x[torch.arange(len(x)), y]

    @registry.method("toy-flat", family="toy", cite="none")
    def flat(model, x, y):
        """Ones."""
        calls["toy-flat"] += 1
        return torch.ones_like(x[:, 0])

    @registry.method("toy-unable", family="toy", cite="none")
    def unable(model, x, y):
        """Needs what no model has."""
        raise ValueError("needs a linear head")

    @registry.method("toy-broken", family="toy", cite="none")
    def broken(model, x, y):
        """Out of memory until repaired."""
        if calls["broken"]:
            raise RuntimeError("out of memory")
        return torch.ones_like(x[:, 0])

    @registry.metric("toy-mean", higher_is_better=True, cite="none")
    def mean(model, x, y, maps, truth):
        """Mean of the map."""
        calls["toy-mean"] += 1
        return maps.mean((1, 2))

    @registry.metric("toy-inside", higher_is_better=True, cite="none", maps="raw", truth="box")
    def inside(model, x, y, maps, truth, *, power=1):
        """Mean inside the truth."""
        calls["toy-inside"] += 1
        return (maps * truth).sum((1, 2)) / truth.sum((1, 2)) ** power

    return calls


def run(results=None, methods=("toy-channel", "toy-flat"), metrics=("toy-mean", "toy-inside"), data=None, model=None, **options):
    data = Data(samples()) if data is None else data
    return evaluate(model or Brightest(), data, methods, metrics, results=results, **{"limit": 7, "batch": 3} | options)


def stable(frame):
    return frame.drop(columns="seconds")


def shards(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*")}


def shards_or_none(folder):
    return list(folder.rglob("*.parquet"))

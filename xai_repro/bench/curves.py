"""Insertion and deletion against torchcam and quantus, over the same order of the same pixels."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import torch

import xai_repro as xr
from xai_repro.bench.measure import always, Peer, Task
from xai_repro.metrics.curves import deletion_curve, ranks
from xai_repro.store.sharing import sharing

PASSES = (8, 16, 32, 64)
COLOUR_BY_COLOUR = "seconds of one point; it flips one colour at a time, so every third of its points is compared"


def tasks(case, settings):
    """The tasks of one case."""
    n, B = settings["points"], len(case.x)
    M = xr.normalize(xr.explain(case.model, case.x, case.y, "gradient"))

    def areas():
        given = case.model, case.x, case.y, M
        with sharing():
            found = xr.score("insertion", *given, steps=n, baseline="zero"), xr.score("deletion", *given, steps=n)
        return torch.stack(found).mean(1, keepdim=True).T

    return [
        Task(f"insertion and deletion, {n} points", areas, [
            Peer("torchcam DeletionInsertionMetric", always(_torchcam(case, M, n)), chunks=PASSES),
        ], slower="each curve's points fill forward passes of their own, torchcam's fill them together"),
        Task("deletion, per point", lambda: deletion_curve(case.model, case.x, case.y, M, steps=n)[:, 1:], [
            Peer("quantus PixelFlipping", always(_quantus(case, M, n)), times=1 / (3 * (n - 1)), note=COLOUR_BY_COLOUR),
        ], times=1 / n, slower="the masked images of many points are made at once, beside the forward passes"),
    ]  # fmt: skip


class _Given:
    """A map, in the form that torchcam's metrics take for one."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, *args, **kwargs):
        return [self.maps]

    def fuse_cams(self, maps):
        return maps[0]

    def _hooks_off(self):
        return nullcontext()


def _torchcam(case, M, n):
    from torchcam.metrics import DeletionInsertionMetric

    def call(chunk):
        metric = DeletionInsertionMetric(_Given(case.model, M), partial(torch.softmax, dim=-1), steps=n - 1, batch_size=chunk)
        metric.update(case.x, case.y.tolist())
        found = metric.summary()
        return torch.tensor([[found["insertion_auc"], found["deletion_auc"]]])

    return call


def _quantus(case, M, n):
    import quantus

    pixels = M[0].numel()
    metric = quantus.PixelFlipping(features_in_step=pixels // (n - 1), perturb_baseline=0.0, normalise=False, disable_warnings=True)
    place = ranks(M)[:, None] * 3 + torch.arange(3).view(1, 3, 1, 1)  # a pixel's colours follow each other
    x, y, order = case.x.numpy(), case.y.numpy(), (3 * pixels - place).numpy().astype(np.float64)

    def call():
        found = metric(case.model, x, y, order, softmax=True, channel_first=True, batch_size=len(x))
        return torch.tensor(found)[:, 2::3]

    return call

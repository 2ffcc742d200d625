"""Collection-CAM where values tie: at the quantile, at a gradient of zero, and in the partition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from plain_clustering import plain_dsra
from torch import nn
from toys import CLASSES, images, seeded, VGGLike, Y

from xai_repro.methods.masks import above
from xai_repro.numerics import clustering
from xai_repro.numerics.clustering import best_partition, dsra, partitions

LAYERS = ["features.2", "features.4"]


@pytest.mark.parametrize("theta", [0.1, 0.2, 0.35, 0.5])
def test_single_and_double_precision_cut_the_same_pixels(theta):
    """The border of an upsampled map repeats its values: the quantile often lies on several pixels, which rounding would keep or cut."""
    exact, rounded = (seeded(VGGLike, dtype=dtype) for dtype in (torch.float64, torch.float32))
    x = images(40, seed=5)
    options = {"layers": LAYERS, "theta": theta}
    maps = [xr.explain(model, x.to(next(model.parameters()).dtype), 2, "collection-cam", **options).double() for model in (exact, rounded)]
    assert (maps[0] - maps[1]).abs().max() < 1e-4


def test_above_is_by_more_than_rounding_and_by_the_images_own_measure():
    values = torch.tensor([[1.0, 1.000001, 1.0001, 0.9], [100.0, 100.01, 110, 0]])
    assert above(values, torch.tensor([[1.0], [100.0]])).tolist() == [[False, False, True, False], [False, True, True, False]]
    assert above(torch.tensor([[-9.0, 0.0, 1e-6, 1e-4]]), 0).tolist() == [[False, False, False, True]]
    assert not above(torch.zeros(2, 3, 4), 0).any()


class Counted(nn.Module):
    """A first layer whose gradient is negative, nearly zero or positive by channel, and a second that passes on their sum."""

    def __init__(self, nearly):
        super().__init__()
        self.first, self.second, self.fc = nn.Identity(), nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, CLASSES)
        self.second.weight.data = torch.tensor([[1.0, nearly, -1], [1, nearly, -1]])[..., None, None]
        self.fc.weight.data.fill_(0.5)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


@pytest.mark.parametrize("nearly", [0.0, 1e-8])
def test_a_gradient_of_zero_counts_as_no_evidence(nearly):
    """G is 1, 0 but for rounding, and -1 over the positions: only the first channel is left of the shallow layer."""
    model, x = Counted(nearly).double(), torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 2] += 3  # so that the last layer's sum is negative and makes no mask
    got = xr.explain(model, x, 1, "collection-cam", layers=["first", "second"], least=1, most=1, theta=0.0)
    kept = x[0, 0] - x[0, 0].min() * 0
    kept = torch.where(kept > kept.min(), kept, 0)
    torch.testing.assert_close(got[0], kept / kept.max())


def test_of_equal_partitions_the_coarsest():
    """Two pairs of points in a square of the same distances: every partition into single vectors of them has the index 1 or 0."""
    psi = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    sizes = range(3, 6)
    assert [dsra(psi, labels) for labels in partitions(psi, sizes)] == [1.0, 1.0, 1.0]
    for labels in (best_partition(psi, 3, 5), best_partition(psi, 2, 5)):
        assert sorted(map(sorted, (np.flatnonzero(labels == c) for c in set(labels)))) == [[0, 1], [2, 3], [4, 5]]
    line = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert dsra(line, np.array([0, 0, 1, 1])) == pytest.approx(plain_dsra(line, np.array([0, 0, 1, 1])))
    assert len(set(best_partition(line, 2, 3))) == 2


def test_of_partitions_with_the_same_index_the_coarsest(monkeypatch):
    """Different partitions hardly ever have the same index: here all are given it."""
    monkeypatch.setattr(clustering, "dsra", lambda psi, labels: 0.5)
    line = np.array([[0.0], [1.0], [10.0], [12.0], [30.0]])
    assert best_partition(line, 2, 4).max() + 1 == 2 and best_partition(line, 3, 4).max() + 1 == 3


class Two(nn.Module):
    """Channels of which several are alike: their partition has fewer clusters than asked for."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Linear(6, CLASSES)
        with torch.no_grad():
            self.conv.weight[1], self.conv.bias[1] = self.conv.weight[0], self.conv.bias[0]
            self.conv.weight[3], self.conv.bias[3] = self.conv.weight[2], self.conv.bias[2]
            self.fc.weight[:, 1], self.fc.weight[:, 3] = self.fc.weight[:, 0], self.fc.weight[:, 2]

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def test_equal_channels_are_one_collection():
    torch.manual_seed(0)
    model, x = Two().double(), images(2)
    got = xr.explain(model, x, 1, "collection-cam", layers=["act"], least=4, most=4, theta=0.0)
    with torch.no_grad():
        A = model.act(model.conv(x))
        for b in range(2):
            masks = []
            for members in ([0, 1], [2, 3], [4], [5]):
                total = (model.fc.weight[1, members, None, None] / 256 * A[b, members]).sum(0).clamp(min=0)
                total = torch.where(total > total.min(), total, 0)
                masks += [total / total.max()] if total.max() > 0 else []
            alpha = torch.stack([model((x[b] * mask)[None])[0, 1] for mask in masks]).softmax(0)
            torch.testing.assert_close(got[b], sum(a * mask for a, mask in zip(alpha, masks)), rtol=1e-6, atol=1e-5)


def test_score_cam_subtracts_the_probability_of_each_images_own_class():
    """Collection-CAM's eqs. 1 to 3: of an image without content, which is the same for all, but of the image's class."""
    model, x = seeded(VGGLike), images()
    plain, increase = (xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight=w) for w in ("probability", "increase"))
    empty = model(torch.zeros_like(x[:1])).softmax(1)[0].detach()
    for b, y in enumerate(Y.tolist()):
        live = plain[b] != 0
        assert live.any()
        torch.testing.assert_close(increase[b][live], plain[b][live] - empty[y])
    assert len({round(empty[y].item(), 6) for y in Y.tolist()}) == 3


def test_masks_of_rise_are_those_of_the_seed():
    model, x = seeded(VGGLike), images(1)
    maps = [xr.explain(model, x, 1, "rise", masks=5, cells=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])
    assert F.mse_loss(maps[0], maps[2]) > 1e-4

"""RISE and Collection-CAM against their formulas, mask by mask."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import xai_repro as xr
from plain_clustering import as_sets, plain_dsra, ward
from toys import SIZE, TOYS, VGGLike, flops, images, peak_bytes, seeded

from xai_repro.methods.masks import collect, draw_grids, features, membership, random_masks
from xai_repro.network.pyramid import pyramid

LAYERS = ["features.2", "features.4"]


# -- RISE ----------------------------------------------------------------------------------------------------------------


class Constant(torch.nn.Module):
    """Always the same logits."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.3, -1.0, 2.0]))

    def forward(self, x):
        return self.logits.expand(len(x), 3)


def plain_mask(grid, shift, size):
    """One mask pixel by pixel: where the pixel lies on the enlarged grid, between which cells, and with which weights."""
    cells = len(grid)
    cell = [math.ceil(side / cells) for side in size]
    large = [(cells + 1) * c for c in cell]
    mask = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            value, at = 0.0, []
            for axis, pixel in enumerate((i, j)):
                pixel += int(shift[axis] * cell[axis])
                place = min(max((pixel + 0.5) * cells / large[axis] - 0.5, 0), cells - 1)
                low = min(int(place), cells - 1)
                at.append((low, min(low + 1, cells - 1), place - low))
            (r0, r1, u), (c0, c1, v) = at
            value += (1 - u) * (1 - v) * grid[r0][c0] + (1 - u) * v * grid[r0][c1] + u * (1 - v) * grid[r1][c0] + u * v * grid[r1][c1]
            mask[i, j] = value
    return mask


def test_random_masks():
    grids, shifts = draw_grids(5, 4, 0.5, 3)
    masks = random_masks(grids.double(), shifts, torch.Size((13, 10)))
    expected = torch.stack([plain_mask(g.double().tolist(), s, (13, 10)) for g, s in zip(grids, shifts)])
    torch.testing.assert_close(masks, expected, atol=1e-12, rtol=0)


def test_rise_is_the_weighted_mean_of_its_masks():
    model, x, y = seeded(VGGLike), images(2), torch.tensor([1, 4])
    grids, shifts = draw_grids(9, 3, 0.6, 5)
    expected = torch.zeros(2, SIZE, SIZE, dtype=torch.float64)
    for grid, shift in zip(grids, shifts):
        mask = plain_mask(grid.double().tolist(), shift, (SIZE, SIZE))
        for b in range(2):
            p = model((x[b] * mask)[None]).softmax(1)[0, y[b]].item()
            expected[b] += p * mask / (9 * 0.6)
    for chunk in (1, 4, 100):
        maps = xr.explain(model, x, y, "rise", masks=9, cells=3, keep=0.6, seed=5, chunk=chunk)
        torch.testing.assert_close(maps, expected, atol=1e-12, rtol=0)


def test_rise_of_a_constant_model():
    """I17: S = c mean(M) / p, for every class and image."""
    model, x = Constant().double(), images(2)
    grids, shifts = draw_grids(40, 7, 0.3, 0)
    mean = random_masks(grids.double(), shifts, x.shape[-2:]).mean(0)
    for c in range(3):
        probability = torch.tensor([0.3, -1.0, 2.0]).double().softmax(0)[c]
        torch.testing.assert_close(xr.explain(model, x, c, "rise", masks=40, keep=0.3), (probability * mean / 0.3).expand(2, -1, -1))


def test_masks_keep_the_share_they_are_asked_for():
    for keep in (0.1, 0.5):
        grids, shifts = draw_grids(2000, 7, keep, 1)
        masks = random_masks(grids.float(), shifts, torch.Size((32, 32)))
        assert masks.min() >= 0 and masks.max() <= 1
        assert abs(masks.mean() - keep) < 4 * (keep * (1 - keep) / 2000 / 30) ** 0.5


def test_rise_finds_the_patch_a_model_looks_at():
    """The probability is high where the corner is bright, and falls with every part of it that a mask hides."""

    class Corner(torch.nn.Module):
        def forward(self, x):
            s = x[:, 0, :4, :4].mean((1, 2))
            return torch.stack([8 * s - 4, torch.zeros_like(s)], 1)

    maps = xr.explain(Corner(), torch.ones(1, 3, 16, 16), 0, "rise", masks=600, cells=4)[0]
    assert maps[:4, :4].mean() > 1.3 * maps[8:, 8:].mean()


@pytest.mark.parametrize("wrong, said", [({"masks": 0}, "masks is 0"), ({"cells": 0}, "cells is 0"), ({"keep": 0}, "keep is 0"), ({"keep": 1.5}, "keep is 1.5")])
def test_rise_refuses(wrong, said):
    with pytest.raises(ValueError, match=said):
        xr.explain(seeded(VGGLike), images(1), 0, "rise", **wrong)


# -- several layers ---------------------------------------------------------------------------------------------------------


def gradients(model, x, y, layers):
    """A and G of each layer, each by a graph of its own."""
    found = []
    for name in layers:
        taken = {}
        handle = model.get_submodule(name).register_forward_hook(lambda m, a, output: taken.update(A=output) or output.clone())
        logits = model(x.clone())
        handle.remove()
        (G,) = torch.autograd.grad(logits[torch.arange(len(x)), y].sum(), taken["A"])
        found.append((taken["A"].detach(), G))
    return found


@pytest.mark.parametrize("toy", ["vgg", "residual", "gap"])
def test_pyramid(toy):
    model, x, y = seeded(TOYS[toy].build), images(), torch.tensor([1, 4, 0])
    pairs, classes = pyramid(model, x, y, TOYS[toy].layers)
    assert torch.equal(classes, y)
    for (A, G), (expected_A, expected_G) in zip(pairs, gradients(model, x, y, TOYS[toy].layers)):
        torch.testing.assert_close(A, expected_A)
        torch.testing.assert_close(G, expected_G)
        assert not A.requires_grad
    assert torch.equal(pyramid(model, x, None, TOYS[toy].layers)[1], model(x).argmax(1))


@pytest.mark.parametrize("layers, said", [
    (["features.4", "features.2"], "'features.2' runs before 'features.4'"), (["features.2", "features.2"], "names one twice: features.2, features.2"),
    (["features.2", "features.3x"], "unknown layer 'features.3x'; did you mean"), (["features.2", "classifier"], r"'classifier' gives \[3, 5\]"),
])  # fmt: skip
def test_pyramid_refuses(layers, said):
    with pytest.raises((ValueError, LookupError), match=said):
        pyramid(seeded(VGGLike), images(), 0 * torch.ones(3).long(), layers)


def test_stages():
    from xai_repro.network.layers import stages

    vgg, resnet = torchvision.models.vgg16(weights=None), torchvision.models.resnet18(weights=None)
    assert stages(vgg) == ["features.4", "features.9", "features.16", "features.23", "features.29"]
    assert stages(resnet, 2) == ["layer3", "layer4"] and stages(resnet, ["layer1", "layer3"]) == ["layer1", "layer3"]
    for wrong, said in ((0, "layers is 0; ResNet has 4 stages"), (5, "layers is 5"), ("layer4", "'layer4'; possible: 'all'"), ([], r"layers is \[\]"), (True, "layers is True")):
        with pytest.raises(ValueError, match=said):
            stages(resnet, wrong)
    with pytest.raises(LookupError, match="unknown layer 'layer5'; did you mean 'layer4'"):
        stages(resnet, ["layer5"])
    with pytest.raises(ValueError, match="VGGLike has no default layer: name one"):
        stages(seeded(VGGLike))


@pytest.mark.parametrize("name", ["densenet121", "regnet_y_400mf", "convnext_tiny", "alexnet"])
def test_stages_of_other_networks_run_in_order(name):
    from xai_repro.network.layers import stages

    model = torchvision.models.get_model(name, weights=None).eval()
    pairs, _ = pyramid(model, images(1, size=64, dtype=torch.float32), torch.tensor([0]), stages(model))
    heights = [A.shape[-1] for A, _ in pairs]
    assert len(pairs) >= 3 and heights == sorted(heights, reverse=True)


def plain_scaled(small):
    large = F.interpolate(small[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
    return large / large.max() if large.max() > 0 else large


def test_layer_cam_over_several_layers():
    model, x, y = seeded(VGGLike), images(), torch.tensor([1, 4, 0])
    maps = xr.explain(model, x, y, "layer-cam", layers=LAYERS)
    (A1, G1), (A2, G2) = gradients(model, x, y, LAYERS)
    for b in range(3):
        shallow = torch.tanh(2 * plain_scaled((A1[b] * G1[b].clamp(min=0)).sum(0)))
        last = plain_scaled((A2[b] * G2[b].clamp(min=0)).sum(0))
        torch.testing.assert_close(maps[b], torch.maximum(shallow, last))


def test_grad_cam_over_several_layers():
    model, x, y = seeded(VGGLike), images(), torch.tensor([1, 4, 0])
    maps = xr.explain(model, x, y, "grad-cam", layers=LAYERS)
    for b in range(3):
        single = [plain_scaled((A[b] * G[b].mean((1, 2), keepdim=True)).sum(0).clamp(min=0)) for A, G in gradients(model, x, y, LAYERS)]
        torch.testing.assert_close(maps[b], sum(single) / 2)


@pytest.mark.parametrize("method", ["layer-cam", "lift-cam"])
def test_several_layers_or_one(method):
    model, x = seeded(VGGLike), images()
    with pytest.raises(ValueError, match=r"layer is 'features.4' and layers is \['features.2', 'features.4'\]: give one"):
        xr.explain(model, x, 0, method, layer="features.4", layers=LAYERS)
    with pytest.raises(ValueError, match="coefficients belong to the channels of one layer|has no coefficients"):
        xr.coefficients(model, x, 0, method, layers=LAYERS)
    one, same = xr.explain(model, x, 0, method, layer="features.4"), xr.explain(model, x, 0, method, layers=["features.4"])
    torch.testing.assert_close(xr.normalize(one), xr.normalize(same))


def test_all_gradients_of_layer_cam_come_from_one_backward_pass():
    model, x = torchvision.models.resnet18(weights=None).eval(), images(1, size=64, dtype=torch.float32)
    with torch.no_grad():
        forward = flops(lambda: model(x))
    assert flops(lambda: xr.explain(model, x, 0, "layer-cam", layers="all")) <= 2 * forward


# -- Collection-CAM ----------------------------------------------------------------------------------------------------------


def plain_psi(A, G):
    return np.array([[f(T[k].numpy()) for T in (A, G) for f in (np.mean, np.std)] for k in range(len(A))])


def plain_collections(psi, least, most):
    """The best partition by brute force: every merge and every index from the definitions."""
    found = []
    for k in range(least, min(most, len(psi) - 1) + 1):
        sets = sorted(ward(psi, k), key=min)
        labels = np.array([next(n for n, members in enumerate(sets) if i in members) for i in range(len(psi))])
        found.append((plain_dsra(psi, labels), -k, sets))
    return max(found, key=lambda one: one[:2])[2]


def plain_collection_cam(model, x, y, least, most, theta, subtract=0.0):
    """One image, mask by mask, as algorithm 1 with the equations' order of ReLU and upsampling."""
    pairs = gradients(model, x[None], torch.tensor([y]), LAYERS)
    masks = []
    for depth, (A, G) in enumerate(pairs):
        A, G = A[0], G[0]
        for members in plain_collections(plain_psi(A, G), least, most):
            last = depth == len(pairs) - 1
            total = sum(A[k] * G[k].mean() if last else torch.where(G[k] > 0, A[k], 0) for k in members).clamp(min=0)
            mask = F.interpolate(total[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
            if mask.max() == 0:
                continue
            mask = torch.where(mask > np.quantile(mask.numpy(), theta), mask, 0)
            masks.append((mask - mask.min()) / (mask.max() - mask.min()))
    increase = torch.stack([model((x * mask)[None])[0, y] - subtract for mask in masks])
    alpha = increase.exp() / increase.exp().sum()
    return sum(a * mask for a, mask in zip(alpha, masks)).detach(), len(masks)


@pytest.mark.parametrize("least, most, theta", [(2, 10, 0.1), (2, 3, 0.5), (3, 3, 0.0)])
def test_collection_cam(least, most, theta):
    """Also I14: a constant subtracted from every score (the baseline image's) leaves the map as it is."""
    model, x, y = seeded(VGGLike), images(), [1, 4, 0]
    for chunk in (1, 3, None):
        maps = xr.explain(model, x, y, "collection-cam", layers=LAYERS, least=least, most=most, theta=theta, chunk=chunk)
        for b in range(3):
            expected, _ = plain_collection_cam(model, x[b], y[b], least, most, theta, subtract=3.7 * b)
            torch.testing.assert_close(maps[b], expected, rtol=1e-9, atol=1e-9)


def test_one_collection_per_channel_of_the_last_layer():
    """Then every mask is a channel whose Grad-CAM coefficient is positive, and the weights are a softmax of the masked logits."""
    model, x, y = seeded(VGGLike), images(1), torch.tensor([2])
    maps = xr.explain(model, x, y, "collection-cam", layers=["features.4"], least=6, most=6, theta=0)
    ((A, G),) = gradients(model, x, y, ["features.4"])
    up = F.interpolate(A, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0]
    masks = [plane / plane.max() for plane, g in zip(up, G[0]) if g.mean() > 0 and plane.max() > 0 and plane.min() == 0]
    if len(masks) < sum(g.mean() > 0 and plane.max() > 0 for plane, g in zip(up, G[0])):
        masks = [(torch.where(p > p.min(), p, 0)) for p, g in zip(up, G[0]) if g.mean() > 0 and p.max() > 0]
        masks = [(m - m.min()) / (m.max() - m.min()) for m in masks]
    alpha = torch.stack([model(x * m)[0, 2] for m in masks]).softmax(0)
    torch.testing.assert_close(maps[0], sum(a * m for a, m in zip(alpha, masks)).detach(), rtol=1e-9, atol=1e-9)


def test_what_the_options_do():
    model, x = seeded(VGGLike), images()
    options = {"layers": LAYERS}
    plain = xr.explain(model, x, 1, "collection-cam", **options)
    for changed in ({"score": "probability"}, {"denoise": "max-fraction", "theta": 0.4}, {"standardize": True}, {"most": 2}, {"layers": LAYERS[1:]}):
        assert not torch.allclose(xr.explain(model, x, 1, "collection-cam", **(options | changed)), plain)


def test_a_fraction_of_the_maximum():
    small, image = collect(torch.rand(1, 3, 4, 4, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None])
    assert small.shape == (3, 4, 4) and image.tolist() == [0, 0, 0]
    model, x = seeded(VGGLike), images(1)
    ((A, G),) = gradients(model, x, torch.tensor([1]), ["features.4"])
    total = (A[0] * G[0].mean((1, 2), keepdim=True)).sum(0).clamp(min=0)
    assert total.max() > 0
    H = F.interpolate(total[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
    H = torch.where(H > 0.3 * H.max(), H, 0)
    got = xr.explain(model, x, 1, "collection-cam", layers=["features.4"], least=1, most=1, theta=0.3, denoise="max-fraction")
    torch.testing.assert_close(got[0], H / H.max())  # one mask: its weight is 1


def test_features():
    A, G = torch.rand(2, 5, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    psi = features(A, G)
    for b in range(2):
        np.testing.assert_allclose(psi[b].numpy(), plain_psi(A[b], G[b]), rtol=1e-12)
    scaled = features(A, G, standardize=True)
    torch.testing.assert_close(scaled.mean(1), torch.zeros(2, 4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.std(1, correction=0), torch.ones(2, 4).double())
    assert torch.isfinite(features(A * 0, G, standardize=True)).all()


def test_membership_is_a_partition():
    psi = features(torch.rand(3, 20, 4, 4).double(), torch.randn(3, 20, 4, 4).double())
    members = membership(psi, 2, 7)
    assert (members.sum(1) == 1).all() and members.shape[1] <= 7
    for b in range(3):
        assert as_sets(members[b].argmax(0).numpy()) == set(map(frozenset, plain_collections(psi[b].numpy(), 2, 7)))


def test_a_model_that_reacts_to_nothing():
    """No gradient, so no mask: the map is zero, not NaN."""
    model = seeded(VGGLike)
    with torch.no_grad():
        model.classifier[0].weight.zero_()
    assert (xr.explain(model, images(), 1, "collection-cam", layers=["features.4"]) == 0).all()


@pytest.mark.parametrize("wrong, said", [
    ({"least": 5, "most": 3}, "least is 5, most is 3"), ({"least": 0}, "least is 0"), ({"most": 2.5}, "most.* is 2.5"), ({"theta": 1}, "theta is 1"),
    ({"denoise": "median"}, "denoise is 'median'; possible: quantile"), ({"score": "loss"}, "score is 'loss'; possible: logit"),
])  # fmt: skip
def test_collection_cam_refuses(wrong, said):
    with pytest.raises(ValueError, match=said):
        xr.explain(seeded(VGGLike), images(1), 0, "collection-cam", layers=LAYERS, **wrong)


# -- Score-CAM's variants ------------------------------------------------------------------------------------------------------


def test_score_cam_by_increase():
    """alpha_k = p(x H_k) - p(0), and its softmax over channels would not see the baseline (I14)."""
    model, x = seeded(VGGLike), images(2)
    plain, increase = (xr.coefficients(model, x, 3, "score-cam", layer="features.4", weight=w) for w in ("probability", "increase"))
    live = plain != 0
    empty = model(torch.zeros_like(x[:1])).softmax(1)[0, 3].detach()
    torch.testing.assert_close(increase[live], (plain - empty)[live])
    assert (increase[~live] == 0).all() and live.any()
    torch.testing.assert_close(plain[live].softmax(0), increase[live].softmax(0))


# -- what they cost -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


def forward_of(model, x):
    with torch.no_grad():
        return flops(lambda: model(x))


def test_rise_costs_a_forward_per_mask_and_one(resnet18):
    x = images(1, size=224, dtype=torch.float32)
    F1 = forward_of(resnet18, x)
    for masks in (3, 12):
        assert flops(lambda: xr.explain(resnet18, x, None, "rise", masks=masks)) / F1 == pytest.approx(masks + 1, rel=1e-3)
        assert flops(lambda: xr.explain(resnet18, x, 0, "rise", masks=masks)) / F1 == pytest.approx(masks, rel=1e-3)


def test_collection_cam_costs_a_forward_a_backward_and_a_forward_per_mask(resnet18):
    x = images(1, size=224, dtype=torch.float32)
    rows = []
    handle = resnet18.conv1.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    spent = flops(lambda: xr.explain(resnet18, x, 0, "collection-cam"))
    handle.remove()
    masks = sum(rows) - 1
    assert 4 <= masks <= 40
    assert masks + 1 <= spent / forward_of(resnet18, x) <= masks + 2.05


@pytest.mark.parametrize("few, many", [(100, 400), (1000, 4000)])
def test_memory_of_rise_does_not_grow_with_the_masks(few, many):
    model, x = seeded(VGGLike, dtype=torch.float32), images(2, size=16, dtype=torch.float32)

    def peak(masks):
        return peak_bytes(lambda: xr.explain(model, x, 0, "rise", masks=masks, chunk=20))

    own = (many - few) * (49 * 5 + 2 * 4 + 2 * 4 * 2)  # the grids as drawn, the shifts, the scores
    assert peak(many) <= 1.05 * peak(few) + 2 * own


def test_memory_of_collection_cam_is_bounded_by_the_chunk(resnet18):
    x = images(1, size=96, dtype=torch.float32)

    def peak(**options):
        return peak_bytes(lambda: xr.explain(resnet18, x, 0, "collection-cam", **options))

    many = {"least": 9, "most": 10}
    assert peak(chunk=2, **many) < 1.05 * peak(chunk=2, least=2, most=2) < 0.9 * peak(chunk=40, **many)



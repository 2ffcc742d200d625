"""Score-CAM channel by channel."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toy_heads import Net, Y, activations, same, setting
from torch import nn
from toy_shapley import alphas
from toys import CLASSES, VGGLike, images, seeded


# -- score-cam ------------------------------------------------------------------------------------------------------------------------


def through(module):
    """Images that pass a module while the list is kept, by a hook."""
    seen = []
    return seen, module.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))


@pytest.mark.parametrize("weight", ["probability", "softmax"])
@pytest.mark.parametrize("name", ["vgg", "residual", "functional"])
def test_score_cam_channel_by_channel(name, weight):
    model, x, layer = setting(name)
    A = activations(model, x, layer)
    expected = torch.zeros(A.shape[:2], dtype=torch.float64)
    with torch.no_grad():
        for b, k in itertools.product(range(3), range(A.shape[1])):
            mask = F.interpolate(A[b, k][None, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
            if A[b, k].max() == A[b, k].min():
                expected[b, k] = 0 if weight == "probability" else -math.inf
                continue
            logits = model(x[b : b + 1] * (mask - mask.min()) / (mask.max() - mask.min()))[0]
            expected[b, k] = logits[Y[b]] if weight == "softmax" else logits.softmax(0)[Y[b]]
    expected = expected.softmax(1) if weight == "softmax" else expected
    same(alphas(name, "score-cam", weight=weight), expected)
    same(alphas(name, "score-cam", weight=weight, chunk=2), expected)
    small = (expected[:, :, None, None] * A).sum(1).clamp(min=0)
    maps = F.interpolate(small[:, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    same(xr.explain(model, x, Y, "score-cam", layer=layer, weight=weight), maps)


@pytest.mark.parametrize("dead", [0, 1, 2, 6])
@pytest.mark.parametrize("weight", ["probability", "softmax"])
def test_score_cam_skips_constant_channels_and_runs_one_forward_per_live_one(dead, weight):
    model, x = seeded(VGGLike), images()
    with torch.no_grad():
        model.features[3].weight[:dead], model.features[3].bias[:dead] = 0, 0.7
    A = activations(model, x, "features.4")
    live = A.amax((2, 3)) > A.amin((2, 3))
    assert not live[:, :dead].any()
    seen, handle = through(model.features[0])
    alpha = xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight=weight)
    handle.remove()
    assert sum(seen) == 3 + live.sum() and not alpha[~live].any()
    if weight == "softmax" and dead < 6:
        same(alpha.sum(1), torch.ones(3, dtype=torch.float64))


class Blind(Net):
    """Logits that do not look at the image."""

    def build(self):
        self.fc = nn.Linear(4, CLASSES)

    def head(self, a, h):
        return self.fc(0 * a.mean((2, 3)))


@pytest.mark.parametrize("weight", ["probability", "softmax"])
def test_score_cam_of_a_model_that_ignores_its_input(weight):
    model, x = seeded(Blind), images()
    alpha = xr.coefficients(model, x, Y, "score-cam", layer="act", weight=weight)
    live = alpha != 0
    assert live.sum(1).min() > 1
    for b in range(3):
        value = 1 / live[b].sum() if weight == "softmax" else model.fc.bias.softmax(0)[Y[b]].detach()
        same(alpha[b][live[b]], value.double().expand(int(live[b].sum())))


def test_I14_the_softmax_of_score_cam_does_not_see_a_constant():
    model, x = seeded(VGGLike), images()
    before = xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight="softmax")
    with torch.no_grad():
        model.classifier[6].bias += 3.25
    same(xr.coefficients(model, x, Y, "score-cam", layer="features.4", weight="softmax"), before)


def test_wrong_weight_of_score_cam():
    with pytest.raises(ValueError, match="weight is 'cic'; possible: probability, softmax"):
        alphas("vgg", "score-cam", weight="cic")

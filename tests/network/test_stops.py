"""Where relevance stops, and where it is changed on its way."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from toys import CLASSES, Y, flops, images, Residual, seeded, VGGLike
from torch import nn

from xai_repro.errors import UnknownName
from xai_repro.methods.relevance import one_hot, table
from xai_repro.network import rules
from xai_repro.network.propagate import relevance
from xai_repro.network.rules import contribution, Rules


def test_the_bottom_is_only_what_nobody_has_changed():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64), nn.Conv2d(4, 4, 1, dtype=torch.float64)
            self.fc = nn.Linear(4, CLASSES, dtype=torch.float64)

        def forward(self, x):
            x = self.stem(x)
            if self.written:
                x = F.relu(x, inplace=True)  # not below where relevance stops, though the same tensor
            return self.fc(self.one(x).relu().mean((2, 3)))

    seen = []
    model = seeded(Writes)
    table = Rules(lambda layer: seen.append((layer.bottom, layer.linear)) or rules.excitation(layer), weight=contribution, fold=False)
    for model.written in (True, False):
        relevance(model, images(), Y, table, lambda logits, y: torch.ones_like(logits), "stem")
    assert seen == [(False, True), (False, False), (False, True), (True, False)]


# -- what is done to it where it arrives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "features.1"])
def test_nothing_done_is_nothing_changed(layer):
    model, seen = seeded(VGGLike), []
    plain = relevance(model, images(), Y, table("alpha1beta0", "z-box"), one_hot, layer)[0]
    at = {name: lambda A, R, y: seen.append((A.shape, R.shape, y.tolist())) or R for name in ("features.4", "classifier.1")}
    found = relevance(model, images(), Y, table("alpha1beta0", "z-box"), one_hot, layer, at)[0]
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    assert [one[:2] for one in seen] == [((3, 12), (3, 12)), ((3, 6, 8, 8), (3, 6, 8, 8))] and all(one[2] == Y.tolist() for one in seen)


def test_what_is_done_goes_down_from_there():
    """Relevance is linear: halved at one layer, all below is halved; set to what another layer's place had, it is that place's."""
    model, x = seeded(VGGLike), images()
    plain, kept = relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot)[0], []
    half = relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot, None, {"features.4": lambda A, R, y: R / 2})[0]
    torch.testing.assert_close(half, plain / 2)
    stopped, A = relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot, "features.4")
    relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot, None, {"features.4": lambda A, R, y: kept.extend([A, R]) or R})
    torch.testing.assert_close(kept[1], stopped)
    torch.testing.assert_close(kept[0], A)
    once = torch.zeros_like(stopped)
    once[:, :, 1, 2] = stopped[:, :, 1, 2]
    one = relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot, None, {"features.4": lambda A, R, y: R * (once != 0)})[0]
    rest = relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot, None, {"features.4": lambda A, R, y: R * (once == 0)})[0]
    torch.testing.assert_close(one + rest, plain)


def test_each_class_is_told_which_it_is():
    model, x, seen = seeded(VGGLike), images(), []
    several = torch.stack([Y, (Y + 1) % CLASSES], 1)
    relevance(model, x, several, table("alpha1beta0", "z-box"), one_hot, None, {"features.4": lambda A, R, y: seen.append(y.tolist()) or R})
    assert seen == [Y.tolist(), ((Y + 1) % CLASSES).tolist()]
    with pytest.raises(UnknownName, match="unknown layer 'features.44'"):
        relevance(model, x, Y, table("alpha1beta0", "z-box"), one_hot, None, {"features.44": lambda A, R, y: R})


def test_a_batchnorm_behind_it_still_belongs_to_its_convolution():
    model = seeded(Residual)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    plain = relevance(model, images(), Y, table("epsilon-plus", "alpha1beta0"), one_hot)[0]
    found = relevance(model, images(), Y, table("epsilon-plus", "alpha1beta0"), one_hot, None, {name: lambda A, R, y: R for name in convolutions})[0]
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_it_costs_nothing():
    model = torchvision.models.vgg11(weights=None).eval()
    x = torch.rand(1, 3, 32, 32)
    plain, found = (flops(lambda at=at: relevance(model, x, None, table("alpha1beta0", "z-box"), one_hot, None, at)) for at in (None, {"features.1": lambda A, R, y: 2 * R}))
    assert plain == found

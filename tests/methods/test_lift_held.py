"""LIFT-CAM where an activation's change has no chord, and when it says that shares are missing."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import xai_repro as xr
from torch import nn

from xai_repro.methods.shapley import _say_what_is_missed


class Cancelling(nn.Module):
    """Channels 0 and 1 cancel before a function, so that it sees at the first position what it sees of the reference; channel 2 apart."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.mix, self.function = nn.Identity(), nn.Conv2d(3, 2, 1), function
        self.mix.weight.data = torch.tensor([[1.0, -1, 0], [0, 0, 1]])[..., None, None]
        self.mix.bias.data = torch.tensor([0.3, -0.1])

    def forward(self, x):
        h = self.function(self.mix(self.layer(x))).sum((2, 3))
        return torch.stack([2 * h[:, 0] + h[:, 1], 0 * h[:, 0]], 1)


def test_where_nothing_changes_the_derivative_takes_the_place_of_the_chord():
    """tanh sees 0.3 with and without the activations: the channels' shares are their values times its slope there, and cancel."""
    x = torch.tensor([2.0, 2, 1], dtype=torch.float64).view(1, 3, 1, 1)
    alpha = xr.coefficients(Cancelling(nn.Tanh()).double(), x, 0, "lift-cam", layer="layer")[0]
    bias = torch.tensor([0.3, -0.1, 0.9]).double()
    share = 2 * 2 * (1 - bias[0].tanh() ** 2)
    torch.testing.assert_close(alpha, torch.stack([share, -share, bias[2].tanh() - bias[1].tanh()]), rtol=1e-6, atol=0)


def test_a_maximum_that_does_not_change_hands_its_gradient_to_its_place():
    """The maximum of both is at the first position, where channels 0 and 1 cancel: their shares there are 2 * 2, and no others."""
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    x[0, 0], x[0, 1] = torch.tensor([[2.0, 1], [0, 1]]), torch.tensor([[2.0, 3], [1, 2]])
    alpha = xr.coefficients(Cancelling(nn.MaxPool2d(2)).double(), x, 0, "lift-cam", layer="layer")[0]
    torch.testing.assert_close(alpha, torch.tensor([4.0, -4.0, 0.0]).double(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("missed, said", [(0.0, False), (0.005, False), (0.02, True), (-0.02, True), (0.5, True)])
def test_shares_that_miss_more_than_a_hundredth_are_said(missed, said):
    """Of the change of the logit, or of a thousandth of all shares where these cancel."""
    alpha, gain, split = torch.tensor([[3.0, 1.0], [3.0, 1.0]]), torch.tensor([4.0, 4 * (1 - missed)]), SimpleNamespace(layer="act")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        _say_what_is_missed(split, alpha, gain)
        _say_what_is_missed(split, torch.tensor([[500.0, -500.0]]), torch.tensor([0.9]))  # rounding, of such large shares
    assert len(found) == said and all(f"sum to 4 where the logit changes by {gain[1]:.4g} (image 1)" in str(one.message) for one in found)

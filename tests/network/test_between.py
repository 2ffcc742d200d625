"""Relevance from one layer to another is what comes from the logits by way of it."""

import pytest
import torch
from toys import GapLinear, images, Residual, seeded, state, VGGLike, Y

from xai_repro.errors import UnknownName
from xai_repro.methods.relevance import one_hot, table
from xai_repro.network.propagate import relevance, relevance_between

RULES = table("alpha1beta0", "z-box")


@pytest.mark.parametrize("build, top, bottom, inner", [(VGGLike, "features.4", "features.1", "features.2"), (Residual, "layer1", "layer1.0", "layer1.1.conv2"), (Residual, "layer1.1", "layer1.1.conv2", None)])
def test_between_two_layers(build, top, bottom, inner):
    model, x = seeded(build, dtype=torch.float64), images()
    before = state(model)
    at = {inner: lambda A, R, y: R * (2 + y[:, None, None, None]) * A.sigmoid()} if inner else {}
    R, _ = relevance(model, x, Y, RULES, one_hot, top)
    expected, A = relevance(model, x, Y, RULES, one_hot, bottom, at)
    found, B = relevance_between(model, x, Y, RULES, R, top, bottom, at)
    assert torch.equal(A, B) and (found != 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert state(model) == before


def test_what_has_no_way_is_refused():
    model, x = seeded(GapLinear), images()
    R, _ = relevance(model, x, Y, RULES, one_hot, "features.3")
    with pytest.raises(UnknownName):
        relevance_between(model, x, Y, RULES, R, "features.3", "features.9")
    with pytest.raises((RuntimeError, ValueError)):  # the bottom lies above the top
        relevance_between(model, x, Y, RULES, R, "features.1", "features.3")

"""Outputs of several layers from one forward pass."""

import pytest
import torch
from toys import images, Residual, seeded, state, VGGLike

from xai_repro.errors import UnknownName
from xai_repro.network.pyramid import activations

LAYERS = {VGGLike: ["features.4", "features.0", "features.1", "features.5"], Residual: ["layer1.1", "conv1", "layer1.0.bn1", "layer1.0"]}


@pytest.mark.parametrize("build", LAYERS)
def test_outputs_are_taken_before_anything_writes_to_them(build):
    model, x, taken = seeded(build), images(), {}
    for name in LAYERS[build]:
        model.get_submodule(name).register_forward_hook(lambda module, args, output, name=name: taken.update({name: output.detach().clone()}))
    model(x)
    model = seeded(build)
    before, own = state(model), x.clone()
    found = activations(model, x, LAYERS[build])
    assert list(found) == LAYERS[build] and all(torch.equal(found[name], taken[name]) and not found[name].requires_grad for name in found)
    assert state(model) == before and torch.equal(x, own)
    if build is VGGLike:
        assert (found["features.0"] < 0).any() and torch.equal(found["features.1"], found["features.0"].clamp(min=0))  # in place


@pytest.mark.parametrize(("build", "layer", "error", "said"), [
    (Residual, "layer1.0.relu", ValueError, "layer 'layer1.0.relu' runs 3 times in one forward pass; one run is needed"),
    (VGGLike, "spare", ValueError, "layer 'spare' runs 0 times"), (VGGLike, "features.44", UnknownName, "did you mean 'features.4'"),
])  # fmt: skip
def test_a_layer_has_to_run_once(build, layer, error, said):
    model = seeded(build)
    model.spare = torch.nn.ReLU()
    before = state(model)
    with pytest.raises(error, match=said):
        activations(model, images(), [LAYERS[build][1], layer])
    assert state(model) == before  # no hook stays

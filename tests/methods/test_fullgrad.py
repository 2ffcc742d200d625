"""FullGrad: image and biases sum to the logit; the map is what the formula says of them."""

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toys import Functional, GapLinear, Residual, VGGLike, Y, images, seeded

from xai_repro.errors import NotApplicable
from xai_repro.methods.fullgrad import shares


@pytest.mark.parametrize("build", [GapLinear, VGGLike, Residual])
def test_image_and_biases_sum_to_the_logit(build):
    model = seeded(build)
    own, terms = shares(model, images(), Y)
    total = own.sum((1, 2, 3)) + sum(term.flatten(1).sum(1) for term in terms)
    torch.testing.assert_close(total, model(images()).gather(1, Y[:, None])[:, 0].detach())


def test_a_shift_of_the_image_is_no_bias():
    """What a network takes from the image before its first layer is missing from the sum, as in the paper: x is what it is given."""
    model = seeded(Functional)
    own, terms = shares(model, images(), Y)
    x = images().requires_grad_()
    (g,) = torch.autograd.grad(model(x).gather(1, Y[:, None]).sum(), x)
    torch.testing.assert_close(own, (x * g).detach())
    missing = (-model.mean * g).sum((1, 2, 3)).detach()
    total = own.sum((1, 2, 3)) + sum(term.flatten(1).sum(1) for term in terms) + missing
    torch.testing.assert_close(total, model(images()).gather(1, Y[:, None])[:, 0].detach())


def test_the_map_written_out():
    """One image at a time: scaled absolute values of each layer, upsampled, channels and layers summed."""
    model, x = seeded(VGGLike), images()
    found = xr.explain(model, x, Y, "fullgrad")
    own, terms = shares(model, x, Y)
    for b in range(3):
        expected = torch.zeros(16, 16, dtype=torch.float64)
        for term in [own, *(term for term in terms if term.dim() == 4)]:
            psi = term[b].abs()
            psi = (psi - psi.min()) / (psi.max() - psi.min())
            for channel in psi:
                expected += F.interpolate(channel[None, None], size=16, mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(found[b], expected)
    assert len(terms) == 5 and sum(term.dim() == 4 for term in terms) == 2


def test_biases_of_batchnorms_count():
    """beta - mean gamma / sigma: without it the sum is not the logit."""
    model = seeded(Residual)
    _, terms = shares(model, images(), Y)
    assert len(terms) == 9  # eight BatchNorms, one linear layer
    bn, h = model.bn1, model.conv1(images()).detach().requires_grad_()
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    torch.testing.assert_close(bn(h) - h * scale.view(1, -1, 1, 1), (bn.bias - bn.running_mean * scale).view(1, -1, 1, 1).expand_as(h), rtol=1e-6, atol=1e-9)
    z = bn(h)
    (g,) = torch.autograd.grad(model.fc(model.avgpool(model.layer1(F.relu(z))).flatten(1)).gather(1, Y[:, None]).sum(), z)
    torch.testing.assert_close(terms[0], (g * (bn.bias - bn.running_mean * scale).view(1, -1, 1, 1)).detach())


def test_torchscript_hides_its_biases():
    with pytest.raises(NotApplicable, match="TorchScript"):
        shares(torch.jit.trace(seeded(GapLinear), images()), images(), Y)

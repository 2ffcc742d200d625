"""What relevance costs, counted in forward passes at 224 pixels, and where zennit says the same."""

import pytest
import torch
import torchvision
import xai_repro as xr
from contract import ANYWHERE
from test_cost import forward, network, picture
from toys import flops

from xai_repro.methods.relevance import one_hot
from xai_repro.network import rules
from xai_repro.network.propagate import relevance
from xai_repro.network.rules import contribution, Rules

pytestmark = pytest.mark.slow
BOUNDS = {  # of lrp, excitation backprop, contrasts, Gradient Hedging: (method, hyper-parameters) -> forward passes
    "epsilon": (("lrp", {"rule": "epsilon", "first": "epsilon"}), 2.05), "alpha1beta0": (("lrp", {}), 3.1), "alpha2beta1": (("lrp", {"rule": "alpha2beta1"}), 5.1),
    "excitation": (("excitation-backprop", {"layer": "input"}), 3.1), "clrp": (("clrp", {}), 3.2), "sglrp": (("sglrp", {}), 3.2),
    "hedging": (("gradient-hedging", {}), 6.05), "relevance-cam": (("relevance-cam", {}), 1.05), "fullgrad": (("fullgrad", {}), 2.05),
}  # fmt: skip


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
@pytest.mark.parametrize("what", BOUNDS)
def test_relevance_costs_at_most(name, what):
    (method, hyper), bound = BOUNDS[what]
    counted = flops(lambda: xr.explain(network(name), picture(), 7, method, **hyper)) / forward(name, flops)
    assert 1 <= counted <= bound, f"{what} on {name}: {counted:.2f} forward passes, at most {bound}"


@pytest.mark.parametrize("name, bound", [("vgg16", 1.3), ("resnet50", 1.3)])
def test_excitation_backprop_stops_at_its_layer(name, bound):
    counted = flops(lambda: xr.explain(network(name), picture(), 7, "excitation-backprop")) / forward(name, flops)
    assert counted <= bound, f"{counted:.2f} forward passes"


def zennit_relevance(model, x, y, canonizers=()):
    """z+ without biases in convolutions, epsilon in linear layers, averages and sums by contribution."""
    zennit = pytest.importorskip("zennit")
    from zennit.composites import LayerMapComposite
    from zennit.rules import Epsilon, Norm, Pass, ZPlus
    from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

    assert zennit
    layers = [(Activation, Pass()), (zennit.layer.Sum, Norm()), (AvgPool, Norm()), (BatchNorm, Pass()), (Convolution, ZPlus(zero_params="bias")), (Linear, Epsilon())]
    composite = LayerMapComposite(layers, canonizers=list(canonizers))
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        out = modified(x)
        (found,) = torch.autograd.grad(out, x, one_hot(out.detach(), y))
    return found


def images(size=96):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def trained_like(name):
    """Random weights, BatchNorms with statistics that do something, logits of a usual size (AGF begins with a probability's gradient)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5), module.bias.data.normal_(0, 0.1), module.weight.data.uniform_(0.5, 1.5)
        model.eval()
        with torch.no_grad():
            last, logits = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1], model(images(128))
            last.weight /= logits.std()
            last.bias /= logits.std()
    return model


def test_zennit_says_the_same_of_vgg16():
    model, x, y = trained_like("vgg16"), images(), torch.tensor([3, 500])
    ours, _ = relevance(model, x, y, Rules(rules.alpha1beta0, linear=rules.epsilon, weight=contribution), one_hot)
    theirs = zennit_relevance(model, x, y)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_zennit_says_the_same_of_resnet18_with_its_canonizer():
    """In float64: what nearly cancels in a sum by contribution is amplified, and so is rounding."""
    pytest.importorskip("zennit")
    from zennit.torchvision import ResNetCanonizer

    model, x, y = trained_like("resnet18").double(), images().double(), torch.tensor([3, 500])
    ours, _ = relevance(model, x, y, Rules(rules.alpha1beta0, linear=rules.epsilon, weight=contribution), one_hot)
    theirs = zennit_relevance(model, x, y, [ResNetCanonizer()])
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "densenet121", "inception_v3", "alexnet", "googlenet"])
def test_relevance_keeps_its_sum_on_torchvisions_networks(name):
    model, x = trained_like(name), images(128)
    found, _ = relevance(model, x, None, Rules(rules.alpha1beta0, first=rules.z_box), one_hot)
    assert found.dtype == torch.float32 and (found >= 0).all()
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet50", "densenet121", "inception_v3", "googlenet"])
def test_all_methods_explain_torchvisions_networks(name):
    model, x = trained_like(name), images(128)[:1]
    for method in [*(name for name in ANYWHERE if xr.method_info(name).family == "relevance"), "fullgrad"]:
        maps = xr.explain(model, x, None, method)
        assert maps.shape == (1, 128, 128) and maps.isfinite().all() and maps.std() > 0, method

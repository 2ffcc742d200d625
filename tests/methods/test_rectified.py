"""DeconvNet and Guided Backpropagation: ReLUs by hand, in every form."""

import pytest
import torch
import xai_repro as xr
from toys import TOYS, GapLinear, VGGLike, images, seeded, Y

from xai_repro.errors import NotApplicable


# -- ReLUs with another backward pass ------------------------------------------------------------------------------------------

RULES = {"deconvnet": lambda g, z: max(g, 0.0), "guided-backprop": lambda g, z: max(g, 0.0) if z > 0 else 0.0}


def relu_by_hand(rule):
    def layer(z):
        def back(g):
            return torch.tensor([rule(a, b) for a, b in zip(g.flatten().tolist(), z.flatten().tolist())], dtype=z.dtype).view_as(z)

        return z.clamp(min=0), back

    return layer


def smooth(function):
    """A layer without ReLUs: its output, and its own gradient."""

    def layer(z):
        leaf = z.detach().requires_grad_()
        output = function(leaf)
        return output.detach(), lambda g: torch.autograd.grad(output, leaf, g)[0]

    return layer


def chain(*layers):
    def whole(z):
        backs = []
        for layer in layers:
            z, back = layer(z)
            backs.append(back)

        def back(g):
            for one in reversed(backs):
                g = one(g)
            return g

        return z, back

    return whole


def both(one, other, join=torch.add):
    """Two branches of one input, added or concatenated; the gradients of the branches add up at the fork."""

    def whole(z):
        (a, back_a), (b, back_b) = one(z), other(z)
        parts = (slice(0, a.shape[1]), slice(a.shape[1], None)) if join is not torch.add else (slice(None),) * 2
        return join(a, b), lambda g: back_a(g[:, parts[0]]) + back_b(g[:, parts[1]])

    return whole


def by_hand(name, model, relu):
    """The toy once more, with every ReLU written out."""

    def sequence(modules):
        return chain(*(relu if isinstance(m, torch.nn.ReLU) else smooth(m) for m in modules))

    identity, flatten = smooth(lambda z: z * 1), smooth(lambda z: z.flatten(1))
    if name == "vgg":
        return chain(sequence(model.features), smooth(model.avgpool), flatten, sequence(model.classifier))
    if name == "gap":
        return chain(sequence(model.features), smooth(model.pool), flatten, smooth(model.fc))
    if name == "residual":
        blocks = []
        for b in model.layer1:
            body = chain(*map(smooth, (b.conv1, b.bn1)), relu, *map(smooth, (b.conv2, b.bn2)), relu, *map(smooth, (b.conv3, b.bn3)))
            blocks += [both(body, smooth(b.downsample) if b.downsample else identity), relu]
        return chain(smooth(model.conv1), smooth(model.bn1), relu, *blocks, smooth(model.avgpool), flatten, smooth(model.fc))
    first = smooth(lambda x: model.conv1((x - model.mean) / model.std))
    forked = both(identity, chain(smooth(model.conv2), relu), lambda a, b: torch.cat([a, b], 1))
    last = smooth(lambda c: model.fc(torch.nn.functional.adaptive_avg_pool2d(c, 1).flatten(1)))
    return chain(first, relu, smooth(lambda z: torch.nn.functional.max_pool2d(z, 2)), forked, smooth(model.conv3), relu, last)


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("name", TOYS)
def test_relu_rules_by_hand(name, method):
    model, x = seeded(TOYS[name].build), images()
    logits, back = by_hand(name, model, relu_by_hand(RULES[method]))(x)
    torch.testing.assert_close(logits, model(x.clone()).detach(), rtol=0, atol=1e-12)  # the same network indeed
    g = back(torch.eye(5, dtype=x.dtype)[Y])
    got = xr.explain(model, x, Y, method)
    torch.testing.assert_close(got, torch.maximum(torch.maximum(g[:, 0].abs(), g[:, 1].abs()), g[:, 2].abs()), rtol=1e-10, atol=1e-14)
    assert (got - xr.explain(model, x, Y, "gradient")).abs().max() > 1e-3 * got.max()


def test_relu_rules_in_numbers():
    """S = 2 relu(a) - 3 relu(b) + 5 relu(c) + 7 relu(d) with a = x0, b = x1, c = -x0 - 1, d = x2: a, b and d are open, c is closed."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 4), torch.nn.ReLU(True), torch.nn.Linear(4, 1)).double()
    model[1].weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    model[1].bias.data = torch.tensor([0.0, 0, -1, 0], dtype=torch.float64)
    model[3].weight.data = torch.tensor([[2.0, -3, 5, 7]], dtype=torch.float64)
    x = torch.ones(1, 3, 1, 1, dtype=torch.float64)

    def colours(method):
        """The map, with the other colours' weights taken away, one colour at a time."""
        found = []
        for c in range(3):
            kept = model[1].weight.data.clone()
            model[1].weight.data[:, [other for other in range(3) if other != c]] = 0
            found.append(xr.explain(model, x, 0, method).item())
            model[1].weight.data = kept
        return found

    assert colours("gradient") == [2, 3, 7]
    assert colours("guided-backprop") == [2, 0, 7]
    assert colours("deconvnet") == [5 - 2, 0, 7]


class OneReLU(torch.nn.Module):
    """One layer, a ReLU of any form, another layer."""

    def __init__(self, relu):
        super().__init__()
        self.conv, self.fc, self.relu = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5), relu

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


def ignoring_the_result(z):
    z.relu_()
    return z


def a_view_in_place(z):
    torch.relu_(z[:, :2])
    return torch.cat([z[:, :2], z[:, 2:].relu()], 1)


FORMS = [
    torch.nn.ReLU(), torch.nn.ReLU(True), torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, torch.nn.functional.relu,
    torch.nn.functional.relu_, lambda z: torch.nn.functional.relu(z, True), lambda z: torch.nn.functional.relu(input=z, inplace=True),
    lambda z: torch.relu(input=z), ignoring_the_result, a_view_in_place,
]  # fmt: skip


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_every_form_of_a_relu(form, method):
    x, plain = images(), seeded(lambda: OneReLU(FORMS[0]))
    expected = xr.explain(plain, x, Y, method)
    torch.testing.assert_close(xr.explain(seeded(lambda: OneReLU(FORMS[form])), x, Y, method), expected, rtol=0, atol=1e-15)
    assert (expected - xr.explain(plain, x, Y, "gradient")).abs().max() > 0.01 * expected.max()


def test_where_no_relu_is_met_the_method_does_not_apply():
    for other in (torch.nn.SiLU(), torch.nn.Hardtanh(-1, 1), torch.nn.LeakyReLU(0.1), torch.nn.ELU(), torch.sigmoid, torch.tanh):
        model, x = seeded(lambda: OneReLU(other)), images()
        for method in RULES:
            with pytest.raises(NotApplicable, match="no ReLU is met in the forward pass of OneReLU"):
                xr.explain(model, x, Y, method)


def backwards(model, x, after, rule):
    """max_c |g_c| of OneReLU with its non-linearity written out: after(z) = y and dy/dz by autograd, rule(g, own) at z."""
    leaf = x.clone().requires_grad_()
    z = model.conv(leaf)
    free = z.detach().requires_grad_()
    y = after(free)
    (g,) = torch.autograd.grad(model.fc(y.mean((2, 3)))[torch.arange(len(x)), Y].sum(), y, retain_graph=True)
    (own,) = torch.autograd.grad(y, free, g)
    (gx,) = torch.autograd.grad(z, leaf, rule(g, own))
    return gx.abs().amax(1)


BY_HAND = {"deconvnet": lambda g, own: g.clamp(min=0), "guided-backprop": lambda g, own: own.clamp(min=0)}
SIXES = [
    torch.nn.ReLU6(), torch.nn.ReLU6(inplace=True), torch.nn.functional.relu6, torch.nn.Hardtanh(0, 6), torch.nn.Hardtanh(0, 6, inplace=True),
    lambda z: torch.nn.functional.hardtanh(z, 0.0, 6.0), lambda z: torch.nn.functional.hardtanh(z, min_val=0, max_val=6),
]  # fmt: skip


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("form", range(len(SIXES)))
def test_relu6_is_a_rectifier_with_a_ceiling(form, method):
    model, x = seeded(lambda: OneReLU(SIXES[form])), 5 * images()
    z = model.conv(x)
    assert (z > 6).any() and (z < 0).any()
    expected = backwards(model, x, lambda z: z.clamp(0, 6), BY_HAND[method])
    torch.testing.assert_close(xr.explain(model, x, Y, method), expected, rtol=1e-12, atol=1e-15)
    assert (expected - xr.explain(model, x, Y, "gradient")).abs().max() > 0.01 * expected.max()


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("other", [torch.nn.SiLU(), torch.nn.ELU(), torch.tanh, lambda z: z.clamp(min=0.1)])
def test_what_is_no_relu_keeps_its_gradient(other, method):
    """Behind a ReLU, so that the method applies."""
    model, x = seeded(lambda: OneReLU(lambda z: other(z.relu()))), images()

    def rule(g, own):  # g at the output of the other one; what it hands to the ReLU is its own gradient
        r = model.conv(x).relu().detach().requires_grad_()
        (inner,) = torch.autograd.grad(other(r), r, g)
        return BY_HAND[method](inner, inner * (r > 0))

    expected = backwards(model, x, lambda z: other(z.relu()), rule)
    torch.testing.assert_close(xr.explain(model, x, Y, method), expected, rtol=1e-12, atol=1e-15)


def test_where_no_gradient_is_negative_guided_backprop_is_the_gradient():
    model, x = seeded(TOYS["vgg"].build), images()
    for p in [*model.features[3:].parameters(), *model.classifier.parameters()]:
        p.data.abs_()  # the first layer may have any sign
    torch.testing.assert_close(xr.explain(model, x, Y, "guided-backprop"), xr.explain(model, x, Y, "gradient"), rtol=0, atol=1e-14)


def test_deconvnet_does_not_see_which_relus_are_open():
    """Without max-pooling it depends on the weights alone; guided backpropagation does not."""
    model, x = seeded(GapLinear), images()
    maps = xr.explain(model, x, 2, "deconvnet")
    torch.testing.assert_close(maps, maps[:1].expand(3, -1, -1), rtol=0, atol=1e-14)
    guided = xr.explain(model, x, 2, "guided-backprop")
    assert (guided - guided[:1]).abs().max() > 0.01


def test_a_closed_unit_hands_nothing_back():
    model, x = seeded(lambda: OneReLU(torch.nn.ReLU())), images()
    model.conv.bias.data.fill_(-100)
    assert not xr.explain(model, x, Y, "guided-backprop").any() and xr.explain(model, x, Y, "deconvnet").any()


def test_the_rule_ends_with_the_call():
    model, x = seeded(VGGLike), images()
    expected = xr.explain(model, x, Y, "gradient")
    for method in RULES:
        xr.explain(model, x, Y, method)
        with pytest.raises(ValueError):
            xr.explain(model, x, 77, method)
        assert torch.equal(xr.explain(model, x, Y, "gradient"), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_traced_model_hides_its_relus():
    model, x = seeded(VGGLike), images()
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(xr.explain(traced, x, Y, "gradient"), xr.explain(model, x, Y, "gradient"))
    for method in RULES:
        with pytest.raises(NotApplicable, match="TorchScript"):
            xr.explain(traced, x, Y, method)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_relu_rules_agree_with_captum():
    attr = pytest.importorskip("captum.attr")
    model, plain, x = seeded(VGGLike), seeded(VGGLike), images()
    for module in plain.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    for method, oracle in (("guided-backprop", attr.GuidedBackprop), ("deconvnet", attr.Deconvolution)):
        expected = oracle(plain).attribute(x.clone().requires_grad_(), target=Y).abs().amax(1).detach()
        torch.testing.assert_close(xr.explain(model, x, Y, method), expected, rtol=1e-10, atol=1e-14)

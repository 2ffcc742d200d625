"""Maps of the image's gradient against finite differences, dense Jacobians, backward passes and path integrals by hand."""

import pytest
import torch
import xai_repro as xr
from toys import TOYS, GapLinear, VGGLike, images, seeded

from xai_repro.errors import NotApplicable

Y = torch.tensor([1, 4, 0])


def differences(model, x, y, step=1e-6):
    """dS_y/dx by central differences, one pixel and colour at a time."""
    flat = x.flatten(1)
    g = torch.zeros_like(flat)
    for b in range(len(x)):
        steps = step * torch.eye(flat.shape[1], dtype=x.dtype)
        with torch.no_grad():
            up = model((flat[b] + steps).view(-1, *x.shape[1:]))[:, y[b]]
            down = model((flat[b] - steps).view(-1, *x.shape[1:]))[:, y[b]]
        g[b] = (up - down) / (2 * step)
    return g.view_as(x)


@pytest.mark.parametrize("name", TOYS)
def test_against_finite_differences(name):
    model, x = seeded(TOYS[name].build), images(2)
    g = differences(model, x, Y)
    largest = torch.stack([g[:, 0].abs(), g[:, 1].abs(), g[:, 2].abs()]).max(0).values
    torch.testing.assert_close(xr.explain(model, x, Y[:2], "gradient"), largest, rtol=1e-5, atol=1e-7)
    product = x[:, 0] * g[:, 0] + x[:, 1] * g[:, 1] + x[:, 2] * g[:, 2]
    torch.testing.assert_close(xr.explain(model, x, Y[:2], "linear-approximation"), product, rtol=1e-5, atol=1e-7)


def test_against_dense_matrices():
    """One hidden layer: g = W2_y diag(W1 x + b1 > 0) W1."""
    torch_rng = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 20), torch.nn.ReLU(True), torch.nn.Linear(20, 5)).double()
    x = torch.randn(3, 3, 4, 4, generator=torch_rng, dtype=torch.float64)
    W1, b1, W2 = model[1].weight.detach(), model[1].bias.detach(), model[3].weight.detach()
    for b in range(3):
        g = (W2[Y[b]] @ torch.diag((W1 @ x[b].flatten() + b1 > 0).double()) @ W1).view(3, 4, 4)
        torch.testing.assert_close(xr.explain(model, x, Y, "gradient")[b], g.abs().max(0).values, rtol=0, atol=1e-14)
        torch.testing.assert_close(xr.explain(model, x, Y, "linear-approximation")[b], (g * x[b]).sum(0), rtol=0, atol=1e-14)


def test_numbers():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2, bias=False)).double()
    model[1].weight.data = torch.tensor([[1.0, -2, 0, 3, -4, 0.5], [0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    x = torch.tensor([[[[1.0, 2]], [[3, 4]], [[5, 6]]]], dtype=torch.float64)  # three colours of 1x2 pixels
    # colours of the left pixel have weights 1, 0, -4 and of the right one -2, 3, 0.5
    assert xr.explain(model, x, 0, "gradient").tolist() == [[[4, 3]]]
    assert xr.explain(model, x, 0, "linear-approximation").tolist() == [[[1 - 20, -4 + 12 + 3]]]


@pytest.mark.parametrize("build", [VGGLike, GapLinear])
def test_linear_approximation_sums_to_the_logit_without_biases(build):
    model, x = seeded(lambda: build(bias=False)), images()
    maps = xr.explain(model, x, Y, "linear-approximation")
    torch.testing.assert_close(maps.sum((1, 2)), model(x)[torch.arange(3), Y].detach(), rtol=1e-10, atol=1e-12)


def test_linear_approximation_misses_the_logit_by_the_bias_terms():
    model, x = seeded(VGGLike), images()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    score = model(x)[torch.arange(3), Y]
    rest = [sum((b * g).sum() for b, g in zip(biases, torch.autograd.grad(s, biases, retain_graph=True))) for s in score]
    maps = xr.explain(model, x, Y, "linear-approximation")
    torch.testing.assert_close(maps.sum((1, 2)) + torch.stack(rest).detach(), score.detach(), rtol=1e-10, atol=1e-12)


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(VGGLike), images()
    saliency = attr.Saliency(model).attribute(x.clone(), target=Y, abs=True).amax(1)
    torch.testing.assert_close(xr.explain(model, x, Y, "gradient"), saliency.detach())
    product = attr.InputXGradient(model).attribute(x.clone(), target=Y).sum(1)
    torch.testing.assert_close(xr.explain(model, x, Y, "linear-approximation"), product.detach())


def test_an_image_of_the_mean_colour_has_no_share():
    model, x = seeded(VGGLike), images(1)
    x[:, :, :8] = 0
    assert not xr.explain(model, x, 0, "linear-approximation")[:, :8].any()
    assert xr.explain(model, x, 0, "gradient")[:, :8].any()


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


def test_what_is_no_relu_keeps_its_gradient():
    for other in (torch.nn.SiLU(), torch.nn.ReLU6(), torch.nn.LeakyReLU(0.1), torch.nn.ELU(), torch.sigmoid, torch.tanh):
        model, x = seeded(lambda: OneReLU(other)), images()
        for method in RULES:
            assert torch.equal(xr.explain(model, x, Y, method), xr.explain(model, x, Y, "gradient"))


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


# -- integrated gradients ------------------------------------------------------------------------------------------------------


class Formula(torch.nn.Module):
    """Two logits: what a formula gives for the image, and 0."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        S = self.formula(x).flatten(1).sum(1)
        return torch.stack([S, 0 * S], 1)


W = images(1, seed=5)


def test_integrated_gradients_of_a_plane_are_exact_with_any_number_of_steps():
    model, x = Formula(lambda x: W * x + 0.3), images()
    for steps in (1, 2, 7):
        got = xr.explain(model, x, 0, "integrated-gradients", steps=steps)
        torch.testing.assert_close(got, (W * x).sum(1), rtol=0, atol=1e-14)


def test_integrated_gradients_in_numbers():
    """S = w x^2: the middle of a piece is exact there, its ends are not. S = w x^3: x^3 (1 - 1/(4 n^2)) with n pieces."""
    x = images()
    for n in (1, 2, 5):
        square = xr.explain(Formula(lambda x: W * x**2), x, 0, "integrated-gradients", steps=n)
        torch.testing.assert_close(square, (W * x**2).sum(1), rtol=0, atol=1e-13)
        cube = xr.explain(Formula(lambda x: W * x**3), x, 0, "integrated-gradients", steps=n)
        torch.testing.assert_close(cube, (W * x**3).sum(1) * (1 - 1 / (4 * n**2)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", TOYS)
def test_integrated_gradients_by_loops(name):
    model, x, n = seeded(TOYS[name].build), images(), 5
    expected = torch.zeros(3, 16, 16, dtype=x.dtype)
    for b in range(3):
        for s in range(n):
            point = ((s + 0.5) / n * x[b : b + 1]).requires_grad_()
            (g,) = torch.autograd.grad(model(point.clone())[0, Y[b]], point)
            expected[b] += sum(x[b, c] * g[0, c] for c in range(3)) / n
    torch.testing.assert_close(xr.explain(model, x, Y, "integrated-gradients", steps=n), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", TOYS)
def test_integrated_gradients_sum_to_the_change_of_the_logit(name):
    model, x = seeded(TOYS[name].build), images()
    change = (model(x) - model(torch.zeros_like(x)))[torch.arange(3), Y].detach()

    def error(steps):
        return (xr.explain(model, x, Y, "integrated-gradients", steps=steps).sum((1, 2)) - change).abs().max() / change.abs().max()

    few, more, many = (error(steps) for steps in (3, 100, 3000))
    assert many < 0.3 * more < 0.1 * few and many < 3e-4


@pytest.mark.parametrize("method, steps", [("integrated-gradients", "steps"), ("smoothgrad", "samples"), ("xrai", "steps")])
def test_points_of_the_images_go_through_the_model_in_passes_of_a_chunk(method, steps):
    model, x, rows = seeded(GapLinear), images(), []
    model.fc.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    expected = xr.explain(model, x, Y, method, **{steps: 7})
    assert sum(rows) == 3 * 7 * (2 if method == "xrai" else 1)
    for chunk in (1, 2, 4, 10):
        rows.clear()
        got = xr.explain(model, x, Y, method, chunk=chunk, **{steps: 7})
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)
        assert max(rows) <= chunk and sum(rows) == 3 * 7 * (2 if method == "xrai" else 1)
    rows.clear()
    xr.explain(model, x, None, method, **{steps: 7})
    assert sum(rows) == 3 * 7 * (2 if method == "xrai" else 1) + 3  # the top-1 is looked up once


def test_passes_are_halved_where_memory_runs_out():
    model, x = seeded(GapLinear), images()
    expected = xr.explain(model, x, Y, "integrated-gradients", steps=9)

    def scarce(module, args):
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError

    model.fc.register_forward_pre_hook(scarce)
    torch.testing.assert_close(xr.explain(model, x, Y, "integrated-gradients", steps=9), expected, rtol=1e-10, atol=1e-13)


def test_integrated_gradients_agree_with_captum():
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(VGGLike), images()
    expected = attr.IntegratedGradients(model).attribute(x.clone(), target=Y, n_steps=13, method="riemann_middle").sum(1)
    got = xr.explain(model, x, Y, "integrated-gradients", steps=13)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-6, atol=1e-7)  # captum's positions on the path are float32


@pytest.mark.parametrize("method, wrong, given", [
    ("integrated-gradients", {"steps": 0}, "steps is 0; at least 1"),
    ("integrated-gradients", {"steps": 2.5}, "steps is 2.5; at least 1"),
    ("integrated-gradients", {"baseline": "blur"}, "baseline is 'blur'; possible: zero"),
    ("smoothgrad", {"samples": 0}, "samples is 0; at least 1"),
    ("smoothgrad", {"noise": -0.1}, "noise is -0.1; .* at least 0"),
    ("smoothgrad", {"noise": float("nan")}, "noise is nan"),
    ("xrai", {"steps": 0}, "steps is 0; at least 1"),
])  # fmt: skip
def test_numbers_that_are_not_possible(method, wrong, given):
    with pytest.raises(ValueError, match=given):
        xr.explain(seeded(GapLinear), images(), 0, method, **wrong)


# -- SmoothGrad ----------------------------------------------------------------------------------------------------------------


def noisy_copies(x, **options):
    """The images [B,n,3,H,W] that reach a model."""
    seen = []
    model = Formula(lambda x: seen.append(x.detach().clone()) or x)
    xr.explain(model, x, 0, "smoothgrad", **options)
    return torch.cat(seen).view(len(x), -1, *x.shape[1:])


@pytest.mark.parametrize("name", TOYS)
def test_smoothgrad_by_loops(name):
    model, x = seeded(TOYS[name].build), images()
    copies = noisy_copies(x, samples=6)
    assert copies.shape == (3, 6, 3, 16, 16)
    expected = torch.zeros(3, 16, 16, dtype=x.dtype)
    for b in range(3):
        mean = torch.zeros_like(x[b])
        for copy in copies[b]:
            point = copy[None].requires_grad_()
            mean += torch.autograd.grad(model(point.clone())[0, Y[b]], point)[0][0] / 6
        expected[b] = torch.stack([mean[c].abs() for c in range(3)]).max(0).values
    torch.testing.assert_close(xr.explain(model, x, Y, "smoothgrad", samples=6), expected, rtol=1e-10, atol=1e-13)


def test_the_noise():
    x = torch.cat([images(2), 3 * images(1, seed=8) + 5])
    e = noisy_copies(x, samples=40) - x[:, None]
    sigma = 0.15 * (x.flatten(1).max(1).values - x.flatten(1).min(1).values)
    for b in range(3):
        assert e[b].std().item() == pytest.approx(sigma[b].item(), rel=0.02) and abs(e[b].mean()) < 0.02 * sigma[b]
        assert (e[b] > 2 * sigma[b]).double().mean().item() == pytest.approx(0.02275, rel=0.15)  # a normal distribution
    unit = (e / sigma.view(3, 1, 1, 1, 1)).flatten(2).flatten(0, 1)  # [3 * 40, 768]
    alike = unit @ unit.T / unit.shape[1] - torch.eye(120, dtype=x.dtype)
    assert alike.abs().max() < 0.25  # of every image and sample another one
    torch.testing.assert_close(noisy_copies(x, samples=40, noise=0.3) - x[:, None], 2 * e, rtol=0, atol=1e-12)


def test_the_noise_belongs_to_the_image_and_the_seed():
    x = images()
    copies = noisy_copies(x, samples=5)
    assert torch.equal(noisy_copies(x.flip(0), samples=5), copies.flip(0))
    assert torch.equal(noisy_copies(x[1:2], samples=5), copies[1:2])
    assert torch.equal(noisy_copies(x, samples=3), copies[:, :3])
    assert torch.equal(noisy_copies(torch.cat([x, x]), samples=5), torch.cat([copies, copies]))
    assert not torch.isclose(noisy_copies(x, samples=5, seed=1), copies).any()


def test_smoothgrad_without_noise_is_the_gradient():
    model, x = seeded(VGGLike), images()
    torch.testing.assert_close(xr.explain(model, x, Y, "smoothgrad", noise=0), xr.explain(model, x, Y, "gradient"), rtol=0, atol=1e-13)
    flat = torch.full_like(x, 0.3)  # an image of one value has no range
    torch.testing.assert_close(xr.explain(model, flat, Y, "smoothgrad"), xr.explain(model, flat, Y, "gradient"), rtol=0, atol=1e-13)


def test_smoothgrad_in_numbers():
    """S = W (x + x^2): the noise leaves the slope of a plane alone and moves that of a square by 2 W times its mean."""
    x = images()
    plane = xr.explain(Formula(lambda x: W * x), x, 0, "smoothgrad", samples=3, noise=2)
    torch.testing.assert_close(plane, W.abs().amax(1).expand(3, -1, -1), rtol=0, atol=1e-13)
    mean = (noisy_copies(x, samples=9) - x[:, None]).mean(1)
    square = xr.explain(Formula(lambda x: W * x**2), x, 0, "smoothgrad", samples=9)
    torch.testing.assert_close(square, (2 * W * (x + mean)).abs().amax(1), rtol=0, atol=1e-13)

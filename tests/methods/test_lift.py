"""LIFT-CAM and LRP-CAM: chords, pooling, completeness, closed forms, captum."""

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toy_heads import CASES, Net, Y, activations, played, same, setting
from torch import nn
from toy_shapley import alphas, exact
from toys import CLASSES, VGGLike, images, seeded


# -- lift-cam -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("neighbours", "cosine", "around")])
def test_I7_lift_cam_is_complete(name):
    """Every head of sums, elementwise functions and max-pooling; not where activations are multiplied with each other."""
    same(alphas(name, "lift-cam").sum(1), exact(name)[1], 1e-10)


FUNCTIONS = {
    **{kind.__name__: kind() for kind in (
        nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.Hardsigmoid,
        nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid)},
    "GELU by tanh": nn.GELU("tanh"), "steep LeakyReLU": nn.LeakyReLU(0.3), "shifted Threshold": nn.Threshold(0.2, 0.1),
    "torch.relu": torch.relu, "Tensor.relu": lambda h: h.relu(), "clamp": lambda h: h.clamp(min=0.1), "clamp_min": lambda h: torch.clamp_min(h, 0),
    "Tensor.tanh": lambda h: h.tanh(), "named input": lambda h: torch.relu(input=h), "square": torch.square, "exp": torch.exp, "abs": torch.abs,
    "ReLU in place": nn.ReLU(inplace=True), "ELU in place": nn.ELU(inplace=True), "Hardswish in place": nn.Hardswish(inplace=True),
    "relu_": lambda h: h.relu_(), "F.relu in place": lambda h: F.relu(h, True),
}  # fmt: skip


class Hidden(Net):
    """Averages, a linear layer, an elementwise function, a linear layer."""

    function = None

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 9), nn.Linear(9, CLASSES)

    def head(self, a, h):
        return self.fc2(type(self).function(self.fc1(a.mean((2, 3)))))


@pytest.mark.parametrize("label", FUNCTIONS)
def test_lift_cam_takes_the_chord_of_every_elementwise_function(label):
    """alpha_k = sum_d w_yd (f(z_d) - f(b_d)) / (z_d - b_d) W_dk p_k, written out."""
    function = FUNCTIONS[label].double() if isinstance(FUNCTIONS[label], nn.Module) else FUNCTIONS[label]
    model, x = seeded(type("Head", (Hidden,), {"function": staticmethod(function)})), images()
    p = activations(model, x, "act").mean((2, 3))
    W, b = model.fc1.weight.detach(), model.fc1.bias.detach()
    z = p @ W.T + b
    slope = (function(z.clone()) - function(b.clone().expand_as(z).clone())) / (z - b)
    expected = (model.fc2.weight.detach()[Y] * slope.detach()) @ W * p
    same(xr.coefficients(model, x, Y, "lift-cam", layer="act"), expected)


class InPlace(Net):
    """Functions that write where their input stands, their result unused or the input used again."""

    def build(self):
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 9), nn.Linear(9, 9), nn.Linear(9, CLASSES)
        self.relu = nn.ReLU(inplace=True)

    def head(self, a, h):
        z = self.fc1(a.mean((2, 3)))
        F.relu(z, inplace=True)
        z = self.fc2(z)
        z.relu_()
        t = self.relu(z - 0.5)
        out = self.fc3(t + z)
        shared = z - 1
        return out + self.fc3(self.relu(shared) + shared)


def test_lift_cam_keeps_what_functions_in_place_do_to_their_input():
    model, x = seeded(InPlace), images()
    v = played_plainly(model, x, "act")
    alpha = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    same(alpha.sum(1), v[1] - v[0])
    for name in ("shap-cam", "ablation-cam"):
        assert torch.isfinite(xr.coefficients(model, x, Y, name, layer="act")).all()


def played_plainly(model, x, layer):
    """v(0) and v(1), in-place functions left as they are."""
    values = []
    for factor in (0, 1):
        handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: output * factor)
        values.append(model(x).gather(1, Y[:, None])[:, 0].detach())
        handle.remove()
    return values


class Pooled(Net):
    """Max-pooling behind a convolution and a ReLU, where the reference's maxima are elsewhere and not zero."""

    def build(self):
        self.conv2, self.relu, self.pool = nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv3, self.relu2, self.fc = nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.Linear(96, CLASSES)

    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(self.pool(self.relu(self.conv2(a))))).flatten(1))


class PooledFirst(Pooled):
    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(self.relu(self.pool(self.conv2(a))))).flatten(1))


class Overlapping(Pooled):
    def build(self):
        super().build()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)


class Adaptive(Pooled):
    def build(self):
        super().build()
        self.pool = nn.AdaptiveMaxPool2d(4)


class FunctionalPool(Pooled):
    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(F.max_pool2d(self.conv2(a).relu_(), (2, 2), stride=(2, 2)))).flatten(1))


class Apart(Pooled):
    """No two non-linear layers next to each other: captum's multipliers are wrong there."""

    def build(self):
        super().build()
        self.conv4 = nn.Conv2d(5, 5, 1)

    def head(self, a, h):
        return self.fc(self.relu2(self.conv3(self.pool(self.conv4(self.relu(self.conv2(a)))))).flatten(1))


@pytest.mark.parametrize("build", [Pooled, PooledFirst, Overlapping, Adaptive, FunctionalPool, Apart])
def test_lift_cam_is_complete_through_later_max_pools(build):
    model, x = seeded(build), images()
    v = played(model, x, Y, "act", torch.tensor([[0.0] * 4, [1.0] * 4]))
    same(xr.coefficients(model, x, Y, "lift-cam", layer="act").sum(1), v[:, 1] - v[:, 0])


def head_alone(model, name):
    """The head of a toy as a module of its own, no function in place, one module per activation."""
    if name == "vgg":
        layers = [model.features[5], model.avgpool, nn.Flatten(), *model.classifier]
    else:
        layers = [model.conv2, model.relu, model.conv4, model.pool, model.conv3, model.relu2, nn.Flatten(), model.fc]
    fresh = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers if not isinstance(layer, nn.Dropout)]
    return nn.Sequential(*fresh).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, build, layer", [("vgg", VGGLike, "features.4"), ("apart", Apart, "act")])
def test_lift_cam_agrees_with_captums_deeplift(name, build, layer):
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(build), images()
    A = activations(model, x, layer)
    alone = head_alone(model, name)
    got = xr.coefficients(model, x, Y, "lift-cam", layer=layer)
    for i in range(3):  # captum's rule for max-pooling is wrong for more than one image
        contributions = attr.DeepLift(alone, eps=1e-10).attribute(A[i : i + 1].clone(), baselines=0.0, target=int(Y[i]))
        same(got[i], contributions.sum((0, 2, 3)).detach(), 1e-9)


@pytest.mark.filterwarnings("ignore")
def test_deepshap_over_equal_references_is_lift_cam():
    attr = pytest.importorskip("captum.attr")
    model, x = seeded(Hidden_relu), images()
    A = activations(model, x, "act")
    alone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc1, nn.ReLU(), model.fc2)
    got = xr.coefficients(model, x, Y, "lift-cam", layer="act")
    for i in range(3):
        shap = attr.DeepLiftShap(alone).attribute(A[i : i + 1].clone(), baselines=torch.zeros(5, *A.shape[1:]).double(), target=int(Y[i]))
        same(got[i], shap.sum((0, 2, 3)).detach(), 1e-9)


class Hidden_relu(Hidden):
    function = staticmethod(torch.relu)


def test_I12_the_pooled_maps_are_enough():
    """Against a zero reference, A >= 0: cut before and after VGG's last pooling, the coefficients are the same."""
    model, x = seeded(VGGLike), images()
    for name in ("lift-cam", "shap-cam", "ablation-cam", "lrp-cam"):
        same(xr.coefficients(model, x, Y, name, layer="features.4"), xr.coefficients(model, x, Y, name, layer="features.5"))


def test_lift_cam_of_the_vgg_head_by_its_closed_form():
    """C = ((w3 m2) W2 m1) W1 p, m the slopes of the chords of the two ReLUs."""
    model, x = seeded(VGGLike), images()
    (W1, b1), (W2, b2), (W3, b3) = ((model.classifier[i].weight.detach(), model.classifier[i].bias.detach()) for i in (0, 3, 6))
    p = F.max_pool2d(activations(model, x, "features.4"), 2).flatten(1)
    z1, r1 = p @ W1.T + b1, b1.expand(3, -1)
    z2, r2 = z1.clamp(min=0) @ W2.T + b2, r1.clamp(min=0) @ W2.T + b2
    m1, m2 = ((z.clamp(min=0) - r.clamp(min=0)) / (z - r) for z, r in ((z1, r1), (z2, r2)))
    C = ((((W3[Y] * m2) @ W2) * m1) @ W1 * p).view(3, 6, -1)
    same(xr.coefficients(model, x, Y, "lift-cam", layer="features.4"), C.sum(2))


def test_lift_cam_where_nothing_differs_from_the_reference():
    model, x = seeded(VGGLike), images()
    with torch.no_grad():
        model.features[3].weight.zero_(), model.features[3].bias.fill_(-1)
    for name in ("lift-cam", "lrp-cam", "shap-cam", "ablation-cam", "kshap-cam", "lime-cam"):
        assert not xr.coefficients(model, x, Y, name, layer="features.4").abs().gt(1e-12).any(), name


# -- lrp-cam --------------------------------------------------------------------------------------------------------------------------


def test_I10_I11_lrp_cam_is_gradient_times_activation_and_misses_the_biases():
    model, x, layer = setting("vgg")
    A = activations(model, x, layer)
    got = alphas("vgg", "lrp-cam")
    same(got, alphas("vgg", "xgrad-cam") * A.sum((2, 3)))
    score = model(x)[torch.arange(3), Y]
    biases = [model.classifier[i].bias for i in (0, 3, 6)]
    rest = [sum((b * g).sum() for b, g in zip(biases, torch.autograd.grad(s, biases, retain_graph=True))) for s in score]
    same(got.sum(1) + torch.stack(rest).detach(), score.detach())


@pytest.mark.filterwarnings("ignore")
def test_lrp_cam_agrees_with_captums_lrp():
    attr = pytest.importorskip("captum.attr")
    from captum.attr._utils.lrp_rules import EpsilonRule

    model, x, layer = setting("vgg")
    A, alone = activations(model, x, layer), head_alone(model, "vgg")
    got = alphas("vgg", "lrp-cam")
    for i in range(3):
        alone[2].rule = EpsilonRule()  # captum knows none for Flatten, and forgets the one it is given
        relevance = attr.LRP(alone).attribute(A[i : i + 1].clone(), target=int(Y[i]))
        torch.testing.assert_close(got[i], relevance.sum((0, 2, 3)).detach(), rtol=1e-5, atol=1e-6)

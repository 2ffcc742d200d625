"""Gradient CAMs against plain sums over channels and positions, with gradients of the toys' heads written by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
import xai_repro as xr
from torch import nn
from toys import SIZE, GapLinear, Residual, VGGLike, images, seeded, Y

from xai_repro.network.split import Split

# -- the second way: heads and their gradients by hand ------------------------------------------------------------------


def gap_A_and_G(model, x, y):
    """A of the GAP toy by its own layers; G_kij = w_yk / Z by hand."""
    c1, c2 = model.features[0], model.features[2]
    h = F.conv2d(x, c1.weight, c1.bias, stride=2, padding=1).clamp(min=0)
    A = F.conv2d(h, c2.weight, c2.bias, padding=1).clamp(min=0).detach()
    B, K, rows, columns = A.shape
    G = torch.zeros_like(A)
    for b in range(B):
        for k in range(K):
            G[b, k] = model.fc.weight[y[b], k].item() / (rows * columns)
    return A, G


def vgg_A_and_G(model, x, y):
    """A of the VGG-like toy by its own layers; G by the chain rule: linear layers, ReLU masks, the argmax of every 2x2 window."""
    c1, c2 = model.features[0], model.features[3]
    h = F.max_pool2d(F.conv2d(x, c1.weight, c1.bias, padding=1).clamp(min=0), 2)
    A = F.conv2d(h, c2.weight, c2.bias, padding=1).clamp(min=0).detach()
    W = [model.classifier[i].weight.detach() for i in (0, 3, 6)]
    bias = [model.classifier[i].bias for i in (0, 3, 6)]
    bias = [0 if b is None else b.detach() for b in bias]
    G = torch.zeros_like(A)
    for b in range(len(x)):
        K, rows, columns = A[b].shape
        pooled, where = torch.zeros(K, rows // 2, columns // 2, dtype=A.dtype), {}
        for k in range(K):
            for i in range(rows // 2):
                for j in range(columns // 2):
                    window = {(u, v): A[b, k, u, v].item() for u in (2 * i, 2 * i + 1) for v in (2 * j, 2 * j + 1)}
                    best = max(window.values())
                    pooled[k, i, j] = best
                    where[k, i, j] = next(place for place, value in window.items() if value == best)
        z1 = W[0] @ pooled.flatten() + bias[0]
        z2 = W[1] @ z1.clamp(min=0) + bias[1]
        row = W[2][y[b]] * (z2 > 0)
        row = ((row @ W[1]) * (z1 > 0)) @ W[0]
        for (k, i, j), g in zip(where, row.tolist()):
            G[b, k, where[k, i, j][0], where[k, i, j][1]] += g
    return A, G


def weighted(alpha, A):
    """ReLU(sum_k alpha_k A_kij), position by position, then the library's only resize by torch."""
    B, K, rows, columns = A.shape
    small = torch.zeros(B, rows, columns, dtype=A.dtype)
    for b in range(B):
        for k in range(K):
            small[b] += alpha[b][k] * A[b, k]
    return resized(small.clamp(min=0))


def resized(small):
    return F.interpolate(small[:, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]


def alpha_grad_cam(A, G):
    return [[sum(G[b, k].flatten().tolist()) / G[b, k].numel() for k in range(A.shape[1])] for b in range(len(A))]


def alpha_xgrad_cam(A, G):
    def one(a, g):
        total = math.fsum(a)
        return math.fsum(p * q for p, q in zip(a, g)) / total if total else 0.0

    return [[one(A[b, k].flatten().tolist(), G[b, k].flatten().tolist()) for k in range(A.shape[1])] for b in range(len(A))]


def alpha_grad_cam_pp(A, G, alpha_norm):
    """The released code's arithmetic, with g^2 and g^3 as they stand there."""
    rows = []
    for b in range(len(A)):
        row = []
        for k in range(A.shape[1]):
            total = A[b, k].sum().item()
            g = G[b, k].flatten().tolist()
            a = [v**2 / d if (d := 2 * v**2 + total * v**3) != 0 else 0.0 for v in g]
            positive = [v if v > 0 else 0.0 for v in g]
            norm = math.fsum(w for w, p in zip(a, positive) if p) if alpha_norm else 1
            row.append(math.fsum(w / (norm or 1) * p for w, p in zip(a, positive)))
        rows.append(row)
    return rows


def layer_cam_map(A, G):
    return resized((G.clamp(min=0) * A).sum(1))


NETS = {"gap": (GapLinear, "features.3", gap_A_and_G), "vgg": (VGGLike, "features.4", vgg_A_and_G)}


@pytest.fixture(params=NETS)
def net(request):
    build, layer, by_hand = NETS[request.param]
    model = seeded(build)
    return model, images(), layer, *by_hand(model, images(), Y)


def same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_cut_gives_the_activations_and_gradients_by_hand(net):
    model, x, layer, A, G = net
    split = Split(model, x, layer)
    same(split.A, A)
    same(split.grad(Y), G)


@pytest.mark.parametrize(
    "name, twin, options",
    [
        ("grad-cam", alpha_grad_cam, {}),
        ("xgrad-cam", alpha_xgrad_cam, {}),
        ("grad-cam++", lambda A, G: alpha_grad_cam_pp(A, G, True), {}),
        ("grad-cam++", lambda A, G: alpha_grad_cam_pp(A, G, False), {"alpha_norm": False}),
    ],
)
def test_against_the_twin(net, name, twin, options):
    model, x, layer, A, G = net
    alpha = twin(A, G)
    same(xr.coefficients(model, x, Y, name, layer=layer, **options), torch.tensor(alpha, dtype=A.dtype))
    same(xr.explain(model, x, Y, name, layer=layer, **options), weighted(alpha, A))


def test_layer_cam_against_the_twin(net):
    model, x, layer, A, G = net
    same(xr.explain(model, x, Y, "layer-cam", layer=layer), layer_cam_map(A, G))


def test_cam_against_the_twin():
    model, x = seeded(GapLinear), images()
    A, _ = gap_A_and_G(model, x, Y)
    alpha = [model.fc.weight[c].tolist() for c in Y]
    same(xr.coefficients(model, x, Y, "cam", layer="features.3"), torch.tensor(alpha, dtype=A.dtype))
    same(xr.explain(model, x, Y, "cam", layer="features.3"), weighted(alpha, A))


# -- identities -----------------------------------------------------------------------------------------------------------

GAP_HEADS = {"gap": (GapLinear, "features.3"), "residual": (Residual, "layer1")}


@pytest.fixture(params=GAP_HEADS)
def linear_head(request):
    build, layer = GAP_HEADS[request.param]
    model, x = seeded(build), images()
    return model, x, layer, Split(model, x, layer)


def test_I1_mean_of_the_cam_plus_bias_is_the_logit(linear_head):
    model, x, layer, split = linear_head
    alpha = xr.coefficients(model, x, Y, "cam", layer=layer)
    unrectified = (alpha[:, :, None, None] * split.A).sum(1)
    same(unrectified.mean((1, 2)) + model.fc.bias.detach()[Y], split.logits[torch.arange(3), Y])


def test_I2_grad_cam_is_xgrad_cam_is_cam(linear_head):
    model, x, layer, split = linear_head
    maps = {name: xr.explain(model, x, Y, name, layer=layer) for name in ("cam", "grad-cam", "xgrad-cam")}
    Z = split.A[0, 0].numel()
    same(maps["grad-cam"] * Z, maps["cam"])
    same(maps["xgrad-cam"], maps["grad-cam"])
    same(resized((split.grad(Y) * split.A).sum(1).clamp(min=0)), maps["grad-cam"])  # HiResCAM
    same(xr.normalize(maps["grad-cam"]), xr.normalize(maps["cam"]))


def test_I3_layer_cam_is_the_positive_cam_and_grad_cam_pp_looks_the_same(linear_head):
    model, x, layer, split = linear_head
    w = model.fc.weight.detach()[Y].clamp(min=0)
    Z = split.A[0, 0].numel()
    layer_cam = xr.explain(model, x, Y, "layer-cam", layer=layer)
    same(layer_cam, resized((w[:, :, None, None] * split.A).sum(1)) / Z)
    plus = xr.explain(model, x, Y, "grad-cam++", layer=layer)
    same(xr.normalize(plus), xr.normalize(layer_cam))
    unnormalised = xr.normalize(xr.explain(model, x, Y, "grad-cam++", layer=layer, alpha_norm=False))
    assert (unnormalised - xr.normalize(layer_cam)).abs().max() > 1e-3


def test_I10_xgrad_alpha_times_the_channel_sum_is_gradient_times_activation(net):
    model, x, layer, A, G = net
    alpha = xr.coefficients(model, x, Y, "xgrad-cam", layer=layer)
    same(alpha * A.sum((2, 3)), (A * G).sum((2, 3)))


def test_I11_gradient_times_activation_misses_the_logit_by_the_bias_terms():
    """F(A) - sum_k alpha_k sum_ij A_kij = sum over the head's biases of bias * gradient (Fu et al., eq. 5)."""
    model, x = seeded(VGGLike), images()
    split = Split(model, x, "features.4")
    alpha = xr.coefficients(model, x, Y, "xgrad-cam", layer="features.4")
    score = model(x)[torch.arange(3), Y]
    biases = [model.classifier[i].bias for i in (0, 3, 6)]
    rest = [sum((b * g).sum() for b, g in zip(biases, torch.autograd.grad(s, biases, retain_graph=True))) for s in score]
    same(score.detach() - (alpha * split.A.sum((2, 3))).sum(1), torch.stack(rest).detach())


@pytest.mark.parametrize("name", ["grad-cam", "xgrad-cam", "layer-cam"])
def test_normalised_map_does_not_see_the_scale_of_the_logits(name):
    model, x = seeded(VGGLike), images()
    expected = xr.normalize(xr.explain(model, x, Y, name, layer="features.4"))
    with torch.no_grad():
        model.classifier[6].weight *= 7.5
        model.classifier[6].bias *= 7.5
    same(xr.normalize(xr.explain(model, x, Y, name, layer="features.4")), expected)


# -- by hand, with numbers --------------------------------------------------------------------------------------------------


class Numbers(nn.Module):
    """An identity 'layer' with K = 3 channels of 2x2, then one linear layer over all 12 activations."""

    def __init__(self, weight):
        super().__init__()
        self.layer, self.fc = nn.Identity(), nn.Linear(12, len(weight), bias=False)
        self.fc.weight.data = torch.tensor(weight, dtype=torch.float64)

    def forward(self, x):
        return self.fc(self.layer(x).flatten(1))


A_NUMBERS = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 1], [0, 1]], [[2, 0], [0, 0]]]], dtype=torch.float64)
WEIGHT = [[1.0, 1, 1, 1, -2, 0, 0, 2, 3, 1, -1, 1], [0.0] * 12]


@pytest.mark.parametrize(
    "name, options, alpha",
    [
        ("grad-cam", {}, [1, 0, 1]),  # means 4/4, 0/4, 4/4
        ("xgrad-cam", {}, [1, 1, 3]),  # 10/10, (0*-2 + 1*0 + 0*0 + 1*2)/2, 2*3/2
        ("grad-cam++", {}, [1, 2, (3 / 8 + 1 / 4 + 1 / 4) / (1 / 8 + 1 / 4 + 1 / 4)]),  # weights 1/(2 + g sum A), normalised
        ("grad-cam++", {"alpha_norm": False}, [4 / 12, 2 / 6, 3 / 8 + 1 / 4 + 1 / 4]),
    ],
)
def test_numbers(name, options, alpha):
    model = Numbers(WEIGHT)
    got = xr.coefficients(model, A_NUMBERS, 0, name, layer="layer", **options)
    same(got, torch.tensor([alpha], dtype=torch.float64))
    expected = sum(a * plane for a, plane in zip(alpha, A_NUMBERS[0]))
    same(xr.explain(model, A_NUMBERS, 0, name, layer="layer", **options)[0], expected)  # 2x2 stays 2x2
    assert not xr.explain(model, A_NUMBERS, 1, name, layer="layer", **options).any()  # a class without weights


def test_numbers_of_layer_cam():
    # channel 0 as it is, channel 1 only where G = 2 (A = 1), channel 2: 3 * 2, 1 * 0, 0, 1 * 0
    expected = torch.tensor([[1.0 + 6, 2], [3, 4 + 2]], dtype=torch.float64)
    same(xr.explain(Numbers(WEIGHT), A_NUMBERS, 0, "layer-cam", layer="layer")[0], expected)


def test_numbers_of_signed_activations():
    """As before a ReLU: the sum of a channel's activations has its sign, and a map is rectified as a whole, not channel by channel."""
    x = torch.tensor([[[[1.0, -2], [3, -4]], [[0, -1], [0, 1]], [[2, -4], [1, 0]]]], dtype=torch.float64)
    alpha = xr.coefficients(Numbers(WEIGHT), x, 0, "xgrad-cam", layer="layer")
    assert alpha[0].tolist() == [1, 0, -1]  # -2/-2, 2/0, (3*2 - 4 - 1)/-1
    layer_cam = xr.explain(Numbers(WEIGHT), x, 0, "layer-cam", layer="layer")
    assert layer_cam[0].tolist() == [[7, 0], [3, 0]]  # of 1 + 0 + 6, -2 + 0 - 4, 3 + 0 + 0, -4 + 2 + 0


def test_a_channel_of_zeros_has_coefficient_zero():
    x = A_NUMBERS.clone()
    x[0, 1] = 0
    assert xr.coefficients(Numbers(WEIGHT), x, 0, "xgrad-cam", layer="layer")[0].tolist() == [1, 0, 3]


def test_all_negative_evidence_is_a_map_of_zeros():
    model = Numbers([[-1.0] * 12, [1.0] * 12])
    maps = xr.explain(model, A_NUMBERS, 0, "grad-cam", layer="layer")
    assert not maps.any() and not xr.normalize(maps).any()


def test_upsampling_is_bilinear_between_centres():
    """2 -> 4 without aligned corners: the borders repeat, the inside mixes 3:1."""
    model = seeded(GapLinear)
    split = Split(model, images(), "features.3")
    from xai_repro.methods.lifts import upsample

    small = torch.tensor([[[0.0, 4], [8, 12]]])
    expected = torch.tensor([[[0.0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]])
    assert torch.equal(upsample(small, (4, 4)), expected)
    assert split.A.shape[-1] == 8


def test_cam_refuses_other_heads():
    with pytest.raises(ValueError, match="cam needs a head of global average pooling.*'features.4'; VGGLike has another"):
        xr.explain(seeded(VGGLike), images(), 0, "cam", layer="features.4")
    with pytest.raises(ValueError, match="above 'features.1'"):
        xr.explain(seeded(GapLinear), images(), 0, "cam", layer="features.1")


# -- another implementation ---------------------------------------------------------------------------------------------------


def _mini(name):
    try:
        return xr.load_model(name, device="cpu")
    except (LookupError, FileNotFoundError):
        return xr.load_model(name, weights="random", device="cpu")


def _resnet18():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18().eval()


@pytest.mark.parametrize("build", [lambda: _mini("mini-vgg"), lambda: _mini("mini-resnet"), _resnet18], ids=["vgg", "resnet", "resnet18"])
def test_agrees_with_captum(build):
    attr = pytest.importorskip("captum.attr")
    from xai_repro.network.layers import default_layer

    model, x = build(), images(size=96, dtype=torch.float32)
    y = model(x).argmax(1)
    captum = attr.LayerGradCam(model, model.get_submodule(default_layer(model)))
    small = captum.attribute(x.clone(), target=y, relu_attributions=True).detach()
    expected = F.interpolate(small, size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
    got = xr.explain(model, x, y, "grad-cam")
    assert expected.max() > 0
    torch.testing.assert_close(xr.normalize(got), xr.normalize(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.max().item())


def test_grad_cam_plus_plus_has_digits_left_where_its_denominator_nears_zero():
    """2 + G sum A of a layer with negative activations: the coefficients are those of the float32 A and G, computed in float64."""
    from xai_repro.network.split import Split

    model, x = seeded(GapLinear, dtype=torch.float32), images(dtype=torch.float32)
    model.features = model.features[:3]  # no ReLU before the pooling
    A = Split(model, x, "features.2").A
    with torch.no_grad():
        model.fc.weight[Y[0]] = -2 * A[0, 0].numel() / A[0].sum((1, 2)) * (1 + 3e-6)
    split = Split(model, x, "features.2")
    G, A = split.grad(Y).double(), split.A.double()
    denominator = 2 + G * A.sum((2, 3), keepdim=True)
    assert denominator[0].abs().max() < 1e-4
    expected = ((G > 0) / denominator * G.relu()).sum((2, 3))
    got = xr.coefficients(model, x, Y, "grad-cam++", layer="features.2", alpha_norm=False)
    torch.testing.assert_close(got, expected.float(), rtol=1e-6, atol=0)
    assert (expected[0] > 0).any() or (expected[0] < 0).any()

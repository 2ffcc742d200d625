"""Maps of relevance against plain second writings: starts, contrasts, excitation, Relevance-CAM, and what they share."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from contract import ANYWHERE
from toys import CLASSES, GapLinear, Residual, VGGLike, Y, images, seeded
from torch import nn

from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.methods import relevance as methods
from xai_repro.network.propagate import relevance

LOGITS = torch.tensor([[2.0, -1, 0.5, 3, 0], [-2, -1, 0, 1, -4], [0, 0, 0, 0, 0]], dtype=torch.float64)


def explain(name, model=None, **hyper):
    return xr.explain(seeded(VGGLike) if model is None else model, images(), Y, name, **hyper)


# -- where relevance begins -------------------------------------------------------------------------------------------


def test_starts_by_hand():
    y = torch.tensor([3, 1, 0])
    for b, t in enumerate(y.tolist()):
        others = [n for n in range(CLASSES) if n != t]
        expected = {methods.one_hot: (1, 0), methods.against_all: (1, -1 / 4), methods.against_the_mean: (1, -1 / 5)}
        for start, (own, other) in expected.items():
            assert start(LOGITS, y)[b].tolist() == pytest.approx([own if n == t else other for n in range(CLASSES)])
        weights = [float(LOGITS[b, n].exp()) for n in others]
        found = methods.softmax_gradient(LOGITS, y)[b]
        assert found[t] == 1 and [float(found[n]) for n in others] == pytest.approx([-w / sum(weights) for w in weights])
        assert float(found.sum()) == pytest.approx(0)


def test_the_start_of_sglrp_is_the_gradient_of_the_probability():
    z = LOGITS.clone().requires_grad_()
    y = torch.tensor([3, 1, 0])
    p = z.softmax(1).gather(1, y[:, None])
    (gradient,) = torch.autograd.grad(p.sum(), z)
    torch.testing.assert_close(methods.softmax_gradient(LOGITS, y) * (p * (1 - p)).detach(), gradient)


def test_a_network_that_is_sure_has_a_start_too():
    """With a logit 200 ahead, p (1 - p) is 0 even in float64; what the others share is as without the lead."""
    sure = LOGITS.float() + 200 * F.one_hot(torch.tensor([3, 1, 0]), CLASSES)
    torch.testing.assert_close(methods.softmax_gradient(sure, torch.tensor([3, 1, 0])), methods.softmax_gradient(LOGITS, torch.tensor([3, 1, 0])).float())


@pytest.mark.parametrize("name", ["clrp", "sglrp"])
def test_one_logit_has_nothing_to_be_set_against(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).double()
    with pytest.raises(NotApplicable, match="one logit"):
        xr.explain(model, images(), 0, name)


# -- LRP and its contrasts --------------------------------------------------------------------------------------------


def of_class(model, number, start=None, **hyper):
    """R of one class for all images, as `lrp` has it before colours are summed."""
    y = torch.full((3,), number)
    return relevance(model, images(), y, methods.table(**({"rule": "alpha1beta0", "first": "z-box"} | hyper)), start or methods.one_hot)[0].sum(1)


def test_lrp_is_positive_and_keeps_what_it_begins_with():
    found = explain("lrp")
    torch.testing.assert_close(found, torch.stack([of_class(seeded(VGGLike), int(t))[b] for b, t in enumerate(Y)]))
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    assert (found >= 0).all()


def test_clrp_and_sglrp_are_differences_of_two_passes():
    """CLRP: the class less the mean of the others; SGLRP: less the others by their probabilities; passes one by one."""
    model = seeded(VGGLike)
    single = torch.stack([of_class(model, n) for n in range(CLASSES)], 1)
    p = model(images()).softmax(1).detach()
    for b, t in enumerate(Y.tolist()):
        others = [n for n in range(CLASSES) if n != t]
        alike = single[b, t] - sum(single[b, n] for n in others) / 4
        torch.testing.assert_close(explain("clrp")[b], alike.clamp(min=0))
        rest = single[b, t] - sum(p[b, n] / (1 - p[b, t]) * single[b, n] for n in others)
        torch.testing.assert_close(explain("sglrp")[b], rest)
        assert float(rest.sum()) == pytest.approx(0, abs=1e-12) and (rest < 0).any()


@pytest.mark.parametrize("rule", [*methods.LAYER_RULES, *methods.COMPOSITES])
def test_every_rule_and_composite(rule):
    """Another rule, another map; a composite's linear layers have a rule of their own."""
    found, default = explain("lrp", rule=rule), explain("lrp")
    assert found.isfinite().all() and ((found - default).abs().max() > 1e-6) == (rule != "alpha1beta0")
    if rule in methods.COMPOSITES:
        assert (found - explain("lrp", rule=methods.COMPOSITES[rule][0])).abs().max() > 1e-6
    first = explain("lrp", rule=rule, first="flat")
    assert (first - found).abs().max() > 1e-6


def test_unknown_rules():
    for hyper, nearest in (({"rule": "epsilon-pluss"}, "epsilon-plus"), ({"first": "zbox"}, "z-box")):
        with pytest.raises(UnknownName, match=nearest):
            explain("lrp", **hyper)


@pytest.mark.parametrize("name", ["lrp", "clrp", "sglrp", "rap", "agf"])
def test_a_middle_layer(name):
    found = explain(name, layer="features.2")
    assert found.shape == (3, 16, 16) and found.isfinite().all()
    assert (found - explain(name)).abs().max() > 1e-6


# -- excitation backprop ----------------------------------------------------------------------------------------------


def plain_excitation(A, model, y, contrast):
    """Of the head of VGGLike from features.2 on: products of weights and activations written out, layer by layer."""
    c1, fc1, fc2, fc3 = model.features[3], *(model.classifier[i] for i in (0, 3, 6))
    z = c1(A)
    pooled, where = F.max_pool2d(F.relu(z), 2, return_indices=True)
    h0 = pooled.flatten(1)
    h1 = F.relu(fc1(h0))
    h2 = F.relu(fc2(h1))
    maps = []
    for b in range(len(A)):
        R = torch.zeros(CLASSES, dtype=A.dtype)
        R[y[b]] = 1
        R = step(h2[b], fc3.weight, R) - (step(h2[b], -fc3.weight, R) if contrast else 0)
        R = step(h0[b], fc1.weight, step(h1[b], fc2.weight, R))
        at = torch.zeros(z[b].numel(), dtype=A.dtype)
        k, n = z.shape[1], z[b, 0].numel()
        for channel in range(k):
            for place in range(where[b, channel].numel()):
                at[channel * n + where[b, channel].flatten()[place]] += R.view(k, -1)[channel, place]
        size = A.shape[-2:]
        matrix = F.conv2d(torch.eye(A[b].numel(), dtype=A.dtype).view(-1, *A.shape[1:]), c1.weight, None, 1, 1).flatten(1)
        maps.append(step(A[b].flatten(), matrix.T, at).view(-1, *size).sum(0))
    return torch.stack(maps)


def step(x, W, R):
    """sum_j x_i w+_ji R_j / sum_i x_i w+_ji."""
    products = W.clamp(min=0) * x[None]
    D = products.sum(1)
    return (products * torch.where(D == 0, 0, R / torch.where(D == 0, 1, D))[:, None]).sum(0)


@pytest.mark.parametrize("contrast", [False, True])
def test_excitation_backprop_written_out(contrast):
    model = seeded(VGGLike)
    A = model.features[:3](images()).detach()
    expected = plain_excitation(A, model, Y, contrast).detach()
    expected = expected.clamp(min=0) if contrast else expected
    found = explain("contrastive-excitation-backprop" if contrast else "excitation-backprop", model, layer="features.2")
    torch.testing.assert_close(found, F.interpolate(expected[:, None], size=16, mode="bilinear", align_corners=False)[:, 0])
    if not contrast:
        torch.testing.assert_close(expected.sum((1, 2)), torch.ones(3, dtype=torch.float64))


def test_where_excitation_backprop_stops():
    """TorchRay's layers on torchvision's networks; the images where they are asked for."""
    import torchvision

    for build, layer in ((torchvision.models.vgg16, "features.23"), (torchvision.models.resnet18, "layer3")):
        assert methods.middle(build(weights=None), None, None) == layer
    assert methods.middle(None, None, "input") == "input" and methods.middle(None, None, "features.3") == "features.3"
    torch.testing.assert_close(explain("lrp", layer="input"), explain("lrp"), rtol=0, atol=0)
    found = explain("excitation-backprop", layer="input")
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["excitation-backprop", "contrastive-excitation-backprop"])
def test_the_last_step_to_a_layer_of_a_resnet_costs_nothing_and_changes_nothing(name):
    """Bottlenecks begin with a convolution of 1x1, whose relevance stays at its place; the images' layer is another matter."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).double().eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for layer in ("layer3", "layer4.0", "layer4.0.relu#1", "layer2.1.conv1"):
        table = methods.CONTRAST if name.startswith("contrastive") else methods.EXCITATION
        y = torch.tensor([3, 700])
        full = relevance(model, x, y, replace(table, summed=False), methods.one_hot, layer)[0].sum(1)
        quick = relevance(model, x, y, table, methods.one_hot, layer)[0].sum(1)
        torch.testing.assert_close(quick, full, rtol=1e-8, atol=1e-14, msg=layer)


def test_the_dual_of_a_class_is_its_weights_with_the_other_sign():
    """The contrast of a class and of its negated twin are each other's negative: their clamped maps exclude each other."""
    model = seeded(GapLinear, seed=3)
    twin = seeded(GapLinear, seed=3)
    twin.fc.weight.data *= -1
    a, b = (explain("contrastive-excitation-backprop", m, layer="features.1") for m in (model, twin))
    R = [relevance(m, images(), Y, methods.CONTRAST, methods.one_hot, "features.1")[0].sum(1) for m in (model, twin)]
    torch.testing.assert_close(R[0], -R[1])
    assert (a > 0).any() and (b > 0).any()


# -- Relevance-CAM ----------------------------------------------------------------------------------------------------


def test_relevance_cam_on_a_linear_head_by_hand():
    """z+ through one linear layer and the average: R_k = sum_n a_k w+_nk / (sum_k' a_k' w+_nk') R_n, alpha its mean over positions."""
    model = seeded(GapLinear)
    A = model.features(images()).detach()
    a, W = A.mean((2, 3)), model.fc.weight.detach().clamp(min=0)
    alpha = torch.zeros(3, 6, dtype=torch.float64)
    for b, t in enumerate(Y.tolist()):
        for n in range(CLASSES):
            D = float((a[b] * W[n]).sum())
            alpha[b] += a[b] * W[n] / D * (1 if n == t else -1 / CLASSES)
    expected = torch.einsum("bk,bkij->bij", alpha / A[0, 0].numel(), A)
    found = explain("relevance-cam", model)
    torch.testing.assert_close(found, F.interpolate(expected[:, None], size=16, mode="bilinear", align_corners=False)[:, 0])
    assert (found < 0).any()


def test_relevance_cam_keeps_the_sum_of_its_start():
    """1 - (N - 1) / N = 1 / N at every layer."""
    for layer in ("features.1", "features.4"):
        R, _ = relevance(seeded(VGGLike), images(), Y, methods.RELEVANCE_CAM, methods.against_the_mean, layer)
        torch.testing.assert_close(R.sum((1, 2, 3)), torch.full((3,), 1 / CLASSES, dtype=torch.float64))


def test_a_residual_network_has_them_all():
    model = seeded(Residual)
    for name in ANYWHERE:
        if xr.method_info(name).family == "relevance":
            assert explain(name, model).isfinite().all(), name

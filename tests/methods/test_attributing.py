"""RAP, RSP and AGF: second writings with loops, and what each of them keeps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toys import CLASSES, GapLinear, Residual, VGGLike, Y, images, seeded

from xai_repro.errors import NotApplicable
from xai_repro.methods import attributing
from xai_repro.network.propagate import Layer

STRIDES = [(3, 1, 1), (3, 2, 1), (1, 1, 1), (3, 1, 2)]  # kernel, stride, groups


def layer(kernel=3, stride=1, groups=1, signed=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 5, 5, generator=generator, dtype=torch.float64)
    W = torch.randn(6, 4 // groups, kernel, kernel, generator=generator, dtype=torch.float64)
    made = Layer(W, None, ([stride, stride], [kernel // 2] * 2, [1, 1], groups), False)
    x = x if signed else x.clamp(min=0)
    made.kept = [x, made.of(x, W)]
    return made


def linear(signed=False, bias=False):
    generator = torch.Generator().manual_seed(3)
    x, W, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 6), (4, 6), (4,)))
    made = Layer(W, b if bias else None, None, False)
    x = x if signed else x.clamp(min=0)
    made.kept = [x, made.forward(x)]
    return made


def relevance(made, seed=5):
    return torch.randn(made.z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def products(made, W=None):
    """x_i W_ij of every image, [B, i, j]."""
    W, n = made.W if W is None else W, made.x[0].numel()
    if made.linear:
        return (made.x[:, :, None] * W.T[None]).numpy()
    matrix = F.conv2d(torch.eye(n, dtype=W.dtype).view(n, *made.x.shape[1:]), W, None, *made.options).flatten(1)
    return (made.x.flatten(1)[:, :, None] * matrix[None]).numpy()


def close(found, expected):
    np.testing.assert_allclose(found.flatten(1), expected, rtol=1e-8, atol=1e-10)


# -- RAP ----------------------------------------------------------------------------------------------------------------


def rap_by_hand(made, R):
    c, R = products(made), R.flatten(1).numpy()
    found = np.zeros(c.shape[:2])
    for b, contributions in enumerate(c):
        for sign in (1, -1):  # of the input: its positive and negative entries are treated alike
            own = np.where(sign * made.x[b].flatten().numpy()[:, None] > 0, contributions, 0)
            for j in range(c.shape[2]):
                up, down = own[:, j].clip(min=0), -own[:, j].clip(max=0)
                through = up if made.linear or R[b, j] > 0 else down
                for part, amount in ((through, R[b, j]), (down, R[b, j] * down.sum() / max(up.sum() + down.sum(), 1e-300))):
                    if part.sum() > 0:
                        found[b] += part / part.sum() * amount
        reached = found[b] != 0
        found[b] -= reached * (found[b].sum() - R[b].sum()) / reached.sum()
    return found


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", STRIDES)
def test_rap_written_out(shape, signed):
    made = layer(*shape, signed=signed)
    R = relevance(made)
    found = attributing.relative(made)(R)
    close(found, rap_by_hand(made, R))
    torch.testing.assert_close(found.sum((1, 2, 3)), R.sum((1, 2, 3)))


@pytest.mark.parametrize("signed", [False, True])
def test_rap_through_linear_layers(signed):
    made = linear(signed)
    R = relevance(made)
    found = attributing.relative(made)(R)
    close(found, rap_by_hand(made, R))
    torch.testing.assert_close(found.sum(1), R.sum(1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_raps_first_step(signed, bias):
    """Absolute contributions to the logit, each sign with its share of the bias; they have the sum of what begins."""
    made = linear(signed, bias)
    R = torch.zeros(2, 4, dtype=torch.float64)
    R[0, 1] = R[1, 3] = 1
    found = attributing.by_influence(made)(R)
    for b, j in ((0, 1), (1, 3)):
        c = products(made)[b, :, j]
        P, N, bias_j = c.clip(min=0).sum(), -c.clip(max=0).sum(), 0 if made.b is None else float(made.b[j])
        c = np.where(c > 0, c * (1 + bias_j / (P + N)), c * (1 - bias_j / (P + N)))
        assert c.sum() == pytest.approx(float(made.z[b, j]))
        np.testing.assert_allclose(found[b], np.abs(c) / np.abs(c).sum())


@pytest.mark.parametrize("build", [GapLinear, VGGLike, Residual])
def test_raps_map_sums_to_1_and_has_both_signs(build):
    found = xr.explain(seeded(build), images(), Y, "rap")
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    assert (found < 0).any()


# -- RSP ----------------------------------------------------------------------------------------------------------------


def rsp_by_hand(made, R):
    """The weights G of each image by autograd of <conv(x, W), R+> in W, then shares by x G."""
    found = []
    for b in range(len(made.x)):
        x, total = made.x[b : b + 1].clamp(min=0), 0
        for sign in (1, -1):
            part = (sign * R[b : b + 1]).clamp(min=0)
            W = made.W.clone().requires_grad_()
            (G,) = torch.autograd.grad((F.conv2d(x, W, None, *made.options) * part).sum(), W)
            own = Layer(G, None, made.options, False)
            own.kept = [x, None]
            c = products(own)[0]
            for j, value in enumerate(part.flatten().numpy()):
                if c[:, j].sum() > 0:
                    total = total + sign * c[:, j] / c[:, j].sum() * value
        if made.W.shape[-1] > 1:
            total, reached = 2 * total, total != 0
            total = total - reached * float(R[b].sum()) / reached.sum()
        found.append(total)
    return np.stack(found)


@pytest.mark.parametrize("shape", STRIDES)
def test_rsp_written_out(shape):
    made = layer(*shape)
    R = relevance(made)
    close(attributing.sectional(made)(R), rsp_by_hand(made, R))


def test_rsp_keeps_the_sum_and_does_not_look_at_the_weights():
    made, other = layer(), layer(seed=0)
    R = relevance(made)
    found = attributing.sectional(made)(R)
    torch.testing.assert_close(found.sum((1, 2, 3)), R.sum((1, 2, 3)))
    other.W = torch.randn_like(other.W)
    assert torch.equal(attributing.sectional(other)(R), found)


def test_rsps_images_do_not_know_of_each_other():
    made, R = layer(groups=2), relevance(layer(groups=2))
    whole = attributing.sectional(made)(R)
    for b in range(2):
        single = layer(groups=2)
        single.kept = [made.x[b : b + 1], None]
        torch.testing.assert_close(attributing.sectional(single)(R[b : b + 1]), whole[b : b + 1])


def test_rsp_begins_with_at_most_1():
    A, G = (draw(3, 4, 5, 5, generator=torch.Generator().manual_seed(2)) for draw in (torch.rand, torch.randn))
    found = attributing.by_its_maximum(A, G)
    torch.testing.assert_close(found.abs().amax((1, 2, 3)), torch.ones(3))
    expected = A * G.mean((2, 3), keepdim=True)
    torch.testing.assert_close(found * expected.abs().amax((1, 2, 3), keepdim=True), expected)


def test_rsp_has_no_rule_for_linear_layers():
    with pytest.raises(NotApplicable, match="linear layer"):
        attributing.sectional(linear())


# -- AGF ----------------------------------------------------------------------------------------------------------------


def test_agfs_score_by_hand():
    z = torch.tensor([[2.0, -1, 0.5, 3, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
    found = attributing.gaussian_softmax(z, torch.tensor([3, 0]))
    sigma = 4.0  # the furthest logit, -1, from 3
    scores = np.exp(3 * np.exp(-0.5 * ((z[0].numpy() - 3) / sigma) ** 2))
    assert float(found[0]) == pytest.approx(scores[3] / scores.sum()) and float(found[1]) == pytest.approx(1 / 5)


def factorised_by_hand(H, C):
    """One image: two mean places, the ridge regression of all places on them, what is more like the first."""
    H = 1 / (1 + np.exp(-10 * H / H.max()))
    sign = C.mean(0).flatten()
    H = H.reshape(len(H), -1)
    means = np.stack([H[:, side].mean(1) if side.any() else np.zeros(len(H)) for side in (sign > 0, sign < 0)], 1)
    fit = np.linalg.inv(means.T @ means + np.eye(2)) @ means.T @ H
    fit = fit.clip(min=0)
    return (fit[0] - fit[1]).clip(min=0).reshape(C.shape[1:])


@pytest.mark.parametrize("shape", STRIDES)
def test_agf_written_out(shape):
    made = layer(*shape, signed=False)
    made.gradient = torch.randn(made.x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    R = relevance(made)
    found = attributing.guided(made)(R)
    sizes, ones = np.abs(products(made)), layer(*shape)
    ones.kept = [torch.ones_like(made.x), None]
    alike = np.abs(products(ones))
    for b in range(2):

        def J(c):
            return sum(c[b][:, j] / c[b][:, j].sum() * value for j, value in enumerate(R[b].flatten().numpy()) if c[b][:, j].sum() > 0).reshape(made.x[b].shape)

        x, g, C = made.x[b].numpy(), made.gradient[b].numpy(), J(sizes)
        if shape[0] > 1:
            M = (x * g).mean(0).clip(min=0)
            M = M / M.max()
            r = (factorised_by_hand(x, C) + M) / (1 + np.exp(-C)) + factorised_by_hand(g, C) + J(alike)
            r = r * (C != 0)
            expected = C + r - (C != 0) * r.sum() / (C != 0).sum()
        else:
            expected = C
        np.testing.assert_allclose(found[b], expected, rtol=1e-8, atol=1e-10)
        assert float(found[b].sum()) == pytest.approx(C.sum())


def test_agf_begins_with_input_times_gradient_of_its_score():
    """On a linear head the layer below gets J(|x|, |W|) of that; here the last layer is asked alone."""
    model = seeded(GapLinear)
    a = model.features(images()).mean((2, 3)).detach().requires_grad_()
    (g,) = torch.autograd.grad(attributing.gaussian_softmax(model.fc(a), Y).sum(), a)
    maps = xr.explain(model, images(), Y, "agf", layer="features.3")
    torch.testing.assert_close(maps.mean((1, 2)), (a * g).sum(1).detach() / 64, rtol=1e-6, atol=1e-9)  # 8x8 positions share it
    assert CLASSES == 5

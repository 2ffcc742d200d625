"""A CLA-layer against brute force: every patch cut out, embedded and compared by itself, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from xai_repro.errors import UnknownName
from xai_repro.methods import cla

F64 = torch.float64


def layer(K=3, N=4, p=5, a=2, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    convolutions = [(draw(K + 1, K + 1), draw(K + 1)) for _ in range(2)]
    return cla.CLA(torch.rand(N, K + 1, a, a, generator=generator, dtype=F64), *convolutions, cla.class_patterns(classes, p, generator).to(F64), 1.2)


def features(B=2, K=3, H=9, W=8, seed=1):
    return torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(seed), dtype=F64).relu()


def plain_embedding(patch, pattern, one):
    """E [K+1,p,p] of a patch [K,p,p], place by place."""
    found = torch.zeros(len(patch) + 1, *pattern.shape, dtype=F64)
    for i in range(len(pattern)):
        for j in range(len(pattern)):
            x = torch.cat([patch[:, i, j], pattern[i, j][None]])
            x = x / (math.sqrt(sum(float(v) ** 2 for v in x)) + 1e-4)
            for weight, bias in (one.first, one.second):
                x = weight @ x + bias
                x = x / (1 + torch.exp(-x))
            found[:, i, j] = x
    return found


def plain_distances(E, A):
    a, q = A.shape[-1], E.shape[-1] - A.shape[-1] + 1
    return torch.stack([torch.stack([((E[:, i : i + a, j : j + a] - A) ** 2).sum() for j in range(q)]) for i in range(q)])


@pytest.mark.parametrize("shape", [{}, {"p": 8, "a": 3}, {"p": 4, "a": 1}, {"p": 3, "a": 3, "N": 2}, {"K": 5, "p": 2, "a": 1}])
def test_mean_distances_are_those_of_every_patch(shape):
    one, x, y = layer(**shape), features(K=shape.get("K", 3)), torch.tensor([2, 0])
    found = cla.mean_distances(x, y, one)
    for b in range(2):
        for i in range(x.shape[2] - one.p + 1):
            for j in range(x.shape[3] - one.p + 1):
                E = plain_embedding(x[b, :, i : i + one.p, j : j + one.p], one.patterns[y[b]], one)
                expected = torch.stack([plain_distances(E, A).mean() for A in one.attributes])
                torch.testing.assert_close(found[b, :, i, j], expected, rtol=1e-10, atol=1e-10)
    assert found.shape == (2, len(one.attributes), x.shape[2] - one.p + 1, x.shape[3] - one.p + 1) and (found >= 0).all()


def test_distances_pair_each_patch_with_its_attribute():
    one, x = layer(), features(B=2 * 4, H=5, W=5)
    y = torch.tensor([0, 1]).repeat_interleave(4)
    E = cla.embedded(x, one.patterns[y], one).view(2, 4, 4, 5, 5)
    found = cla.distances(E, one.attributes)
    for b in range(2):
        for i in range(4):
            own = plain_embedding(x[4 * b + i], one.patterns[y[4 * b]], one)
            torch.testing.assert_close(E[b, i], own)
            torch.testing.assert_close(found[b, i], plain_distances(own, one.attributes[i]))
    assert (cla.distances(one.attributes[None], one.attributes) == 0).all()  # nothing is nearer than itself


def test_the_pattern_is_what_makes_features_of_any_scale_differ():
    """Without it, places are compared by direction alone."""
    one, x = layer(), 100 * features() + 1
    for scale in (0.5, 3.0):
        torch.testing.assert_close(cla.embedded(scale * x, 0.0, one), cla.embedded(x, 0.0, one), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(cla.embedded(scale * x / 100, 1.0, one), cla.embedded(x / 100, 1.0, one), rtol=1e-3)


def test_patterns_are_of_0_and_1_and_no_two_alike():
    for classes, p in ((20, 3), (2, 1), (16, 2), (200, 14)):
        found = cla.class_patterns(classes, p, torch.Generator().manual_seed(classes))
        assert found.shape == (classes, p, p) and set(found.unique().tolist()) <= {0.0, 1.0}
        assert len({tuple(one.flatten().tolist()) for one in found}) == classes
    again = cla.class_patterns(20, 3, torch.Generator().manual_seed(20))
    assert torch.equal(again, cla.class_patterns(20, 3, torch.Generator().manual_seed(20)))
    with pytest.raises(ValueError, match="17 classes need 17 patterns, and 2 x 2 places have 16"):
        cla.class_patterns(17, 2, torch.Generator())


def test_the_loss_by_hand():
    D = torch.tensor([[[[1.0, 3.0]], [[4.0, 6.0]]], [[[0.0, 0.0]], [[2.0, 0.0]]]], dtype=F64)  # means 2, 5 and 0, 1
    other = torch.tensor([[[[1.0, 1.0]], [[3.0, 3.0]]], [[[8.0, 8.0]], [[0.0, 0.0]]]], dtype=F64)  # means 1, 3 and 8, 0
    expected = [math.log(1 + math.exp(0.1 * (0.6 * 5 / 3 - 0.4 * 2 / 3))), math.log(1 + math.exp(0.1 * (0.6 * 1 / 3 - 0.4 * 4 / 3)))]
    assert cla.contrastive(D, other, a=3).tolist() == pytest.approx(expected)
    by_count = [math.log(1 + math.exp(0.2 * (0.5 * 5 / 2 - 0.5 * 2 / 2))), math.log(1 + math.exp(0.2 * (0.5 * 1 / 2 - 0.5 * 4 / 2)))]
    assert cla.contrastive(D, other, a=3, alpha=0.2, beta=0.5, normaliser="count").tolist() == pytest.approx(by_count)
    alike = torch.ones(2, 2, 1, 2, dtype=F64)
    assert cla.contrastive(alike, alike, a=1, beta=0.5).tolist() == pytest.approx([math.log(2)] * 2)
    with pytest.raises(UnknownName, match="unknown normaliser 'n'; possible: size, count"):
        cla.contrastive(D, D, a=1, normaliser="n")


def test_nearest_is_the_first_of_the_least():
    d = torch.tensor([[[[3.0, 1, 1], [1, 2, 5]], [[4, 4, 4], [4, 4, 0]]]])
    assert cla.nearest(d).tolist() == [[[0, 1], [1, 2]]]


def plain_mask(corner, p, size, strength, kind):
    found = torch.ones(size, dtype=F64)
    for i in range(size[0]):
        for j in range(size[1]):
            middle = [c + (0 if kind == "corner" else (p - 1) / 2) for c in corner]
            k = max(abs(i - middle[0]), abs(j - middle[1]))
            if k <= (p - 1 if kind == "corner" else (p - 1) / 2):
                found[i, j] = max(1, strength * 0.95**k)
    return found


@pytest.mark.parametrize("p", [1, 3, 4])
@pytest.mark.parametrize("kind", cla.MASKS)
def test_masks_multiply(kind, p):
    corners, size = torch.tensor([[[2, 3], [0, 0], [2, 3]], [[5, 1], [1, 6], [4, 4]]]), (8, 9)
    found = cla.strengthened(corners, p, size, 1.2, kind)
    for b in range(2):
        expected = torch.ones(size, dtype=F64)
        for corner in corners[b].tolist():
            expected *= plain_mask(corner, p, size, 1.2, kind)
        torch.testing.assert_close(found[b, 0], expected)
    assert (found >= 1).all()
    assert (cla.strengthened(corners, p, size, 1.0, kind) == 1).all()  # a strength of 1 changes nothing


def test_the_rings_of_a_mask():
    found = cla.strengthened(torch.tensor([[[4, 4]]]), 4, (9, 9), 1.2)[0, 0, 4]
    assert found[4:].tolist() == pytest.approx([1.2, 1.14, 1.083, 1.02885, 1.0]) and found.tolist() == found.flip(0).tolist()
    with pytest.raises(UnknownName, match="unknown mask 'middle'; possible: corner, patch"):
        cla.strengthened(torch.zeros(1, 1, 2), 3, (4, 4), 1.2, "middle")

"""The engine of relevance: known answers, conservation, what it refuses, and what it leaves alone."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from toys import CLASSES, Functional, GapLinear, Residual, TOYS, VGGLike, Y, flops, images, seeded, state
from torch import nn

from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.network import rules
from xai_repro.network.propagate import relevance, relevance_from
from xai_repro.network.rules import contribution, positive_part, Rules

ZERO = Rules(rules.zero, weight=contribution)
PLUS = Rules(rules.alpha1beta0, first=rules.z_box)


def one_hot(logits, y):
    return F.one_hot(y, logits.shape[1]).to(logits)


def own_logit(logits, y):
    return one_hot(logits, y) * logits


def relevance_of(model, which, x=None, y=Y, start=one_hot, layer=None):
    return relevance(model, images() if x is None else x, y, which, start, layer)[0]


def gradient_times_input(model, x, y):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x).gather(1, y[:, None]).sum(), x)
    return (x * g).detach()


def without_biases(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_(), module.bias.data.zero_()
        elif getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    return model


class Net(nn.Module):
    """A convolution, something in the middle, a linear layer."""

    def __init__(self, middle):
        super().__init__()
        self.conv, self.fc, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES), middle

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.middle(F.relu(self.conv(x))), 1).flatten(1))


# -- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [GapLinear, VGGLike, Residual])
def test_the_rule_zero_is_gradient_times_input(build):
    """BatchNorms folded, biases in the denominators, sums by contribution: every share is a factor of the chain rule."""
    model, x = seeded(build), images()
    found = relevance_of(model, ZERO, x, start=own_logit)
    torch.testing.assert_close(found, gradient_times_input(model, x, Y), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("build", [GapLinear, VGGLike, Residual])
def test_without_biases_the_rule_zero_sums_to_the_logit(build):
    model, x = without_biases(seeded(build)), images()
    found = relevance_of(model, ZERO, x, start=own_logit)
    torch.testing.assert_close(found.sum((1, 2, 3)), model(x).gather(1, Y[:, None])[:, 0].detach(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("build", [GapLinear, VGGLike, Functional])
def test_positive_contributions_keep_the_sum_and_the_sign(build):
    found = relevance_of(seeded(build), PLUS)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))
    assert (found >= 0).all() and found.std() > 0


def test_a_network_by_hand():
    """Two linear layers over a 1x1 image: z+ by hand, R = sum_j x_i w_ij+ / sum x w+ R_j."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.a.weight.data = torch.tensor([[1.0, 2, -1], [3, -1, 1]])
            self.b.weight.data = torch.tensor([[1.0, 1], [2, -1]])

        def forward(self, x):
            return self.b(F.relu(self.a(x.flatten(1))))

    x = torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)  # hidden: 1 + 4 - 3 = 2 and 3 - 2 + 3 = 4
    found = relevance_of(Two(), Rules(rules.alpha1beta0), x, torch.tensor([0])).flatten()
    first, second = 2 / 6, 4 / 6  # of the two hidden neurons
    torch.testing.assert_close(found, torch.tensor([first * 1 / 5 + second * 3 / 6, first * 4 / 5, second * 3 / 6]))
    found = relevance_of(Two(), Rules(rules.alpha1beta0), x, torch.tensor([1])).flatten()
    torch.testing.assert_close(found, torch.tensor([1 / 5, 4 / 5, 0]))  # the second neuron speaks against class 1


# -- forks, sums, concatenations, averages, maxima --------------------------------------------------------------------


class Sum(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.a, self.b, self.inplace = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), inplace

    def forward(self, h):
        a, b = self.a(h), self.b(h)
        if self.inplace:
            a += b
            return a
        return a + b


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("weight", [contribution, positive_part])
def test_a_sum_shares_by_weight(weight, inplace):
    """By hand: what comes to the sum is known, as it is a plain share of the average above it."""
    model, x = seeded(lambda: Net(Sum(inplace))), images()
    kept = {}

    def rule(layer):
        def send(R):
            kept[layer] = layer.z, R
            return torch.zeros_like(layer.x)

        return send

    relevance_of(model, Rules(rule, linear=rules.zero, weight=weight), x)
    (b, Rb), (a, Ra) = [found for layer, found in kept.items() if not layer.first]
    R = Ra + Rb
    torch.testing.assert_close(Ra, R * weight(a) / (weight(a) + weight(b)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(R, (weight(a + b) / weight(a + b).sum((2, 3), keepdim=True)) * R.sum((2, 3), keepdim=True), rtol=1e-8, atol=1e-12)


def test_summands_that_are_alike_or_nothing():
    a, b = torch.tensor([2.0, 0, -3, 1]), torch.tensor([2.0, 5, -4, 0])
    share = positive_part(a) / (positive_part(a) + positive_part(b))
    torch.testing.assert_close(share, torch.tensor([0.5, 0, 0.5, 1]))


def test_the_branch_alone():
    """Of two summands the first alone gets relevance."""
    model = seeded(lambda: Net(Sum(False)))
    met = []

    def rule(layer):
        return lambda R: met.append(float(R.abs().sum())) or torch.zeros_like(layer.x)

    relevance_of(model, Rules(rule, linear=rules.zero, branch=True))
    assert [value > 0 for value in met] == [False, True, False]  # backwards: the second, the first, and what is below both


def test_a_concatenation_is_sliced_and_a_fork_summed():
    """Relevance at the fork of both sides is the sum of what the two give alone, as the rule is linear."""
    model, x = seeded(Functional), images()
    whole = relevance_of(model, Rules(rules.alpha1beta0), x, layer="conv1")
    parts = []
    for kept in (0, 1):

        def rule(layer, kept=kept):
            own = rules.alpha1beta0(layer)
            if layer.W.shape[1] != 8:
                return own
            mask = torch.zeros(1, 8, 1, 1, dtype=torch.float64)
            mask[:, 4 * kept : 4 * kept + 4] = 1
            return lambda R: own(R) * mask

        parts.append(relevance_of(model, Rules(rule), x, layer="conv1"))
    torch.testing.assert_close(sum(parts), whole)
    assert all(part.sum() > 0 for part in parts)


def test_a_maximum_takes_all():
    """All that comes to a pooled position goes to where its maximum was."""

    class Pool(nn.Module):
        def forward(self, h):
            return F.max_pool2d(h, 2)

    model, x = seeded(lambda: Net(Pool())), images()
    R = relevance_of(model, PLUS, x, layer="conv")
    h = F.relu(model.conv(x))
    is_top = h == F.interpolate(F.max_pool2d(h, 2), scale_factor=2)
    assert (R[~is_top] == 0).all() and R.sum() > 0


# -- BatchNorm --------------------------------------------------------------------------------------------------------


def test_a_folded_batchnorm_is_a_convolution():
    """The same as the network whose BatchNorms are fused into its convolutions by hand."""
    model, fused, x = seeded(Residual), seeded(Residual), images()

    def fuse(parent, conv, bn):
        merged = torch.nn.utils.fusion.fuse_conv_bn_eval(getattr(parent, conv) if isinstance(conv, str) else parent[conv], getattr(parent, bn) if isinstance(bn, str) else parent[bn])
        if isinstance(conv, str):
            setattr(parent, conv, merged), setattr(parent, bn, nn.Identity())
        else:
            parent[conv], parent[bn] = merged, nn.Identity()

    fuse(fused, "conv1", "bn1")
    for block in fused.layer1:
        for number in "123":
            fuse(block, f"conv{number}", f"bn{number}")
        if block.downsample is not None:
            fuse(block.downsample, 0, 1)
    torch.testing.assert_close(model(x), fused(x))
    for which in (PLUS, ZERO, Rules(rules.epsilon), Rules(rules.gamma), Rules(rules.alpha2beta1)):
        torch.testing.assert_close(relevance_of(model, which, x), relevance_of(fused, which, x), rtol=1e-6, atol=1e-9)


def test_a_convolution_with_a_bias_is_folded_with_it():
    """The rule gamma looks at biases: those of the convolution, scaled and shifted."""
    model, fused = (seeded(lambda: Net(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))) for _ in range(2))
    fused.middle = torch.nn.utils.fusion.fuse_conv_bn_eval(fused.middle[0], fused.middle[1])
    for rule in (rules.gamma, rules.zero):
        torch.testing.assert_close(relevance_of(model, Rules(rule)), relevance_of(fused, Rules(rule)), rtol=1e-7, atol=1e-10)


def test_a_positive_scale_cancels_and_a_negative_one_does_not():
    """Numerators and denominators of z+ have it alike; with a negative one positive and negative weights change places."""
    model, passing = seeded(Residual), Rules(rules.alpha1beta0, first=rules.z_box, fold=False)
    torch.testing.assert_close(relevance_of(model, PLUS), relevance_of(model, passing))
    model.bn1.weight.data *= -1
    assert (relevance_of(model, PLUS) - relevance_of(model, passing)).abs().max() > 1e-3


# -- classes, layers, cost, types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [VGGLike, Residual, Functional])
def test_several_classes_at_once_are_those_one_by_one(build):
    model, x = seeded(build), images()
    several = torch.tensor([[1, 2], [4, 0], [0, 0]])
    found = relevance_of(model, PLUS, x, several)
    assert found.shape == (2, *x.shape)
    for number in (0, 1):
        torch.testing.assert_close(found[number], relevance_of(model, PLUS, x, several[:, number]))


def test_what_depends_on_the_images_alone_is_computed_once():
    model, x = seeded(VGGLike), images()
    forward = flops(lambda: model(x))
    one, three = (flops(lambda n=n: relevance_of(model, Rules(rules.alpha1beta0), x.abs(), torch.tensor([list(range(n))] * 3))) for n in (1, 3))
    assert one == pytest.approx(3 * forward, rel=0.02) and three - one == pytest.approx(2 * forward, rel=0.02)


@pytest.mark.parametrize("toy", TOYS)
def test_relevance_at_a_layer_is_what_goes_down_from_it(toy):
    """R at a layer, put in there, gives what comes to the images; both ends of the engine are one."""
    model, x = seeded(TOYS[toy].build), images()
    whole, (R, A) = relevance_of(model, PLUS, x), relevance(model, x, Y, PLUS, one_hot, TOYS[toy].layer)
    below = relevance_from(model, x, Y, PLUS, lambda at, G: R, TOYS[toy].layer)
    assert R.shape == A.shape
    if toy != "functional":  # where relevance also goes past the layer
        torch.testing.assert_close(below, whole)


def test_relevance_from_a_layer_begins_with_activations_and_gradients():
    model, x = seeded(VGGLike), images()
    seen = {}
    relevance_from(model, x, Y, PLUS, lambda A, G: seen.update(A=A, G=G) or A * G, "features.4")
    A = model.features[:5](x).detach().requires_grad_()
    S = model.classifier(model.avgpool(model.features[5:](A)).flatten(1)).gather(1, Y[:, None]).sum()
    torch.testing.assert_close(seen["A"], A.detach())
    torch.testing.assert_close(seen["G"], torch.autograd.grad(S, A)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_relevance_is_in_float32_where_the_network_is_of_half_precision(dtype):
    model, x = seeded(Residual, dtype=torch.float32), images(dtype=torch.float32)
    expected = relevance_of(model, PLUS, x)
    found = relevance_of(seeded(Residual, dtype=torch.float32).to(dtype), PLUS, x.to(dtype))
    assert found.dtype == torch.float32 and (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("build", [VGGLike, Residual, Functional])
def test_the_model_is_as_it_was(build):
    model = seeded(build).train()
    before, logits = state(model), seeded(build)(images())
    relevance_of(model, PLUS)
    with pytest.raises(UnknownName):
        relevance_of(model, PLUS, layer="nowhere")
    with pytest.raises(ZeroDivisionError):
        relevance_of(model, Rules(lambda layer: lambda R: 1 / 0))
    assert state(model) == before
    torch.testing.assert_close(model.eval()(images()), logits)


@pytest.mark.parametrize("build", [VGGLike, Residual])
def test_nothing_is_kept(build):
    """What a pass has made is gone with it, without a garbage collector, which cannot see circles through autograd."""
    made, model = weakref.WeakSet(), seeded(build)

    def rule(layer):
        made.add(layer)
        return rules.epsilon(layer)

    gc.disable()
    try:
        for which in (Rules(rule), Rules(rule, score=lambda logits, y: logits.gather(1, y[:, None])[:, 0])):
            relevance_of(model, which)
            relevance_of(model, which, layer=next(name for name, module in model.named_modules() if isinstance(module, nn.ReLU)) + "#0")
            relevance_from(model, images(), Y, which, lambda A, G: A * G, "features.4" if build is VGGLike else "layer1")
            with pytest.raises(ZeroDivisionError):
                relevance_of(model, which, start=lambda logits, y: 1 / 0)
    finally:
        assert not len(made)
        gc.enable()


def test_writing_in_place_changes_nothing():
    """ReLU(inplace=True) writes over what a layer gave: the rule still sees what it was."""
    model, plain = seeded(VGGLike), seeded(VGGLike)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for which in (Rules(rules.epsilon), Rules(rules.gamma), ZERO):
        torch.testing.assert_close(relevance_of(model, which), relevance_of(plain, which))


class Does(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


SAME = {  # ways to write what changes nothing, or a rectifier
    "relu_": lambda h: (h - 0.1).relu_(), "positional": lambda h: F.relu(h - 0.1, True), "torch.relu": lambda h: torch.relu(h - 0.1),
    "clamp": lambda h: (h - 0.1).clamp(min=0), "iadd": lambda h: F.relu(_added(h)), "reflected": lambda h: F.relu(-0.1 + h), "from a constant": lambda h: F.relu((0.1 - h) * -1), "a constant over": lambda h: F.relu(2 / (1 / (h + 1)) / 2 - 1.1),
    "views": lambda h: F.relu(torch.cat(list((h - 0.1).flatten(2).unflatten(2, h.shape[-2:]).chunk(2, 1)), 1)),
    "dropout": lambda h: F.dropout(F.relu(h - 0.1), 0.5, False, True),
}  # fmt: skip


def _added(h):
    h = h.clone()
    h += -0.1
    return h


@pytest.mark.parametrize("way", SAME)
def test_however_it_is_written(way):
    model, plain = (seeded(lambda function=function: Net(Does(function))) for function in (SAME[way], lambda h: F.relu(h - 0.1)))
    torch.testing.assert_close(relevance_of(model, PLUS), relevance_of(plain, PLUS))


REFUSED = {
    "mul": lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(), "softmax": lambda h: h.softmax(1), "layer_norm": lambda h: F.layer_norm(h, h.shape[1:]),
    "matmul": lambda h: h @ h.mT, "setitem": lambda h: _written(h), "sub": lambda h: h - h[:, [1, 0, 3, 2]], "conv_transpose2d": lambda h: F.conv_transpose2d(h, torch.ones(4, 4, 2, 2).to(h)),
    "group_norm": lambda h: F.group_norm(h, 2), "another factor": lambda h: torch.add(h, h, alpha=2), "running statistics": lambda h: F.batch_norm(h, None, None, training=True),
}  # fmt: skip


def _written(h):
    h = h.clone()
    h[:, 0] = h[:, 1]
    return h


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_rule_is_refused_by_name(what):
    with pytest.raises(NotApplicable, match=what):
        relevance_of(seeded(lambda: Net(Does(REFUSED[what]))), PLUS)


def test_layers_that_cannot_be_stopped_at():
    model = seeded(VGGLike)
    for layer, said in (("classifier.0", r"maps \[B,K,h,w\]"), ("features.4#3", "does not run"), ("features.4#x", "a number is needed")):
        with pytest.raises(ValueError, match=said):
            relevance_of(model, PLUS, layer=layer)
    shared = seeded(Residual)
    with pytest.raises(ValueError, match="several times"):
        relevance_of(shared, PLUS, layer="layer1.0.relu")
    assert relevance_of(shared, PLUS, layer="layer1.0.relu#1").shape == (3, 3, 8, 8)
    with pytest.raises(NotApplicable, match="TorchScript"):
        relevance_of(torch.jit.trace(seeded(GapLinear), images()), PLUS)
    with pytest.raises(NotApplicable, match="none is met"):
        relevance_of(Does(lambda x: x.mean((2, 3))), PLUS)

"""The game of the channels: whatever the head begins with, its values are those of the whole model run on masked activations."""

import copy
import functools
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import CLASSES, TOYS, GapLinear, Residual, VGGLike, images, seeded, state

from xai_repro.game import Game
from xai_repro.split import Split

Y = torch.tensor([1, 4, 0])


# -- heads of all kinds ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A convolution, the activations to cut at ("act", K = 4, 8x8), and a head that a subclass gives."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.build()

    def forward(self, x):
        h = self.conv(x)
        return self.head(self.act(h.clone()), h)


class AvgPool(Net):
    """Overlapping average pooling, flatten, two linear layers without a bias in the last."""

    def build(self):
        self.pool, self.fc1, self.fc2 = nn.AvgPool2d(3, stride=2), nn.Linear(36, 7), nn.Linear(7, CLASSES, bias=False)

    def head(self, a, h):
        return self.fc2(self.fc1(self.pool(a).flatten(1)).tanh())


class ConvAfter(Net):
    """A strided and dilated convolution follows the cut, max-pooling comes later."""

    def build(self):
        self.conv2, self.fc = nn.Conv2d(4, 5, 3, stride=2, padding=2, dilation=2), nn.Linear(20, CLASSES)

    def head(self, a, h):
        return self.fc(F.max_pool2d(self.conv2(a).relu(), 2).flatten(1))


class Reflecting(ConvAfter):
    """What a channel adds depends on the padding, which is not of zeros."""

    def build(self):
        super().build()
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2, padding=1, padding_mode="reflect")


class Grouped(ConvAfter):
    def build(self):
        super().build()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(24, CLASSES)


class NormAfter(ConvAfter):
    """BatchNorm between the cut and the first layer that mixes channels."""

    def build(self):
        super().build()
        self.bn = nn.BatchNorm2d(4)

    def head(self, a, h):
        return super().head(self.bn(a), h)


class AllConvolution(Net):
    """No linear layer at all: the logits are averages of a convolution's maps."""

    def build(self):
        self.conv2 = nn.Conv2d(4, CLASSES, 1)

    def head(self, a, h):
        return self.conv2(F.max_pool2d(a, 2)).relu().mean((2, 3))


class DenseNetLike(nn.Module):
    """The features end in BatchNorm; a functional in-place ReLU, pooling and one linear layer follow."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x):
        out = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))


class FromBelow(Net):
    """What comes from below the cut is added above it."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(64, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1((F.max_pool2d(a, 2) + F.avg_pool2d(h, 2)).flatten(1)).relu())


class FromBelowLinear(Net):
    """The same with a linear head, whose value without channels differs from image to image."""

    def build(self):
        self.fc = nn.Linear(4, CLASSES)

    def head(self, a, h):
        return self.fc((a + h).relu().mean((2, 3)))


class Around(Net):
    """The activations go round the first layer to the logits."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 7), nn.Linear(11, CLASSES)

    def head(self, a, h):
        p = a.amax((2, 3))
        return self.fc2(torch.cat([self.fc1(p).relu(), p.square()], 1))


class AroundByShape(Net):
    """Only whether the activations are there goes round the first layer: their shape, which is the same in every coalition."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(a.mean((2, 3)) * a.shape[-1]).relu())


class PositionsFirst(Net):
    """Flattened with the channels last: blocks of the weights are positions."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(64, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(F.avg_pool2d(a, 2).permute(0, 2, 3, 1).flatten(1)).relu())


class PerChannel(Net):
    """A linear layer over the positions of each channel by itself."""

    def build(self):
        self.mix, self.fc = nn.Linear(64, 3), nn.Linear(12, CLASSES)

    def head(self, a, h):
        return self.fc(self.mix(a.flatten(2)).relu().flatten(1))


class Neighbours(Net):
    """Channels divided by their neighbours before the first layer."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 7), nn.Linear(7, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(F.local_response_norm(a, 3, alpha=1).mean((2, 3))).relu())


class CosineLinear(nn.Linear):
    def forward(self, h):
        return F.linear(h / (1 + h.norm(dim=1, keepdim=True)), self.weight, self.bias)


class Cosine(Net):
    """The classifier is a linear layer by class, not by what it computes."""

    def build(self):
        self.fc = CosineLinear(4, CLASSES)

    def head(self, a, h):
        return self.fc(a.mean((2, 3)))


class Twice(Net):
    """The first layer above the cut is used again further up."""

    def build(self):
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def head(self, a, h):
        return self.fc2(self.fc1(self.fc1(a.mean((2, 3))).relu()).relu())


class LastTwice(Net):
    """The layer that gives the logits has a first go at them."""

    def build(self):
        self.fc1, self.fc = nn.Linear(4, CLASSES), nn.Linear(CLASSES, CLASSES)

    def head(self, a, h):
        return self.fc(self.fc(self.fc1(a.mean((2, 3))).relu()).relu())


Case = namedtuple("Case", "build layer kind")  # kind: "linear", "sum" (channels add up before the first non-linearity), "whole"
CASES = {
    "vgg": Case(VGGLike, "features.4", "sum"),
    "vgg without biases": Case(lambda: VGGLike(bias=False), "features.4", "sum"),
    "vgg, an earlier layer": Case(VGGLike, "features.2", "sum"),
    "gap": Case(GapLinear, "features.3", "linear"),
    "gap, before a convolution": Case(GapLinear, "features.1", "sum"),
    "gap without biases": Case(lambda: GapLinear(bias=False), "features.3", "linear"),
    "residual": Case(Residual, "layer1", "linear"),
    "residual, between blocks": Case(Residual, "layer1.0", "whole"),
    "residual, inside a block": Case(Residual, "layer1.0.conv2", "whole"),
    "residual, before the sum": Case(Residual, "layer1.1.bn3", "linear"),
    "functional": Case(*TOYS["functional"][:2], "whole"),
    "average pooling": Case(AvgPool, "act", "sum"),
    "convolution": Case(ConvAfter, "act", "sum"),
    "reflecting": Case(Reflecting, "act", "whole"),
    "grouped": Case(Grouped, "act", "whole"),
    "batch norm": Case(NormAfter, "act", "whole"),
    "all convolution": Case(AllConvolution, "act", "sum"),
    "densenet-like": Case(DenseNetLike, "features", "linear"),
    "from below": Case(FromBelow, "act", "whole"),
    "from below, linear": Case(FromBelowLinear, "act", "linear"),
    "around": Case(Around, "act", "whole"),
    "around by shape": Case(AroundByShape, "act", "sum"),
    "positions first": Case(PositionsFirst, "act", "whole"),
    "per channel": Case(PerChannel, "act", "whole"),
    "neighbours": Case(Neighbours, "act", "whole"),
    "cosine": Case(Cosine, "act", "whole"),
    "twice": Case(Twice, "act", "whole"),
    "last twice": Case(LastTwice, "act", "sum"),
}


# -- the second way ---------------------------------------------------------------------------------------------------------


@functools.cache
def setting(name, dtype=torch.float64):
    build, layer, _ = CASES[name]
    model, x = seeded(build, dtype=dtype), images(dtype=dtype)
    return model, x, layer


def activations(model, x, layer):
    found = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: found.append(output.detach().clone()))
    with torch.no_grad():
        model(x.clone())
    handle.remove()
    return found[0]


def played(model, x, y, layer, present):
    """v [B,n] of coalitions [n,K]: the whole model, on a copy whose layer's output is overwritten."""
    A = activations(model, x, layer)
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    present, columns = present.to(A), []
    for row in present:
        handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: A * row[:, None, None])
        with torch.no_grad():
            columns.append(model(x).gather(1, y[:, None])[:, 0])
        handle.remove()
    return torch.stack(columns, 1)


def gains(model, x, y, layer, permutations):
    """Sum over permutations of what each channel adds when it joins, [B,K]."""
    n, K = permutations.shape
    coalitions = torch.zeros(n, K + 1, K)
    for i, order in enumerate(permutations.tolist()):
        for j, k in enumerate(order):
            coalitions[i, j + 1 :, k] = 1
    v = played(model, x, y, layer, coalitions.flatten(0, 1)).view(len(x), n, K + 1)
    total = torch.zeros(len(x), K, dtype=v.dtype)
    for i, order in enumerate(permutations.tolist()):
        for j, k in enumerate(order):
            total[:, k] += v[:, i, j + 1] - v[:, i, j]
    return total


def same(got, expected, atol=1e-11):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=atol)


def drawn(n, K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(K, generator=generator) for _ in range(n)])


def game_of(model, x, layer, chunk=None, rows=slice(None), y=Y):
    return Game(Split(model, x, layer), y, rows, chunk)


def coalitions(K, n=9):
    some = torch.bernoulli(torch.full((n, K), 0.5), generator=torch.Generator().manual_seed(3))
    return torch.cat([torch.zeros(1, K), torch.ones(1, K), some])


@pytest.mark.parametrize("name", CASES)
def test_kind_of_head(name):
    model, x, layer = setting(name)
    game = game_of(model, x, layer)
    assert game.linear == (CASES[name].kind == "linear")
    assert (game.u is None) == (CASES[name].kind == "whole")


@pytest.mark.parametrize("chunk", [1, 3, 5, None])
@pytest.mark.parametrize("name", CASES)
def test_values_drops_and_marginals_are_those_of_the_whole_model(name, chunk):
    model, x, layer = setting(name)
    before = state(model)
    game = game_of(model, x, layer, chunk)
    K = game.channels
    same(game.values(coalitions(K)), played(model, x, Y, layer, coalitions(K)))
    one_less = played(model, x, Y, layer, torch.cat([torch.ones(1, K), 1 - torch.eye(K)]))
    same(game.drops(), one_less[:, :1] - one_less[:, 1:])
    permutations = drawn(4, K)
    same(game.marginals(permutations), gains(model, x, Y, layer, permutations))
    assert state(model) == before


@pytest.mark.parametrize("name", CASES)
def test_any_split_of_the_permutations_and_of_the_images(name):
    model, x, layer = setting(name)
    game = game_of(model, x, layer)
    permutations = drawn(6, game.channels)
    total = game.marginals(permutations)
    for parts in ([1] * 6, [2, 4], [5, 1]):
        same(sum(game.marginals(part) for part in permutations.split(parts)), total)
    same(game_of(model, x, layer, rows=slice(1, 3)).marginals(permutations), total[1:])
    same(game_of(model, x, layer, rows=slice(2, 3)).values(coalitions(game.channels)), game.values(coalitions(game.channels))[2:])
    for i in range(3):
        alone = game_of(model, x[i : i + 1], layer, y=Y[i : i + 1])
        same(alone.drops(), game.drops()[i : i + 1])


@pytest.mark.parametrize("name", CASES)
def test_single_precision(name):
    exact, rounded = (game_of(*setting(name, dtype)) for dtype in (torch.float64, torch.float32))
    assert (rounded.u is None, rounded.linear) == (exact.u is None, exact.linear)
    K = exact.channels
    for result in (lambda game: game.values(coalitions(K)), Game.drops, lambda game: game.marginals(drawn(5, K)) / 5):
        torch.testing.assert_close(result(rounded).double(), result(exact), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("dead", [0, 1, 2])
@pytest.mark.parametrize("name", ["vgg", "positions first", "gap", "neighbours"])
def test_dead_channels(name, dead):
    """All channels dead, or every other one: the test of the head must not take silence for consent."""
    model, x, layer = setting(name)
    model = copy.deepcopy(model)
    convolution = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
    with torch.no_grad():
        for row in {0: slice(None), 1: slice(0, None, 2), 2: slice(1, None, 2)}[dead], :
            convolution.weight[row], convolution.bias[row] = 0, -1
    game = game_of(model, x, layer)
    same(game.values(coalitions(game.channels)), played(model, x, Y, layer, coalitions(game.channels)))
    gone = game.A.amax((2, 3)) == 0
    assert gone.any() and not game.drops()[gone].abs().gt(1e-12).any()


def test_the_chunk_is_halved_where_memory_runs_out(monkeypatch):
    model, x, layer = setting("vgg")
    rows, scores = [], Split.scores

    def small(self, A, *args, **options):
        rows.append(len(A))
        if len(A) > 7:
            raise torch.OutOfMemoryError
        return scores(self, A, *args, **options)

    game = game_of(model, x, layer, chunk=60)
    permutations = drawn(5, game.channels)
    expected = game.values(coalitions(6)), game.drops(), game.marginals(permutations)
    monkeypatch.setattr(Split, "scores", small)
    for got, whole in zip((game.values(coalitions(6)), game.drops(), game.marginals(permutations)), expected):
        same(got, whole)
    assert max(rows) > 7 and game.chunk <= 7


@pytest.mark.parametrize("name", ["vgg", "residual, between blocks"])
def test_a_chunk_bounds_the_rows_of_the_head(name, monkeypatch):
    model, x, layer = setting(name)
    rows, scores = [], Split.scores
    game = game_of(model, x, layer, chunk=6)
    monkeypatch.setattr(Split, "scores", lambda self, A, *args, **options: rows.append(len(A)) or scores(self, A, *args, **options))
    game.values(coalitions(game.channels)), game.drops(), game.marginals(drawn(3, game.channels))
    assert max(rows) == 6


def test_spectral_norm_keeps_its_estimate_in_train_mode():
    """Reading a parametrised weight in train mode would change the model."""
    model = seeded(VGGLike)
    for number in (0, 6):
        nn.utils.parametrizations.spectral_norm(model.classifier[number])
    model.eval()
    expected = game_of(model, images(), "features.4").drops()
    model.train()
    before = state(model)
    same(game_of(model, images(), "features.4").drops(), expected)
    assert state(model) == before


# -- the split's part ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_logits_of_the_class(name):
    model, x, layer = setting(name)
    split = Split(model, x, layer)
    of = torch.tensor([2, 0, 2, 1, 1])
    y = torch.tensor([0, 3, 1, 4, 4])
    A = split.A[of] * torch.rand(5, split.A.shape[1], 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = split.head(A, of).gather(1, y[:, None])[:, 0].detach()
    given = A.clone()
    same(split.scores(A, y, of).detach(), expected)
    assert torch.equal(A, given)
    if CASES[name].kind == "sum":
        seen = []
        handle = split.first.register_forward_hook(lambda module, args, output: seen.append(args[0].detach().clone()))
        split.head(A, of)
        handle.remove()
        same(split.first_input(A, of), seen[0])
        z = split.first(split.first_input(A, of)).detach()
        same(split.scores(z, y, of, beyond_first=True).detach(), expected)


def test_first_and_last_layers():
    def of(build, layer):
        model = seeded(build)
        split = Split(model, images(), layer)
        names = {module: name for name, module in model.named_modules()}
        return names.get(split.first), names.get(split.last)

    assert of(VGGLike, "features.4") == ("classifier.0", "classifier.6")
    assert of(VGGLike, "features.2") == ("features.3", "classifier.6")
    assert of(GapLinear, "features.3") == ("fc", "fc")
    assert of(Residual, "layer1.0") == ("layer1.1.conv1", "fc")
    assert of(Residual, "layer1.0.conv2") == ("layer1.0.bn2", "fc")
    assert of(AllConvolution, "act") == ("conv2", None)
    assert of(Cosine, "act") == ("fc", None)
    assert of(Twice, "act") == (None, "fc2")
    assert of(LastTwice, "act") == ("fc1", None)


def test_a_replaced_forward_of_the_last_layer_counts():
    model = seeded(VGGLike)
    layer = model.classifier[6]
    layer.forward = lambda h: 2 * F.linear(h, layer.weight, layer.bias)
    split = Split(model, images(), "features.4")
    assert split.last is None
    same(split.scores(split.A, Y, torch.arange(3)).detach(), split.logits.gather(1, Y[:, None])[:, 0])


@pytest.mark.parametrize("name", ["around", "residual, between blocks"])
def test_activations_that_go_round_the_first_layer_are_found_out(name):
    model, x, layer = setting(name)
    split = Split(model, x, layer)
    of = torch.arange(3)
    expected = split.logits.gather(1, Y[:, None])[:, 0]
    with torch.no_grad():
        z = split.first(split.first_input(split.A, of))
        try:
            assert not torch.allclose(split.scores(z, Y, of, beyond_first=True), expected, rtol=1e-2)
        except RuntimeError:
            pass
    assert not split._copies, "the trunk need not run again for that"
    same(split.scores(split.A, Y, of).detach(), expected)

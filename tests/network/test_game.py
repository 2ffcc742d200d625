"""The game of the channels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_heads import AllConvolution, CASES, coalitions, Cosine, drawn, gains, game_of, LastTwice, played, same, setting, Twice
from toys import GapLinear, Residual, VGGLike, images, seeded, state, Y

from xai_repro.network.game import Game
from xai_repro.network.split import Split
from xai_repro.network.standin import NeedsValues


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
        except NeedsValues:
            pass
    assert not split._copies, "the trunk need not run again for that"
    same(split.scores(split.A, Y, of).detach(), expected)

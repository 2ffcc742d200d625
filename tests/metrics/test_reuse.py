"""Randomised maps: their order, and what of the forward pass is reused."""

import pytest
import torch
import xai_repro as xr
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy_randomised import changed, plainly, resnet18, sets, values, VGG
from toys import CLASSES, TOYS, VGGLike, flops, images, peak_bytes, seeded, Y

from xai_repro.metrics import randomise
from xai_repro.metrics.randomise import ORDERS, blocks, randomised, reinitialised


# -- the order --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_cascading_adds_up_and_independent_does_not(order, monkeypatch):
    model, x, seen = seeded(VGGLike), images(), []
    original = values(model)

    def spy(model, x, y, method, **settings):
        seen.append(values(model))
        return x[:, 0]

    monkeypatch.setattr(randomise, "explain", spy)
    assert [name for name, _ in randomised(model, x, Y, order=order)] == VGG
    with reinitialised(model, VGG):
        new = values(model)
    for names, found in zip(sets(order, VGG), seen, strict=True):
        drawn = {key for key in new if key.rpartition(".")[0] in names}
        assert len(drawn) == 2 * len(names) and not changed(model, original)
        assert all(torch.equal(found[key], new[key] if key in drawn else original[key]) for key in new)
        assert not any(torch.equal(new[key], original[key]) for key in new)


@pytest.mark.parametrize("method", ["grad-cam", "lift-cam", "shap-cam", "score-cam", "gradient", "edges"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("toy", TOYS)
def test_reuse_changes_no_bit(toy, order, method, monkeypatch):
    model, x = seeded(TOYS[toy].build, dtype=torch.float32), images(dtype=torch.float32)
    known = xr.method_info(method).hyper
    settings = {key: value for key, value in {"layer": TOYS[toy].layer, "permutations": 2}.items() if key in known}
    monkeypatch.setattr(randomise, "default_chunk", lambda x: 2)
    two, one = (plainly(model, x[rows], Y[rows], method, order, settings) for rows in (slice(2), slice(2, 3)))
    got = randomised(model, x, Y, method, order, settings=settings)
    for (name, maps), (named, some), (_, others) in zip(got, two, one, strict=True):
        assert name == named and torch.equal(maps, torch.cat([some, others]))


def test_settings_seed_layer_and_class():
    model, x = seeded(VGGLike), images()
    settings = {"permutations": 3, "seed": 7}
    expected = list(plainly(model, x, Y, "shap-cam", "independent", settings | {"layer": "features.1"}, seed=2))
    got = randomised(model, x, Y, "shap-cam", "independent", 2, settings, "features.1")
    assert all(torch.equal(maps, others) for (_, maps), (_, others) in zip(got, expected, strict=True))
    assert settings == {"permutations": 3, "seed": 7}
    top = model(x).argmax(1)  # of the model as it is, which the randomised one need not share
    with reinitialised(model, VGG[:1]):
        assert not torch.equal(model(x).argmax(1), top)
    first = {name: maps for name, maps in randomised(model, x, layer="features.4")}
    assert all(torch.equal(first[name], maps) for name, maps in randomised(model, x, top, layer="features.4"))


@pytest.mark.parametrize("order", ORDERS)
def test_what_lies_below_is_computed_once(order):
    model, x = resnet18(), images(2, size=64, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    counted, names = counter.get_flop_counts(), blocks(model)
    of_part = {name: sum(counted.get(f"ResNet.{name}", {}).values()) for name in names}
    whole = flops(lambda: xr.explain(model, x, 7))
    single = counter.get_total_flops() / 2  # one image shows the order of the blocks
    below = [sum(of_part[name] for name in names[i + 1 :]) for i in range(len(names))]
    spent = flops(lambda: list(randomised(model, x, 7, order=order)))
    assert spent == single + whole + sum(whole - saved for saved in below[1:])
    assert spent - single < 0.8 * len(names) * whole


def test_reuse_on_a_deep_stack_saves_nearly_half():
    model, x = xr.load_model("mini-vgg"), images(2, size=96, dtype=torch.float32)
    spent = [flops(lambda: list(run)) for run in (randomised(model, x, 7), plainly(model, x, 7, "grad-cam", "cascading", {}))]
    assert spent[0] < 0.6 * spent[1]


def test_what_is_kept_has_a_limit(monkeypatch):
    model, x = seeded(VGGLike), images(2)
    first, second = 8 * 2 * (3 + 4) * 16**2, 8 * 2 * (4 + 6) * 8**2  # bytes of what the convolutions take and give

    def run():
        return list(randomised(model, x, 1, order="independent", layer="features.4"))

    expected, most = run(), flops(lambda: list(plainly(model, x, 1, "grad-cam", "independent", {"layer": "features.4"})))
    spent, peak = [], []
    for limit in (0, first - 1, first, first + second, 2**31):
        monkeypatch.setattr(randomise, "KEPT", limit)
        assert all(torch.equal(maps, others) for (_, maps), (_, others) in zip(run(), expected))
        spent.append(flops(run))
        peak.append(peak_bytes(run))
    assert most == spent[0] > spent[1] > spent[2] > spent[3] == spent[4]
    assert peak[0] < max(peak) <= peak[0] + first + second


def test_what_no_later_step_needs_is_dropped(monkeypatch):
    made, init = [], randomise._Reuse.__init__
    monkeypatch.setattr(randomise._Reuse, "__init__", lambda self, *args: (init(self, *args), made.append(self))[0])
    for order in ORDERS:
        kept = [len(made[-1].first) for _ in randomised(seeded(VGGLike), images(), Y, order=order, layer="features.4")]
        assert kept == [2, 2, 2, 1, 0]  # the two convolutions; the linear layers are above the cut, where gradients flow
    monkeypatch.setattr(randomise, "default_chunk", lambda x: 1)
    next(randomised(seeded(VGGLike), images(), Y, "edges"))
    assert sum(reuse.room for reuse in made[-3:]) <= randomise.KEPT  # the slices share it


class Untidy(nn.Module):
    """Writes what a product returned, and what it was given, after the fact; calls one layer twice, and one as a function."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.act, self.fc = nn.ReLU(), nn.Linear(4, CLASSES)

    def forward(self, x):
        a = self.conv1(x).mul_(2).relu_()
        b = self.conv2(a)
        a += 1
        b = self.conv2(b + a)
        b[:, 0] = 0
        c = self.act(nn.functional.conv2d(b, self.conv3.weight, bias=self.conv3.bias))
        return self.fc(c.mean((2, 3)))


@pytest.mark.parametrize("order", ORDERS)
def test_reuse_in_an_untidy_model_with_hooks(order):
    model, x, heard = seeded(Untidy), images(), []
    model.conv1.register_forward_hook(lambda module, args, output: output.sub_(0.1))
    model.conv2.register_forward_hook(lambda module, args, output: heard.append(module) or output * 1.5)
    expected = list(plainly(model, x, Y, "grad-cam", order, {"layer": "act"}))
    calls = len(heard)
    got = list(randomised(model, x, Y, "grad-cam", order, layer="act"))
    assert all(torch.equal(maps, others) for (_, maps), (_, others) in zip(got, expected, strict=True))
    assert len(heard) == 2 * calls  # nobody who listens misses a call


def test_a_product_is_not_reused_for_another():
    """Another operand, layout, stride or weight, a weight or an operand that was written since, and wherever gradients flow."""
    conv, x = nn.Conv2d(3, 4, 3).double(), images()
    reuse, other = randomise._Reuse(conv, 2**20), images(seed=5)

    def cost(function):
        with reuse, torch.no_grad():
            return flops(function)

    def product(x, weight=conv.weight, **options):
        return nn.functional.conv2d(x, weight, conv.bias, options.get("stride", 1))

    assert cost(lambda: conv(x)) > 0 and cost(lambda: conv(x.clone())) == 0
    with reuse, torch.no_grad():
        conv(x).zero_()
        assert torch.equal(conv(x.clone()), product(x))
    for another in (
        lambda: conv(other), lambda: conv(x[:2]), lambda: product(x, stride=2), lambda: product(x, conv.weight.clone()),
        lambda: conv(x.contiguous(memory_format=torch.channels_last)),
    ):  # fmt: skip
        assert cost(another) > 0
    with reuse:
        assert conv(x).requires_grad and flops(lambda: conv(x)) > 0
        assert torch.autograd.grad(conv(x.requires_grad_()).sum(), x)[0].any()
    x = x.detach()
    assert cost(lambda: conv(x)) == 0
    with torch.no_grad():
        conv.weight.mul_(2)
    assert cost(lambda: conv(x)) > 0
    with reuse, torch.no_grad():
        assert torch.equal(conv(x), product(x))
    reuse = randomise._Reuse(conv, 2**20)
    assert cost(lambda: conv(x)) > 0 and cost(lambda: conv(x)) == 0
    x.mul_(1)  # the same values, but that would have to be looked at
    assert cost(lambda: conv(x)) > 0
    with randomise._Reuse(conv, 2**20), torch.inference_mode():  # where versions are not counted
        assert torch.equal(conv(x.clone()), product(x.clone()))
    reuse.forget(conv.parameters())
    assert reuse.room == 2**20 and not reuse.first and cost(lambda: conv(x)) == cost(lambda: conv(x)) > 0

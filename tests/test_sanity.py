"""Parameter randomisation: what is drawn, that it comes back, that reuse changes nothing, and the scores made of it."""

import functools
import zlib

import pytest
import torch
import torchvision
import xai_repro as xr
from scipy.stats import spearmanr
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import CLASSES, TOYS, Functional, GapLinear, Residual, VGGLike, flops, images, peak_bytes, seeded, state

from xai_repro import randomise
from xai_repro.errors import UnknownName
from xai_repro.metrics import sanity
from xai_repro.randomise import ORDERS, blocks, randomised, reinitialised

METRICS = {"cascading": "sanity-cascading", "independent": "sanity-independent"}
Y = torch.tensor([1, 4, 0])
VGG = ["classifier.6", "classifier.3", "classifier.0", "features.3", "features.0"]


@functools.cache
def resnet18():
    return seeded(lambda: torchvision.models.resnet18(weights=None), dtype=torch.float32)


def sets(order, names):
    return [names[: i + 1] if order == "cascading" else [name] for i, name in enumerate(names)]


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


# -- blocks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build, names", [
    (VGGLike, VGG), (GapLinear, ["fc", "features.2", "features.0"]),
    (Residual, ["fc", "layer1", "bn1", "conv1"]), (Functional, ["fc", "conv3", "conv2", "conv1"]),
])  # fmt: skip
def test_blocks_from_the_logits_downwards(build, names):
    assert blocks(seeded(build)) == names and blocks(seeded(build), images()) == names


def test_blocks_of_known_architectures():
    assert blocks(resnet18()) == ["fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert blocks(xr.load_model("mini-vgg"))[:4] == ["classifier.6", "classifier.3", "classifier.0", "features.28"]
    assert len(blocks(xr.load_model("mini-vgg"))) == 16  # VGG16: thirteen convolutions, three linear layers


class Branched(nn.Module):
    """Defined in another order than it runs, with a head for training, a convolving part of two, and a token of its own."""

    def __init__(self):
        super().__init__()
        self.fc, self.side = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
        self.trunk = nn.ModuleDict({"late": nn.Conv2d(4, 4, 3), "early": nn.Conv2d(3, 4, 3)})
        self.token = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        weight = self.fc.weight  # read at the beginning, used at the end
        x = self.trunk["late"](self.trunk["early"](x.to(weight.dtype)).relu_()).mean((2, 3)) + self.token
        return self.fc(x) + self.side(x) if self.training else self.fc(x)


def test_blocks_in_the_order_of_the_forward_pass_and_without_what_it_leaves_out():
    model = seeded(Branched).train()
    assert blocks(model) == ["trunk.early", "trunk.late", "side", "fc"]
    assert blocks(model, images()) == ["fc", "trunk.late", "trunk.early"] and model.training


# -- new parameters ---------------------------------------------------------------------------------------------------------


def test_parameters_are_drawn_as_in_a_new_layer():
    model = seeded(VGGLike)
    with reinitialised(model, ["features", "classifier.3"], seed=5), torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(b"5 features.3"))
        new = nn.Conv2d(4, 6, 3, padding=1, dtype=torch.float64)
        assert torch.equal(model.features[3].weight, new.weight) and torch.equal(model.features[3].bias, new.bias)
        torch.manual_seed(zlib.crc32(b"5 classifier.3"))
        new = nn.Linear(12, 10, dtype=torch.float64)
        assert torch.equal(model.classifier[3].weight, new.weight) and torch.equal(model.classifier[3].bias, new.bias)


def test_normalisation_keeps_its_statistics():
    model = seeded(Residual)
    model.layer1[0].bn2.num_batches_tracked.fill_(7)
    before = values(model)
    assert not (before["layer1.0.bn1.running_mean"] == 0).any()
    with reinitialised(model, ["layer1", "bn1"]):
        for name in ("bn1", "layer1.0.bn2", "layer1.0.downsample.1", "layer1.1.bn3"):
            norm = model.get_submodule(name)
            assert (norm.weight == 1).all() and (norm.bias == 0).all()
        moved = {name for name in before if name.startswith(("layer1.", "bn1.")) and name.endswith(("weight", "bias"))}
        assert changed(model, before) == moved


class Plain(nn.Module):
    """Parameters of its own that nothing says how to initialise."""

    def __init__(self):
        super().__init__()
        self.scale, self.one = nn.Parameter(torch.full((200, 4, 5, 5), 3.0)), nn.Parameter(torch.ones(()))
        self.register_parameter("missing", None)


def test_parameters_without_an_initialiser():
    model = nn.Sequential(Plain(), nn.Linear(2, 2))
    with reinitialised(model, ["0"]):
        scale = model[0].scale.detach().clone()
        assert abs(scale.mean()) < 1e-3 and scale.std().item() == pytest.approx(0.02, rel=0.02) and model[0].one != 1
    assert (model[0].scale == 3).all() and model[0].one == 1
    with reinitialised(model.to(memory_format=torch.channels_last), ["0"]):
        assert torch.equal(model[0].scale, scale)  # the layout of the memory makes no difference


def test_parameters_depend_on_seed_and_name_alone():
    model, other = seeded(VGGLike), seeded(VGGLike, seed=9).to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    with reinitialised(model, VGG, seed=3):
        expected = values(model)
    torch.manual_seed(2)
    for name in reversed(VGG):
        with reinitialised(other, [name], seed=3):
            new = {key: tensor for key, tensor in other.state_dict().items() if key.startswith(f"{name}.")}
            assert len(new) == 2 and all(torch.equal(tensor, expected[key]) for key, tensor in new.items())
    with reinitialised(model, VGG, seed=4):
        assert changed(model, expected) == set(expected)


def test_frozen_and_shared_parameters():
    model = seeded(VGGLike)
    for p in model.parameters():
        p.requires_grad_(False)
    model.classifier[3].weight = nn.Parameter(model.classifier[3].weight.clone())
    model.twin = nn.Linear(12, 10).double()
    model.twin.weight = model.classifier[3].weight
    before = state(model)
    with reinitialised(model, ["twin", "classifier.3", "features.0"]):
        assert not any(p.requires_grad for p in model.features.parameters()) and model.twin.weight is model.classifier[3].weight
        assert changed(model, values(seeded(VGGLike)) | {"twin.weight": model.twin.weight, "twin.bias": model.twin.bias}) == {
            "classifier.3.weight", "classifier.3.bias", "features.0.weight", "features.0.bias",
        }  # fmt: skip
    assert state(model) == before


# -- and the old ones again -------------------------------------------------------------------------------------------------


class Boom(Exception):
    pass


@pytest.mark.parametrize("name", TOYS)
def test_I22_everything_comes_back_also_after_an_error(name):
    model = seeded(TOYS[name].build)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    before, storages, random_state = state(model), [p.data_ptr() for p in model.parameters()], torch.get_rng_state()
    with reinitialised(model, blocks(model)):
        assert state(model) != before and torch.equal(torch.get_rng_state(), random_state)
    assert state(model) == before
    with pytest.raises(Boom), reinitialised(model, blocks(model)[:2]):
        raise Boom
    with torch.inference_mode(), reinitialised(model, blocks(model)):
        pass
    with pytest.raises(UnknownName, match="unknown module 'fcc'"), reinitialised(model, ["fcc"]):
        pass
    assert state(model) == before and [p.data_ptr() for p in model.parameters()] == storages
    assert torch.equal(torch.get_rng_state(), random_state)


def test_versions_tell_that_the_parameters_were_others():
    model, versions = seeded(GapLinear), []
    for _ in range(2):
        versions.append(model.fc.weight._version)
        with reinitialised(model, ["fc"]):
            versions.append(model.fc.weight._version)
    assert len(set(versions)) == 4


def test_an_error_while_parameters_are_drawn(monkeypatch):
    model, calls = seeded(VGGLike), []
    before, draw = state(model), randomise._drawn

    def fail(module, key):
        calls.append(module)
        if len(calls) == 3:
            raise Boom
        return draw(module, key)

    monkeypatch.setattr(randomise, "_drawn", fail)
    with pytest.raises(Boom), reinitialised(model, VGG):
        pass
    assert len(calls) == 3 and state(model) == before


@pytest.mark.parametrize("order", ORDERS)
def test_the_model_is_whole_whenever_the_caller_has_control(order):
    model, x = seeded(VGGLike), images()
    before, modes = state(model), (torch.is_grad_enabled(), torch.get_rng_state())
    steps = randomised(model, x, Y, order=order, layer="features.4")
    for name, maps in steps:
        assert state(model) == before and torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), modes[1])
        assert maps.shape == (3, 16, 16)
        if name == "classifier.0":
            break
    steps.close()
    with pytest.raises(Boom):
        for _ in randomised(model, x, Y, order=order, layer="features.4"):
            raise Boom
    assert state(model) == before
    with torch.no_grad():
        two = [randomised(model, x, Y, order=order, layer="features.4") for _ in range(2)]  # at once, under no_grad
        assert all(name == again and torch.equal(maps, others) for (name, maps), (again, others) in zip(*two, strict=True))
    assert state(model) == before


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


# -- reuse ------------------------------------------------------------------------------------------------------------------


def plainly(model, x, y, method, order, settings, seed=0):
    """The maps without reuse: the model is randomised, and explained as any other."""
    for names in sets(order, blocks(model, x)):
        with reinitialised(model, names, seed):
            maps = xr.explain(model, x, y, method, **settings)
        yield names[-1], maps


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


# -- scores -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("similarity", ["spearman", "ssim", "hog"])
def test_I22_nothing_randomised_scores_one(order, similarity, monkeypatch):
    model, x = seeded(VGGLike), images()
    maps = xr.explain(model, x, Y, "grad-cam", "features.1")
    options = {"layer": "features.1", "similarity": similarity}
    assert (xr.score(METRICS[order], model, x, Y, maps, **options) < 1).all()
    monkeypatch.setattr(randomise, "_drawn", lambda module, key: {k: p.clone() for k, p in module._parameters.items()})
    assert xr.score(METRICS[order], model, x, Y, maps, **options).tolist() == [1, 1, 1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("similarity", ["spearman", "ssim", "hog"])
@pytest.mark.parametrize("toy", ["vgg", "residual"])
def test_a_map_that_ignores_the_model_scores_one(toy, order, similarity):
    model, x = seeded(TOYS[toy].build), images()
    maps = xr.explain(model, x, Y, "edges")
    assert xr.score(METRICS[order], model, x, Y, maps, method="edges", similarity=similarity).tolist() == [1, 1, 1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("toy", TOYS)
def test_score_is_the_mean_over_the_blocks(toy, order):
    model, x = seeded(TOYS[toy].build), images()
    maps = xr.explain(model, x, Y, "linear-approximation")
    each = [others for _, others in plainly(model, x, Y, "linear-approximation", order, {}, seed=6)]
    got = xr.score(METRICS[order], model, x, Y, maps, method="linear-approximation", seed=6)
    for b in range(3):
        similar = [spearmanr(maps[b].flatten(), others[b].flatten()).statistic for others in each]
        assert got[b].item() == pytest.approx(sum(similar) / len(similar), abs=1e-12)
    assert not torch.equal(got, xr.score(METRICS[order], model, x, Y, maps, method="linear-approximation", seed=7))


def test_a_map_that_goes_blank_has_kept_nothing(monkeypatch):
    x, maps = images(), images()[:, 0]
    blank, given = torch.zeros_like(maps), maps.clone()
    half = torch.stack([maps[0], -maps[1], maps[2]])
    given[2] = 5
    for similarity in ("spearman", "ssim", "hog"):
        monkeypatch.setattr(sanity, "randomised", lambda *_: iter([("a", half), ("b", blank)]))
        values = xr.score("sanity-cascading", GapLinear().double(), x, 0, given, similarity=similarity)
        assert values[0] == 0.5 and values[2].isnan()  # (1 + 0) / 2; a given map that is constant cannot be scored
        assert similarity != "spearman" or values[1] == -0.5


@pytest.mark.parametrize("order", ORDERS)
def test_errors(order):
    model, x, maps = seeded(VGGLike), images(), images()[:, 0]

    def refused(given, kind=UnknownName, model=model, **options):
        with pytest.raises(kind, match=given):
            xr.score(METRICS[order], model, x, Y, maps, **options)

    refused("unknown similarity 'spearmen'; did you mean 'spearman'", similarity="spearmen")
    refused("unknown method 'grad-cams'; did you mean 'grad-cam'", method="grad-cams")
    refused("unknown hyper-parameter of gradient 'step'", method="gradient", settings={"step": 3})
    refused("unknown hyper-parameter of gradient 'layer'", method="gradient", layer="features.4")
    refused("unknown layer 'features.9'", layer="features.9")
    refused("VGGLike has no default layer", kind=ValueError)

    class Bare(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    refused("Bare has no part whose parameters", kind=ValueError, model=Bare(), method="gradient")
    with pytest.raises(UnknownName, match="unknown order 'cascade'; did you mean 'cascading'"):
        randomised(model, x, Y, order="cascade")
    with pytest.raises(ValueError, match=r"got \[3, 1, 16, 16\]"):
        randomised(model, x[:, :1], Y)

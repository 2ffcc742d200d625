"""Parameter randomisation: blocks, new parameters, and the old ones again."""

import zlib

import pytest
import torch
import xai_repro as xr
from torch import nn
from toy_randomised import changed, resnet18, values, VGG
from toys import CLASSES, TOYS, Functional, GapLinear, Residual, VGGLike, images, seeded, state, Y

from xai_repro.errors import UnknownName
from xai_repro.metrics import randomise
from xai_repro.metrics.randomise import ORDERS, blocks, randomised, reinitialised


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


def test_a_backward_pass_that_is_still_to_come_does_not_notice():
    model, x = seeded(VGGLike), images()
    x.requires_grad_()
    versions, loss = [p._version for p in model.parameters()], model(x).square().sum()
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    list(randomised(model, x.detach(), Y, "gradient"))
    xr.score("sanity-cascading", model, x.detach(), Y, x.detach()[:, 0], method="gradient")
    assert [p._version for p in model.parameters()] == versions
    loss.backward()
    assert torch.equal(x.grad, expected)


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


@pytest.mark.parametrize("order", ORDERS)
def test_it_may_start_at_the_last_convolution(order):
    """What is above is as trained: the gradient of the head and the block itself tell the map, by hand."""
    model, x = seeded(VGGLike), images()
    whole, part = (dict(randomised(model, x, Y, "gradient", order, start=start)) for start in randomise.STARTS)
    convolving = [name for name in VGG if name.startswith("features")]
    assert list(whole) == VGG and list(part) == convolving
    for number, name in enumerate(convolving, 1):
        with reinitialised(model, convolving[:number] if order == "cascading" else [name]):
            assert torch.equal(part[name], xr.explain(model, x, Y, "gradient"))
    with pytest.raises(UnknownName, match="unknown start 'last'"):
        next(randomised(model, x, Y, start="last"))
    with pytest.raises(ValueError, match="from the last-convolution on"):
        next(randomised(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES)).double(), x, Y, "gradient", start="last-convolution"))

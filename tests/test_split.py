"""The cut: what it computes equals the whole model, it never runs the trunk again, and the model is left alone."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from toys import CLASSES, TOYS, Bottleneck, Functional, Residual, VGGLike, flops, images, peak_bytes, seeded, state

from xai_repro.errors import UnknownName
from xai_repro.split import Split, default_layer, evaluating

ATOL = 1e-12


# -- untidy models, and a plain second way to run what lies above a layer -----------------------------------------------


def replaced(model, x, layer, A):
    """Logits of the whole model whose layer's output is overwritten by A [B,K,h,w]: a deep copy, a hook, the full price.

    The copy has no in-place modules, so that the overwritten tensor is the one that the layers above read.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    model.get_submodule(layer).register_forward_hook(lambda module, args, output: A.clone())
    return model(x)


def whole_grad(model, x, layer, y):
    """d logit_y / d A by autograd through the whole model, trunk included."""
    model, kept = copy.deepcopy(model), []
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    score = model(x)[torch.arange(len(x)), y].sum()
    return torch.autograd.grad(score, kept[0])[0]


class DenseBlock(nn.Module):
    """Concatenation of everything before: tensors from below the cut are read above it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(k, 4, 3, padding=1) for k in (3, 7, 11))
        self.fc = nn.Linear(15, CLASSES)

    def forward(self, x):
        features = [x]
        for layer in (self.a, self.b, self.c):
            features.append(layer(torch.cat(features, 1)).relu())
        return self.fc(torch.cat(features, 1).mean((2, 3)))


class WrittenAfter(nn.Module):
    """A tensor that crosses the cut is written in place between the call that returned it and the cut, and read above."""

    def __init__(self):
        super().__init__()
        self.low, self.cut, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x):
        low = self.low(x)
        low += 0.5
        low.clamp_(min=0)
        return self.fc((self.cut(low) * low).mean((2, 3)))


class WrittenAbove(nn.Module):
    """A tensor that crosses the cut is written in place above the cut: every run of the head writes it anew."""

    def __init__(self):
        super().__init__()
        self.low, self.cut, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x):
        low = self.low(x)
        high = self.cut(low)
        low *= 2
        low += high
        return self.fc(low.relu().mean((2, 3)))


class Reused(nn.Module):
    """One convolution and one in-place ReLU that run below, above and on both sides of the cut."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice, self.cut = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, CLASSES)

    def forward(self, x):
        low = self.relu(self.twice(self.relu(self.stem(x))))
        high = self.relu(self.twice(self.relu(self.cut(low))))
        return self.fc((low + high).mean((2, 3)))


class WritesImage(nn.Module):
    """Its first layer writes the image in place."""

    def __init__(self):
        super().__init__()
        self.first, self.cut, self.fc = nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.fc(self.cut(self.first(x)).relu().mean((2, 3)))


class Preallocated(nn.Module):
    """The head writes into a tensor that it allocates like the image: with a stand-in for the image nothing would raise."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, CLASSES, 3)

    def forward(self, x):
        logits = x.new_zeros(len(x), CLASSES)
        logits[:, :] = self.cut(x).mean((2, 3))
        return logits


class Wrapped(nn.Module):
    """A network behind a normalisation by buffers, returned as the field `logits` of a record."""

    class Output(dict):
        logits = property(lambda self: self["logits"])

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.3))
        self.net = VGGLike()

    def forward(self, x):
        return self.Output(logits=self.net(x - self.mean))


UNTIDY = {
    "vgg": (VGGLike, "features.4"),
    "vgg, a pool": (VGGLike, "features.5"),
    "vgg, a convolution before an in-place relu": (VGGLike, "features.3"),
    "residual, last block": (Residual, "layer1"),
    "residual, first convolution of a block": (Residual, "layer1.1.conv1"),
    "residual, inside a plain shortcut": (Residual, "layer1.1.conv2"),
    "residual, before the sum": (Residual, "layer1.1.bn3"),
    "residual, beside a projection": (Residual, "layer1.0.bn3"),
    "residual, the projection": (Residual, "layer1.0.downsample"),
    "residual, in the projection": (Residual, "layer1.0.downsample.0"),
    "residual, stem": (Residual, "relu"),
    "functional": (Functional, "act"),
    "functional, first": (Functional, "conv1"),
    "dense": (DenseBlock, "b"),
    "dense, last": (DenseBlock, "c"),
    "written between call and cut": (WrittenAfter, "cut"),
    "written above the cut": (WrittenAbove, "cut"),
    "reused on both sides": (Reused, "cut"),
    "writes the image": (WritesImage, "cut"),
    "preallocated": (Preallocated, "cut"),
}


@pytest.fixture(params=UNTIDY)
def untidy(request):
    build, layer = UNTIDY[request.param]
    return seeded(build), layer


# -- what it computes -------------------------------------------------------------------------------------------------


def test_head_of_A_is_the_logits(untidy):
    model, layer = untidy
    x = images()
    with torch.no_grad():
        expected = model(x.clone())
    split = Split(model, x, layer)
    torch.testing.assert_close(split.logits, expected, rtol=0, atol=ATOL)
    for _ in range(2):  # a head that writes in place must find everything unspoilt the second time
        torch.testing.assert_close(split.head(split.A), expected, rtol=0, atol=ATOL)


def test_head_of_other_activations_on_repeated_rows(untidy):
    model, layer = untidy
    x = images()
    split = Split(model, x, layer)
    of = torch.tensor([2, 0, 0, 1, 2, 1, 0])
    noise = torch.randn(len(of), *split.A.shape[1:], generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    other = split.A[of] + noise
    with torch.no_grad():
        given = other.clone()
        expected = replaced(model, x[of].clone(), layer, other)
        torch.testing.assert_close(split.head(other, of), expected, rtol=0, atol=ATOL)
        assert torch.equal(other, given)
        torch.testing.assert_close(split.head(split.A), split.logits, rtol=0, atol=ATOL)


def test_one_image_with_many_rows(untidy):
    model, layer = untidy
    split = Split(model, images(1), layer)
    scale = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None, None, None]
    rows = split.A * scale
    with torch.no_grad():
        expected = torch.cat([replaced(model, images(1), layer, row[None]) for row in rows])
        got = split.head(rows, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(got, expected, rtol=0, atol=ATOL)


def test_grad_is_that_of_the_whole_model(untidy):
    model, layer = untidy
    x, y = images(), torch.tensor([0, 3, 4])
    split = Split(model, x, layer)
    for classes in (y, y.flip(0)):  # twice: the graph above the cut is kept
        torch.testing.assert_close(split.grad(classes), whole_grad(model, x.clone(), layer, classes), rtol=0, atol=ATOL)


def test_head_is_differentiable_in_A(untidy):
    model, layer = untidy
    x, y = images(), torch.tensor([1, 1, 2])
    split = Split(model, x, layer)
    leaf = split.A.clone().requires_grad_()
    score = split.head(leaf)[torch.arange(3), y].sum()
    torch.testing.assert_close(torch.autograd.grad(score, leaf)[0], split.grad(y), rtol=0, atol=ATOL)


def test_a_normalising_wrapper_and_a_record_of_logits():
    model, x = seeded(Wrapped), images()
    split = Split(model, x, "net.features.4")
    torch.testing.assert_close(split.head(split.A), model.net(x - 0.3), rtol=0, atol=1e-7)  # the buffer was float32 once
    assert split.target(None).tolist() == model.net(x - model.mean).argmax(1).tolist()


def test_activations_that_the_logits_do_not_read_have_gradient_zero():
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

        def forward(self, x):
            a = self.conv(x)
            return self.fc(a.detach().mean((2, 3)))

    split = Split(seeded(Unread), images(), "conv")
    assert torch.equal(split.grad(torch.tensor([0, 1, 2])), torch.zeros_like(split.A))


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_the_trunk_runs_once_and_never_in_the_head(untidy):
    """Convolutions and linear layers below the cut run in the recording alone, however often the head runs."""
    model, layer = untidy
    calls, order = Counter(), []

    def count(name):
        def hook(module, args, output):
            calls[name] += 1
            order.append(name)

        return hook

    handles = [m.register_forward_hook(count(n)) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    model(images())
    plain, sequence = Counter(calls), list(order)
    for handle in handles:
        handle.remove()
    parameters = {id(m.weight): n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    ran = Counter()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (torch.conv2d, F.conv2d, F.linear) and id(args[1]) in parameters:
                ran[parameters[id(args[1])]] += 1
            return function(*args, **(kwargs or {}))

    with Watch():
        split = Split(model, images(), layer)
    rewritten = isinstance(model, (WrittenAfter, WrittenAbove)) or layer.startswith("layer1.0.downsample")
    assert all(ran[name] == (1 + rewritten) * times for name, times in plain.items() if name != "fc")
    split.head(split.A)  # may have to record again, once
    ran.clear()
    with Watch():
        split.head(split.A)
        split.head(split.A)
    first_above = next((i for i, name in enumerate(sequence) if name == layer or name.startswith(f"{layer}.")), None)
    if first_above is None:
        below = [n for n in sequence if n.startswith("features.")] if layer.startswith("features") else []
        below = [n for n in below if int(n.split(".")[1]) < int(layer.split(".")[1])]
    else:
        below = sequence[:first_above]
    expected = Counter(sequence) - Counter(below) - Counter(n for n in sequence if n == layer or n.startswith(f"{layer}."))
    for name in set(below):
        assert ran[name] <= 2 * expected[name], f"{name} below '{layer}' ran again in the head"


def test_head_of_vgg16_costs_its_head_alone():
    model, x = torchvision.models.vgg16(), torch.randn(1, 3, 224, 224)
    split = Split(model, x)
    assert split.layer == "features.29" and split.A.shape == (1, 512, 14, 14)
    classifier = 2 * (25088 * 4096 + 4096 * 4096 + 4096 * 1000)
    with torch.no_grad():
        assert flops(lambda: split.head(split.A)) == classifier
        assert flops(lambda: split.head(split.A[[0] * 5], torch.zeros(5, dtype=torch.long))) == 5 * classifier
    assert flops(lambda: split.grad(torch.tensor([7]))) == classifier


def test_a_normalising_wrapper_keeps_no_activations_of_the_trunk():
    """The images stand in for the normalisation; the trunk's activations need not be kept for it."""
    model = seeded(Wrapped)
    x = images(8)

    def cut_and_head():
        split = Split(model, x, "net.features.4")
        with torch.no_grad():
            return split.head(split.A)

    def forward():
        with torch.no_grad():
            return model(x)

    assert peak_bytes(cut_and_head) < 2 * peak_bytes(forward)
    with torch.no_grad():
        split = Split(model, x, "net.features.4")
        split.head(split.A)
        assert flops(lambda: split.head(split.A)) == 2 * 8 * (96 * 12 + 12 * 10 + 10 * CLASSES)


# -- grad modes, frozen parameters, train mode ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_every_grad_mode_of_the_caller(untidy, mode):
    model, layer = untidy
    reference = Split(model, images(), layer)
    with mode():
        x, y = images(), torch.tensor([0, 3, 4])
        split = Split(model, x, layer)
        G, head = split.grad(y), split.head(split.A.clone())
        assert torch.equal(G, reference.grad(torch.tensor([0, 3, 4])))
        assert torch.equal(head, reference.head(reference.A))
        assert mode is torch.enable_grad or not head.requires_grad
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)


def test_evaluating_keeps_the_callers_grad_mode():
    model = seeded(VGGLike)
    for mode, on in ((torch.no_grad, False), (torch.inference_mode, False), (torch.enable_grad, True)):
        with mode(), evaluating(model):
            assert torch.is_grad_enabled() is on and not torch.is_inference_mode_enabled()


def test_images_made_in_inference_mode_pass_through_modules_that_return_their_input():
    model = nn.Sequential(nn.Identity(), nn.Dropout(), *seeded(VGGLike).features, nn.Flatten(), nn.Linear(96, CLASSES)).double()
    with torch.inference_mode():
        x = images()
        split = Split(model, x, "6")
        assert torch.equal(split.head(split.A), split.logits)
    split = Split(model, x, "6")
    assert split.grad(torch.tensor([0, 1, 2])).shape == split.A.shape


def test_frozen_parameters(untidy):
    model, layer = untidy
    y = torch.tensor([0, 1, 2])
    expected = Split(model, images(), layer).grad(y)
    model.requires_grad_(False)
    split = Split(model, images(), layer)
    assert torch.equal(split.grad(y), expected)
    assert not any(p.requires_grad for p in model.parameters())


def test_images_that_require_grad_stay_as_they_are():
    x = images().requires_grad_()
    split = Split(seeded(VGGLike), x, "features.4")
    split.grad(torch.tensor([0, 1, 2]))
    assert x.grad is None and not split.A.requires_grad and not split.logits.requires_grad


# -- the model is left alone --------------------------------------------------------------------------------------------


def test_model_and_images_are_as_before(untidy):
    model, layer = untidy
    model.train()
    next(model.children()).eval()
    model.register_forward_hook(lambda *_: None)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    x = images()
    before, given = state(model), x.clone()
    split = Split(model, x, layer)
    split.grad(torch.tensor([0, 1, 2]))
    split.head(split.A)
    assert state(model) == before
    assert torch.equal(x, given)


class Boom(Exception):
    pass


@pytest.mark.parametrize("kind", [Boom, RuntimeError])
def test_after_an_error_in_any_module(untidy, kind):
    model, layer = untidy
    model.train()
    before, modes = state(model), torch.is_grad_enabled()
    split = Split(model, images(), layer)
    armed = None

    def boom(module, args):
        if module is armed:
            raise kind("boom")

    handle = torch.nn.modules.module.register_module_forward_pre_hook(boom)
    try:
        for armed in model.modules():
            try:
                Split(model, images(), layer)
            except kind:
                pass
            assert state(model) == before and torch.is_grad_enabled() == modes
            try:
                split.head(split.A)
            except kind:
                pass
            assert state(model) == before and torch.is_grad_enabled() == modes
    finally:
        handle.remove()
    torch.testing.assert_close(split.head(split.A), split.logits, rtol=0, atol=ATOL)


def test_after_an_error_in_the_head():
    model = seeded(VGGLike)
    before = state(model)
    split = Split(model, images(), "features.4")
    with pytest.raises(RuntimeError):
        split.head(split.A[:, :4])  # too few channels: the linear layer refuses
    with pytest.raises(ValueError, match="5 rows of activations for 3 images"):
        split.head(split.A[[0, 0, 0, 1, 2]])
    with pytest.raises(ValueError, match="1 rows of activations for 3 images"):
        split.head(split.A[:1])
    assert state(model) == before
    assert torch.equal(split.head(split.A), split.logits)


def test_a_forward_that_the_user_has_replaced_is_kept():
    model = seeded(VGGLike)
    own = type(model.features[3]).forward.__get__(model.features[3])
    model.features[3].forward = own
    model.features[4].forward = torch.relu
    split = Split(model, images(), "features.4")
    split.head(split.A)
    assert model.features[3].__dict__["forward"] is own and model.features[4].__dict__["forward"] is torch.relu


# -- errors -------------------------------------------------------------------------------------------------------------


def test_unknown_layer_names_the_nearest():
    with pytest.raises(UnknownName, match="unknown layer 'featurs.4'; did you mean 'features.4'"):
        Split(seeded(VGGLike), images(), "featurs.4")
    with pytest.raises(UnknownName, match="unknown layer ''"):
        Split(seeded(VGGLike), images(), "")


def test_a_layer_that_runs_twice_or_never():
    with pytest.raises(ValueError, match="'twice' runs 2 times"):
        Split(seeded(Reused), images(), "twice")
    model = seeded(VGGLike)
    model.unused = nn.Conv2d(3, 3, 1)
    before = state(model)
    with pytest.raises(ValueError, match="'unused' runs 0 times"):
        Split(model, images(), "unused")
    assert state(model) == before


def test_a_layer_without_maps():
    with pytest.raises(ValueError, match=r"'classifier.0' gives \[3, 12\]; a cut needs activations \[B,K,h,w\]"):
        Split(seeded(VGGLike), images(), "classifier.0")


def test_nothing_differentiable_above():
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, CLASSES, 3)

        def forward(self, x):
            return (self.conv(x) > 0).to(x).mean((2, 3))

    with pytest.raises(ValueError, match="no gradient reaches layer 'conv'"):
        Split(seeded(Hard), images(), "conv")


def test_a_model_without_logits():
    with pytest.raises(ValueError, match=r"the model gives \[3, 6, 8, 8\]; logits \[B,C\] are needed"):
        Split(seeded(lambda: VGGLike().features[:5]), images(), "3")


def test_a_class_out_of_range():
    split = Split(seeded(VGGLike), images(), "features.4")
    for wrong in (CLASSES, -1):
        with pytest.raises(ValueError, match=f"class {wrong}; the model has classes 0 to {CLASSES - 1}"):
            split.grad(torch.tensor([0, wrong, 1]))


def test_no_default_layer_lists_the_last_layers():
    with pytest.raises(ValueError, match="VGGLike has no default layer.*classifier.6"):
        Split(seeded(VGGLike), images())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layer, shape",
    [
        ("resnet18", "layer4", (512, 2, 2)), ("vgg11_bn", "features.27", (512, 4, 4)), ("alexnet", "features.11", (256, 3, 3)),
        ("densenet121", "features", (1024, 2, 2)), ("mobilenet_v3_small", "features", (576, 2, 2)),
        ("googlenet", "inception5b", (1024, 2, 2)), ("shufflenet_v2_x0_5", "conv5", (1024, 2, 2)),
        ("convnext_tiny", "features", (768, 2, 2)), ("regnet_y_400mf", "trunk_output", (440, 2, 2)),
        ("efficientnet_b0", "features", (1280, 2, 2)), ("mnasnet0_5", "layers", (1280, 2, 2)),
    ],
)  # fmt: skip
def test_torchvision_models_find_their_layer(name, layer, shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, **options)
    assert default_layer(model) == layer
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    split = Split(model, x)
    assert split.A.shape == (2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(split.head(split.A), split.logits)
        torch.testing.assert_close(split.logits, model.eval()(x))


@pytest.mark.slow
def test_torchvision_residual_blocks_and_dense_layers_cut_inside():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        resnet, dense = torchvision.models.resnet50(), torchvision.models.densenet121()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for model, layer in ((resnet, "layer4.1.conv2"), (resnet, "layer3.0.bn3"), (dense, "features.denseblock4.denselayer3")):
        split = Split(model, x, layer)
        of = torch.tensor([1, 0, 1])
        with torch.no_grad():
            torch.testing.assert_close(split.head(split.A), split.logits, rtol=1e-4, atol=1e-5)
            rows = 0.5 * split.A[of]
            torch.testing.assert_close(split.head(rows, of), replaced(model.eval(), x[of], layer, rows), rtol=1e-4, atol=1e-5)


def test_bottleneck_alone_matches_its_formula():
    """The toy itself is checked: out = ReLU(bn3(conv3(...)) + identity)."""
    block = seeded(lambda: Bottleneck(8, 3, 8))
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    h = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))
    torch.testing.assert_close(block(x), F.relu(block.bn3(block.conv3(h)) + x))


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_as_the_tests_need_them(name):
    toy = TOYS[name]
    model = seeded(toy.build)
    split = Split(model, images(), toy.layer)
    assert split.A.dtype == torch.float64 and (split.A >= 0).all() and split.A.shape[-1] == 8
    assert split.logits.std() > 0.05


@pytest.mark.parametrize("toy", TOYS)
def test_without_its_head_a_split_gives_the_same_and_refuses_the_rest(toy):
    model, x, y = seeded(TOYS[toy].build), images(), torch.tensor([1, 4, 0])
    whole, bare = Split(model, x, TOYS[toy].layer), Split(model, x, TOYS[toy].layer, head=False)
    assert torch.equal(bare.A, whole.A) and torch.equal(bare.logits, whole.logits) and torch.equal(bare.grad(y), whole.grad(y))
    with pytest.raises(ValueError, match="made without its head"):
        bare.head(bare.A)
    with pytest.raises(ValueError, match="made without its head"):
        bare.scores(bare.A, y, torch.arange(3))

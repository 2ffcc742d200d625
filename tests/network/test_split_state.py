"""The cut: modes, frozen parameters, errors; the model is left alone."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from toy_untidy import ATOL, replaced, Reused, untidy
from toys import CLASSES, TOYS, Bottleneck, VGGLike, images, seeded, state

from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.network.forward import evaluating
from xai_repro.network.layers import default_layer
from xai_repro.network.split import Split


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
        default_layer(seeded(VGGLike))  # without images nothing can be traced
    with pytest.raises(NotApplicable, match="no layer of Sequential gives maps that its logits read"):
        Split(nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)).double(), images())


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

"""LFI-CAM and the attention branch network: sizes, identities, gradients, and each formula written a second time."""

import pytest
import torch
import torch.nn.functional as F
import xai_repro as xr
from toy_attention import abn, lfi
from toys import images, seeded
from torch import nn
from torchvision.models.resnet import BasicBlock

from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.models import attention, backbones, load_model, model_names
from xai_repro.models.attention import all_logits, FeatureImportance, LFICAM, min_max
from xai_repro.models.zoo import build, size_of


def parameters(module):
    return sum(one.numel() for one in module.parameters())


# -- the Feature Importance Network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [256, 512, 1024, 2048])
def test_parameters_of_fin(channels):
    with torch.device("meta"):
        fin = FeatureImportance(channels)
        few = FeatureImportance(channels, relus=2)
        x = torch.zeros(2, channels, 14, 14)
        assert parameters(fin) == parameters(few) == 4 * (9 * channels**2 + 2 * channels)
        assert fin(x).shape == (2, channels)
        sizes = [tuple(layer(x).shape) for layer in fin if isinstance(layer, nn.Conv2d)]
    assert sizes == [(2, channels, 14, 14)] * 4  # as in table 1, which prints stride 0


def test_layers_of_fin_in_order():
    kinds = [type(one).__name__ for one in FeatureImportance(3)]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 4 + ["AdaptiveAvgPool2d", "Flatten", "Softmax"]
    kinds = [type(one).__name__ for one in FeatureImportance(3, relus=2)]
    assert kinds == (["Conv2d", "BatchNorm2d"] * 2 + ["ReLU"]) * 2 + ["AdaptiveAvgPool2d", "Flatten", "Softmax"]
    with pytest.raises(UnknownName, match="unknown number of ReLUs '3'"):
        FeatureImportance(3, relus=3)


# -- LFI-CAM ------------------------------------------------------------------------------------------------------------------


def plain_lfi(model, x):
    """The map as loops over images, channels and places, with FIN's own modules on what is written out here."""
    A = model.features(x)
    B, K, h, w = A.shape
    grey = F.interpolate(x.mean(1, keepdim=True), (h, w), mode="bilinear")
    shown = torch.zeros_like(A)
    for b in range(B):
        for k in range(K):
            least, most = A[b, k].min(), A[b, k].max()
            for i in range(h):
                for j in range(w):
                    scaled = 1.0 if most == least else (A[b, k, i, j] - least) / (most - least)
                    shown[b, k, i, j] = 0.0 if A[b, k, i, j] == 0 else scaled * grey[b, 0, i, j]
    weights = model.importance(shown)
    M = torch.zeros(B, h, w, dtype=A.dtype)
    for b in range(B):
        for k in range(K):
            M[b] += weights[b, k] * A[b, k]
        M[b] = M[b].clamp(min=0)
        if M[b].max() > M[b].min():
            M[b] = (M[b] - M[b].min()) / (M[b].max() - M[b].min())
    logits = torch.stack([model.backbone.fc(((1 + M[b]) * A[b]).mean((1, 2))) for b in range(B)])
    return weights, M, logits


def test_the_map_of_lfi_cam_written_out():
    model, x = seeded(lfi), images()
    with torch.no_grad():
        weights, M, logits = plain_lfi(model, x)
        torch.testing.assert_close(model.map(x), M)
        torch.testing.assert_close(model(x), logits)
    assert (weights >= 0).all() and torch.allclose(weights.sum(1), torch.ones(3, dtype=x.dtype))
    assert model.map(x).amin((1, 2)).tolist() == [0] * 3 and model.map(x).amax((1, 2)).tolist() == [1] * 3
    assert weights.std() > 1e-4


def test_without_attention_the_backbone_is_left():
    for toy in (lfi, abn):
        model, x = seeded(toy), images()
        assert not torch.allclose(model(x), model.backbone(x))
        model.attended.forward = lambda A, M: A + 0 * M * A
        torch.testing.assert_close(model(x), model.backbone(x))


def test_a_constant_importance_gives_the_mean_feature_map():
    model, x = seeded(lfi), images()
    model.importance.forward = lambda shown: torch.full(shown.shape[:2], 1 / shown.shape[1], dtype=shown.dtype)
    torch.testing.assert_close(model.map(x), min_max(model.features(x).mean(1)))
    ours = xr.explain(seeded(lfi).backbone, x, 0, "mean-features", layer="layer3")
    torch.testing.assert_close(xr.explain(model, x, 0, "lfi-cam"), xr.normalize(ours), atol=0.2, rtol=0)  # scaled before it is enlarged, not after


def test_negative_sums_show_nothing():
    model, x = seeded(lfi), images()
    A = torch.randn(model.features(x).shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)  # as before DenseNet's last ReLU
    with torch.no_grad():
        weighted = torch.einsum("bk,bkhw->bhw", model.weights(A, x), A)
        M = model.attention(A, x)[:, 0]
    assert (weighted < 0).any() and (M[weighted < 0] == 0).all() and (M[weighted > 0] > 0).all()


def channels_of(A, constant, dead):
    A = A.detach().clone()
    A[:, constant], A[:, dead] = 0.7, 0.0
    return A.requires_grad_()


def test_gradients_are_finite_with_a_constant_and_a_dead_channel():
    model, x = seeded(lfi), images()
    A = channels_of(model.features(x), 1, 2)
    seen = []
    model.importance.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    M = model.attention(A, x)
    (gradient,) = torch.autograd.grad(model._logits(model.attended(A, M)).sum(), A)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    grey = F.interpolate(x.mean(1, keepdim=True), A.shape[-2:], mode="bilinear")[:, 0]
    torch.testing.assert_close(seen[0][:, 1], grey)  # a constant channel is seen everywhere
    assert (seen[0][:, 2] == 0).all()  # a dead one nowhere


def test_gradients_are_finite_where_all_features_are_constant():
    model, x = seeded(lfi), images()
    A = torch.full_like(model.features(x), 0.3).requires_grad_()
    M = model.attention(A, x)
    torch.testing.assert_close(M, torch.full_like(M, 0.3))  # left as it is
    (gradient,) = torch.autograd.grad(model._logits(model.attended(A, M)).sum(), A)
    assert gradient.isfinite().all()
    A = torch.zeros_like(A).requires_grad_()
    M = model.attention(A, x)
    assert (M == 0).all()
    (gradient,) = torch.autograd.grad(model._logits(model.attended(A, M)).sum(), A)
    assert gradient.isfinite().all()


# -- the attention branch network --------------------------------------------------------------------------------------------


def test_the_branch_written_out():
    model, x = seeded(abn), images()
    with torch.no_grad():
        before = backbones.parts(model.backbone).before
        A = attention.run(before, x)
        [branch, logits], M = model.heads(x)
        h = model.norm(model.branch(A))
        h = torch.einsum("kc,bcij->bkij", model.to_classes[0].weight[:, :, 0, 0], h)
        h = model.to_classes[1](h).clamp(min=0)
        raw = F.conv2d(h, model.to_map[0].weight, padding=1)
        expected = 1 / (1 + torch.exp(-model.to_map[1](raw)))
        torch.testing.assert_close(M, expected)
        torch.testing.assert_close(branch, torch.einsum("kc,bcij->bkij", model.to_logits.weight[:, :, 0, 0], h).mean((2, 3)))
        last = model.backbone.layer3((1 + expected) * A)
        torch.testing.assert_close(logits, model.backbone.fc(last.mean((2, 3))))
        torch.testing.assert_close(model(x), logits)
    assert ((M > 0) & (M < 1)).all() and M.shape == (3, 1, *A.shape[-2:])
    assert model.branch[0].conv1.stride == (1, 1) and model.backbone.layer3[0].conv1.stride == (2, 2)
    assert not torch.equal(model.branch[0].conv1.weight, model.backbone.layer3[0].conv1.weight)


def test_the_branch_loss_alone_does_not_teach_the_map():
    model, x = seeded(abn).train(), images()
    [branch, logits], _ = model.heads(x)
    own = list(model.to_map.parameters())
    assert all(one is None or not one.any() for one in torch.autograd.grad(branch.logsumexp(1).sum(), own, allow_unused=True, retain_graph=True))
    assert all(one.any() for one in torch.autograd.grad(logits.logsumexp(1).sum(), own[:1]))


def test_what_training_makes_right():
    x = images()
    assert [len(all_logits(seeded(toy), x)) for toy in (lfi, abn)] == [1, 2]
    plain = backbones.small_resnet(BasicBlock, 1, 5)
    torch.testing.assert_close(all_logits(plain.double().eval(), x)[0], plain(x))


# -- around every backbone ------------------------------------------------------------------------------------------------------


def one_step(name, size, classes=7):
    model = build(name, classes)
    side, _ = size_of(name)
    assert side == size
    x, y = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = []
    for _ in range(2):
        loss = sum(F.cross_entropy(logits, y) for logits in all_logits(model.train(), x))
        optimizer.zero_grad()
        loss.backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] != losses[1]
    maps = xr.explain(model.eval(), x, None, "lfi-cam" if name.startswith("lfi") else "abn")
    assert maps.shape == (2, size, size) and (maps >= 0).all() and (maps <= 1).all() and maps.std() > 0
    return model, x


@pytest.mark.parametrize("kind", ["lfi", "abn"])
@pytest.mark.parametrize("backbone", ["cifar-resnet20", "cifar-se-resnet110", pytest.param("cifar-densenet100", marks=pytest.mark.slow), pytest.param("cifar-resnext29", marks=pytest.mark.slow)])
def test_a_step_with_every_backbone_at_32_pixels(kind, backbone):
    model, x = one_step(f"{kind}-{backbone}", 32)
    assert model.map(x).shape[-1] == (8 if kind == "lfi" or "densenet" in backbone else 16)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lfi", "abn"])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "resnext50_32x4d", "se-resnet18"])
def test_a_step_with_every_backbone_at_224_pixels(kind, backbone):
    model, x = one_step(f"{kind}-{backbone}", 224)
    assert model.map(x).shape[-1] == (7 if (kind, backbone) == ("abn", "densenet121") else 14)  # a 16th of the image, as in table 1; DenseNet is halved before its last stage


def test_channels_at_the_end_of_the_papers_backbones():
    channels = {name: backbones.parts(backbones.BACKBONES[name](10)).linear.in_features for name in ("resnet18", "cifar-resnet110", "cifar-resnext29", "cifar-densenet100")}
    assert channels == {"resnet18": 512, "cifar-resnet110": 256, "cifar-resnext29": 1024, "cifar-densenet100": 342}  # as in the released code


def test_se_scales_channels_by_their_means():
    block = seeded(lambda: backbones.SEBasicBlock(6, 6))
    norm, squeeze = block.bn2
    x = torch.rand(2, 6, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        inner = norm(block.conv2(block.bn1(block.conv1(x)).relu()))
        hidden = (inner.mean((2, 3)) @ squeeze.fc1.weight[:, :, 0, 0].T + squeeze.fc1.bias).relu()
        scale = (hidden @ squeeze.fc2.weight[:, :, 0, 0].T + squeeze.fc2.bias).sigmoid()
        torch.testing.assert_close(block(x), (x + inner * scale[..., None, None]).relu())


def test_other_networks_have_no_place_for_attention():
    with pytest.raises(NotApplicable, match="attention is put into ResNets .* and DenseNets; this is VGG"):
        LFICAM(load_model("mini-vgg", "random"))


# -- by name ----------------------------------------------------------------------------------------------------------------------


def test_names():
    assert {"mini-lfi", "mini-abn", "mini-basic", "lfi-resnet50", "abn-cifar-resnet110", "se-resnet50", "resnet50"} <= set(model_names())
    model = load_model("lfi-cifar-resnet20")
    assert model.input_size == 32 and isinstance(model, LFICAM) and not model.training and model.name == "lfi-cifar-resnet20"
    assert load_model("lfi-cifar-resnet20").fingerprint == model.fingerprint
    with pytest.raises(UnknownName, match="did you mean 'lfi-resnet50'"):
        load_model("lfi-resnet5")
    assert backbones.stem(load_model("lfi-resnet18")).stride == (1, 1) and backbones.stem(load_model("abn-resnet18")).stride == (2, 2)


def test_maps_are_for_no_class_and_other_networks_have_none():
    x = images()
    for name, toy, other in (("lfi-cam", lfi, abn), ("abn", abn, lfi)):
        model = seeded(toy)
        assert torch.equal(xr.explain(model, x, 0, name), xr.explain(model, x, 3, name))
        with pytest.raises(NotApplicable, match=f"{name} is the map of a network that was trained with it"):
            xr.explain(seeded(other), x, 0, name)
        small = model.map(x)
        assert xr.explain(model, x, 0, name).amax() <= small.amax() + 1e-9

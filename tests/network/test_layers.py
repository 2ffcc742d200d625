"""Which layer is explained where none is named, how layers are named, and in which form they hold their maps."""

import pytest
import torch
import torchvision
import xai_repro as xr
from torch import nn
from toys import CLASSES, TOYS, GapLinear, VGGLike, images, seeded, state, Y

from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.network import layers
from xai_repro.network.layers import default_layer, place, stages
from xai_repro.network.layout import layout_of
from xai_repro.network.split import Split

# Of timm, one small network of a family each, and the layer that its maps are expected of.
TIMM = {
    "resnet18": "layer4", "vgg11": "features.19", "densenet121": "features", "mobilenetv3_small_100": "blocks", "efficientnet_lite0": "bn2",
    "convnext_atto": "stages", "regnety_002": "s4", "inception_v3": "Mixed_7c", "ghostnet_100": "blocks", "repvgg_a0": "stages",
    "dla34": "level5", "poolformer_s12": "stages", "vit_tiny_patch16_224": "blocks.11.norm1", "deit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1", "vit_base_patch32_clip_224": "blocks.11.norm1", "swin_tiny_patch4_window7_224": "norm",
    "swinv2_tiny_window8_256": "norm", "cait_xxs24_224": "blocks_token_only.1.norm1", "mixer_s32_224": "norm", "pvt_v2_b0": "stages",
    "mambaout_femto": "stages", "coat_lite_tiny": "serial_blocks4.1.norm1", "mobilevit_xxs": "final_conv", "levit_128s": "stages",
}  # fmt: skip
TORCHVISION = {
    "alexnet": "features.11", "convnext_tiny": "features", "densenet121": "features", "efficientnet_b0": "features", "googlenet": "inception5b",
    "inception_v3": "Mixed_7c", "maxvit_t": "blocks.3", "mnasnet0_5": "layers", "mobilenet_v2": "features", "mobilenet_v3_small": "features",
    "regnet_y_400mf": "trunk_output", "resnet18": "layer4", "resnext50_32x4d": "layer4", "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": "classifier.2", "swin_t": "permute", "swin_v2_t": "permute", "vgg11": "features.19", "vgg11_bn": "features.27",
    "vit_b_32": "encoder.layers.encoder_layer_11.ln_1", "wide_resnet50_2": "layer4",
}  # fmt: skip


def network(make):
    """With random weights; layers that start at zero get weights, too, since behind them nothing reaches the logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        for p in model.parameters():
            if p.dim() > 1 and not p.any():
                nn.init.normal_(p, 0, 0.02)
    return model


def explains(model, layer, size):
    """The layer is found, its maps lie where the image changed, and a map comes out."""
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert default_layer(model, x) == layer
    split = Split(model, x, head=False)
    h, w = split.A.shape[2:]
    assert h == w > 1 and split.A.shape[1] > h
    other = x.clone()
    other[..., : size // 2, size // 2 :] += 3 * torch.randn(1, 3, size // 2, size - size // 2, generator=torch.Generator().manual_seed(2))
    change = (Split(model, other, layer, head=False).A - split.A).abs().sum((0, 1))
    quarters = change[: h // 2, w - w // 2 :].mean(), change[h - h // 2 :, : w // 2].mean()
    assert quarters[0] > quarters[1], "upper right changed, and the maps changed elsewhere"
    maps = xr.explain(model, x, method="grad-cam")
    assert maps.shape == (1, size, size) and torch.isfinite(maps).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm(name):
    timm = pytest.importorskip("timm")
    model = network(lambda: timm.create_model(name, pretrained=False))
    explains(model, TIMM[name], model.default_cfg["input_size"][-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision(name):
    model = network(lambda: torchvision.models.get_model(name, weights=None, **({"init_weights": True} if name in ("googlenet", "inception_v3") else {})))
    size = 299 if name == "inception_v3" else 256 if name == "swin_v2_t" else 224
    explains(model, TORCHVISION[name], size)
    known = layers.listed(model, layers.DEFAULT_LAYERS)
    assert known in (None, layers._known(model, torch.randn(1, 3, size, size))[-1]), "what is known without a trace is what it finds"


# -- the trace, on toys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toy, layer", [("vgg", "features.4"), ("residual", "layer1"), ("gap", "features"), ("functional", "conv3")])
def test_toys(toy, layer):
    model, x = seeded(TOYS[toy].build), images()
    model.train()
    before = state(model)
    assert default_layer(model, x) == layer and state(model) == before
    maps = xr.explain(model, x, Y, "grad-cam")
    assert torch.equal(maps, xr.explain(model, x, Y, "grad-cam", layer=layer)) and maps.any()


def test_stages_of_a_network_that_no_table_knows():
    model, x = seeded(lambda: nn.Sequential(*[nn.Sequential(nn.Conv2d(c, 6, 3, 2, 1), nn.ReLU(True), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU(True))
                                              for c in (3, 6, 6, 6, 6)], nn.Flatten(), nn.Linear(24, CLASSES))), images(size=64)  # fmt: skip
    assert stages(model, "all", x) == ["1", "2", "3", "4"]  # and not the finest
    assert stages(model, 2, x) == ["3", "4"]
    with pytest.raises(ValueError, match="Sequential has 4 stages: 1, 2, 3, 4"):
        stages(model, 5, x)
    assert xr.explain(model, x, Y, "collection-cam").shape == (3, 64, 64)
    assert stages(seeded(VGGLike), "all", images()) == ["features.2", "features.4"]  # of a shallow stage, what its pooling gives


def test_found_once_and_again_after_surgery(monkeypatch):
    model, traced = seeded(GapLinear), []
    monkeypatch.setattr(layers, "_trace", lambda *args, trace=layers._trace: traced.append(1) or trace(*args))
    for _ in range(2):
        assert default_layer(model, images()) == "features"
    assert len(traced) == 1
    model.features = nn.Sequential(*model.features, nn.Sequential(nn.Conv2d(6, 6, 1).double(), nn.ReLU()))
    model.pool = nn.AdaptiveAvgPool2d(1)
    assert default_layer(model, images()) == "features" and len(traced) == 2


def test_a_class_of_the_same_name_is_not_torchvisions():
    class ResNet(GapLinear):
        pass

    assert layers.listed(ResNet(), layers.DEFAULT_LAYERS) is None and default_layer(seeded(ResNet), images()) == "features"

    class Shorter(torchvision.models.ResNet):
        def __init__(self):
            super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
            del self.layer4
            self.fc = nn.Linear(256, 10)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
            return self.fc(self.avgpool(x).flatten(1))

    assert default_layer(Shorter(), images(size=64, dtype=torch.float32)) == "layer3"


def test_what_has_no_maps_is_refused_in_words():
    flat = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)))
    with pytest.raises(NotApplicable, match="no layer of Sequential gives maps that its logits read: there are no channels"):
        xr.explain(flat, images(), 0, "grad-cam")
    dead = seeded(GapLinear)
    nn.init.zeros_(dead.fc.weight)
    with pytest.raises(NotApplicable, match="do not change with any of them .is the last layer zero.."):
        xr.explain(dead, images(), 0, "grad-cam")


def test_a_blank_image_is_no_obstacle():
    model = seeded(lambda: GapLinear(bias=False))
    assert default_layer(model, torch.zeros(1, 3, 16, 16, dtype=torch.float64)) == "features"


# -- names --------------------------------------------------------------------------------------------------------------------


def test_layers_may_be_given_as_modules():
    model, x = seeded(VGGLike), images()
    by_name = xr.explain(model, x, Y, "lift-cam", layer="features.3")
    assert torch.equal(xr.explain(model, x, Y, "lift-cam", layer=model.features[3]), by_name)
    two = xr.explain(model, x, Y, "grad-cam", layers=[model.features[1], "features.4"])
    assert torch.equal(two, xr.explain(model, x, Y, "grad-cam", layers=["features.1", "features.4"]))
    for stranger in (nn.Conv2d(3, 3, 1), model):
        with pytest.raises(UnknownName, match="no module of this model"):
            place(model, stranger)
    for wrong in (3, b"features.3", ["features.3"], ""):
        with pytest.raises(UnknownName, match="unknown layer"):
            place(model, wrong)


class Thrice(nn.Module):
    """One ReLU module that runs three times, as in a ResNet block."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 3)
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(6, CLASSES)

    def forward(self, x):
        a = self.act(self.one(x))
        b = self.act(self.two(a))
        return self.fc(self.act(self.three(b)).mean((2, 3)) + a.mean((1, 2, 3))[:, None])


class Apart(Thrice):
    """The same with three modules."""

    def __init__(self):
        super().__init__()
        self.act0, self.act1, self.act2 = (nn.ReLU() for _ in range(3))

    def forward(self, x):
        a = self.act0(self.one(x))
        b = self.act1(self.two(a))
        return self.fc(self.act2(self.three(b)).mean((2, 3)) + a.mean((1, 2, 3))[:, None])


@pytest.mark.parametrize("method", ["grad-cam", "lift-cam", "ablation-cam", "shap-cam", "score-cam", "layer-cam"])
@pytest.mark.parametrize("call, same", [("#0", "act0"), ("#1", "act1"), ("#2", "act2"), ("#-1", "act2"), ("#-2", "act1"), ("#-3", "act0")])
def test_a_layer_that_runs_several_times_is_explained_at_a_chosen_call(call, same, method):
    model, apart, x = seeded(Thrice), seeded(Apart), images()
    few = {"permutations": 3} if method == "shap-cam" else {}
    before = state(model)
    got = xr.explain(model, x, Y, method, layer=f"act{call}", **few)
    torch.testing.assert_close(got, xr.explain(apart, x, Y, method, layer=same, **few), rtol=1e-12, atol=1e-14)
    assert state(model) == before


def test_a_module_that_runs_several_times_is_found_with_its_call():
    model, apart, x = seeded(Thrice), seeded(Apart), images()
    assert default_layer(model, x) == "act#2" and default_layer(apart, x) == "act2"
    torch.testing.assert_close(xr.explain(model, x, Y, "grad-cam"), xr.explain(apart, x, Y, "grad-cam"))
    both = xr.explain(model, x, Y, "layer-cam", layers=["act#0", "act#2"])
    torch.testing.assert_close(both, xr.explain(apart, x, Y, "layer-cam", layers=["act0", "act2"]))
    with pytest.raises(ValueError, match="'act' runs several times in one forward pass: say which, act#0"):
        xr.explain(model, x, Y, "layer-cam", layers=["one", "act"])
    with pytest.raises(ValueError, match="'act#-1' counts calls from the last; of several layers only the first may"):
        xr.explain(model, x, Y, "layer-cam", layers=["one", "act#-1"])


def test_calls_that_do_not_exist():
    model, x = seeded(Thrice), images()
    with pytest.raises(ValueError, match="'act' runs 3 times in one forward pass: say which, act#0 for the first or act#-1 for the last"):
        Split(model, x, "act")
    for wrong in ("act#3", "act#-4", "one#1"):
        with pytest.raises(ValueError, match=f"'{wrong}' runs . times? in one forward pass, that call is not among them"):
            Split(model, x, wrong)
    with pytest.raises(ValueError, match="names call 'last'; a number is needed, such as act#0"):
        Split(model, x, "act#last")
    with pytest.raises(UnknownName, match="unknown layer 'akt#0'"):
        Split(model, x, "akt#0")


# -- where the channels are -----------------------------------------------------------------------------------------------------


def form(shape, size, module=nn.Identity(), model=nn.Identity(), asked=None):
    found = layout_of(torch.zeros(2, *shape), torch.zeros(2, 3, *size), module, "layer", model, asked)
    return found.kind, found.prefix, found.grid


def test_shapes_decide_where_they_can():
    assert form((768, 7, 7), (224, 224))[0] == form((512, 1, 8), (128, 1024))[0] == form((2048, 8, 17), (299, 598))[0] == "channels-first"
    assert form((7, 7, 768), (224, 224))[0] == form((64, 64, 96), (256, 256))[0] == form((4, 8, 5), (64, 128))[0] == "channels-last"
    for tokens, size, expected in ((197, (224, 224), (1, (14, 14))), (198, (224, 224), (2, (14, 14))), (49, (224, 224), (0, (7, 7))),
                                   (201, (224, 224), (5, (14, 14))), (99, (112, 224), (1, (7, 14))), (10, (48, 48), (1, (3, 3))), (257, (224, 224), (1, (16, 16)))):  # fmt: skip
        assert form((tokens, 64), size) == ("tokens", *expected)


def test_kinds_decide_where_shapes_do_not():
    assert form((8, 8, 8), (64, 64), nn.Conv2d(3, 8, 3))[0] == form((8, 8, 8), (64, 64), model=GapLinear())[0] == "channels-first"
    assert form((8, 8, 8), (64, 64), nn.LayerNorm(8))[0] == form((8, 8, 8), (64, 64), nn.Sequential(nn.LayerNorm(8)))[0] == "channels-last"
    assert form((8, 8, 8), (64, 64), asked="channels-last")[0] == "channels-last"
    mixed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(8))
    with pytest.raises(ValueError, match=r"'layer' gives \[2, 8, 8, 8\] for \[64, 64\] pixels, .* say layout='channels-first'"):
        form((8, 8, 8), (64, 64), model=mixed)
    with pytest.raises(ValueError, match="these are no tokens of a grid over"):
        form((77, 64), (224, 224))
    with pytest.raises(UnknownName, match="unknown layout 'NHWC'"):
        form((8, 8, 8), (64, 64), asked="NHWC")
    with pytest.raises(ValueError, match=r"a cut needs activations .*; layout is tokens"):
        form((8, 8, 8), (64, 64), asked="tokens")


class Turned(nn.Module):
    """A network whose middle layer holds its maps in another form: as they are, channels last, or tokens behind two others."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.stem, self.middle, self.top, self.fc = kind, nn.Conv2d(3, 6, 3, 2, 1), nn.Identity(), nn.Conv2d(6, 7, 3, 2, 1), nn.Linear(7, CLASSES)
        self.others = nn.Parameter(torch.randn(1, 2, 6))

    def forward(self, x):
        h = self.stem(x).relu()
        more = 0
        if self.kind == "channels-last":
            h = self.middle(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        elif self.kind == "tokens":
            tokens = self.middle(torch.cat([self.others.expand(len(x), -1, -1) * x.mean((1, 2, 3))[:, None, None], h.flatten(2).mT], 1))
            more, h = tokens[:, :2].sum((1, 2))[:, None], tokens[:, 2:].mT.unflatten(2, h.shape[2:])
        else:
            h = self.middle(h)
            more = (self.others * x.mean((1, 2, 3))[:, None, None]).sum((1, 2))[:, None]
        return self.fc(self.top(h).relu().mean((2, 3))) + more


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "layer-cam", "lift-cam", "shap-cam", "ablation-cam", "score-cam", "kshap-cam", "lime-cam"])
def test_maps_do_not_depend_on_the_form_that_a_layer_holds_them_in(method, size):
    few = {"permutations": 3} if method == "shap-cam" else {"samples": 20} if method in ("lime-cam", "kshap-cam") else {}
    x = torch.cat([images(), images(seed=5)], 3)[..., : size[1]]
    plain = seeded(lambda: Turned("tokens"))  # the same random weights in all forms
    plain.kind = "channels-first"
    expected = xr.explain(plain, x, Y, method, layer="middle", layout="channels-first", **few)
    assert expected.any()
    for kind in ("channels-last", "tokens"):
        model = seeded(lambda: Turned(kind))
        for layout in (kind, None) if kind == "tokens" or size[0] != size[1] else (kind,):
            got = xr.explain(model, x, Y, method, layer="middle", layout=layout, **few)
            if kind == "channels-last":  # without the other tokens' share, which is the same for all activations
                plain_last = seeded(lambda: Turned("channels-last"))
                torch.testing.assert_close(got, xr.explain(plain_last, x, Y, method, layer="middle", layout=kind, **few))
                continue
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_several_layers_in_different_forms():
    model, x = seeded(lambda: Turned("tokens")), images()
    two = xr.explain(model, x, Y, "layer-cam", layers=["middle", "top"])
    one = xr.explain(model, x, Y, "layer-cam", layers=["middle"])
    assert two.shape == (3, 16, 16) and not torch.equal(one, two)
    assert xr.explain(model, x, Y, "collection-cam", layers=["middle", "top"]).any()

"""CLAM: where its layers lie, what a mask does to relevance, and what it refuses."""

from functools import partial

import pytest
import torch
import torchvision
import xai_repro as xr
from safetensors.torch import save_file
from torch import nn

from xai_repro.bench.measure import flops
from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.methods import cla, clam, clam_layers

SIDE = 96


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    net = torchvision.models.vgg16(weights=None)
    net.features = nn.Sequential(*[shrunk(module) for module in net.features])
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    return net.eval()


def shrunk(module):
    return nn.Conv2d(3 if module.in_channels == 3 else 8, 8, 3, padding=1) if isinstance(module, nn.Conv2d) else module


def images(n=2):
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def fitted(model, x, layers="full", strength=None, classes=5, seed=0):
    """CLA-layers that have learnt nothing: random attributes of the sizes of the network."""
    generator, found = torch.Generator().manual_seed(seed), {}
    sizes = {name: shape[1] for name, shape in shapes(model, x).items()}
    for one in clam_layers.specs(model, x, layers, classes):
        K = sizes[one.name] + 1
        pairs = [(torch.randn(K, K, generator=generator), torch.randn(K, generator=generator)) for _ in range(2)]
        attributes = torch.rand(one.number, K, one.a, one.a, generator=generator)
        found[one.name] = cla.CLA(attributes, *pairs, cla.class_patterns(classes, one.p, generator), strength or one.strength)
    return found


def shapes(model, x):
    found, hooks = {}, []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_hook(lambda module, args, output, name=name: found.update({name: tuple(output.shape)})))
    model(x)
    [hook.remove() for hook in hooks]
    return found


def kept(model, learnt, path, base="clrp", layers="full", network=None):
    save_file(clam.packed(learnt), path, {"network": network or clam.network_of(model), "base": base, "layers": layers})
    return str(path)


# -- where the layers lie ---------------------------------------------------------------------------------------------------


def test_the_papers_layers_of_vgg16():
    model, x = torchvision.models.vgg16(weights=None), torch.zeros(1, 3, 224, 224)
    full, core = (clam_layers.specs(model, x, layers) for layers in ("full", "core"))
    assert [one.name for one in full] == [f"features.{n}" for n in (29, 27, 25, 22, 20, 18, 15, 13, 11, 8, 6, 3, 1)]
    assert [one.name for one in core] == [f"features.{n}" for n in (29, 22, 15, 8, 3)]
    assert [(one.number, one.p, one.a, one.strength) for one in full[-2:]] == [(15, 14, 6, 1.15)] * 2
    assert [(one.number, one.p, one.a, one.strength) for one in core] == [(5, 4, 1, 1.25), (5, 5, 2, 1.18), (8, 7, 3, 1.15), (10, 11, 5, 1.15), (15, 14, 6, 1.1)]
    assert [one.p for one in clam_layers.specs(model, x, classes=1000)][:4] == [4, 4, 4, 5]  # 512 patterns of 3 x 3 are too few
    small = clam_layers.specs(xr.load_model("mini-vgg", device="cpu"), torch.zeros(1, 3, 96, 96))
    assert [(one.p, one.a) for one in small] == [(2, 1)] * 6 + [(3, 1)] * 3 + [(5, 2)] * 2 + [(6, 3)] * 2


def test_the_papers_layers_of_resnet50():
    model, x = torchvision.models.resnet50(weights=None), torch.zeros(1, 3, 224, 224)
    full, core = (clam_layers.specs(model, x, layers) for layers in ("full", "core"))
    assert len(full) == 32 and len(core) == 16 and full[0].name == "layer4.2" and full[1].name == "layer4.2.conv2"
    assert [(one.name, one.number, one.p, one.a, one.strength) for one in full[-2:]] == [("layer1.0", 11, 7, 3, 1.1), ("layer1.0.conv2", 13, 7, 3, 1.1)]
    assert [one.number for one in core] == [5] * 9 + [7] * 4 + [11] * 3
    for other in (torchvision.models.resnet18(weights=None), torchvision.models.vgg11(weights=None), torchvision.models.alexnet(weights=None)):
        with pytest.raises(NotApplicable, match="sizes of CLAM"):
            clam_layers.specs(other, x)
    with pytest.raises(UnknownName, match="unknown layers of CLAM 'most'; possible: full, core"):
        clam_layers.specs(model, x, "most")


# -- the map ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", clam.BASES)
def test_a_strength_of_1_is_the_base(vgg, tmp_path, base):
    x = images()
    path = kept(vgg, fitted(vgg, x), tmp_path / "a.safetensors", base)
    plain = xr.explain(vgg, x, None, base, **({"contrast": "logits"} if base == "clrp" else {}))
    torch.testing.assert_close(clam.clam(vgg, x, None, base=base, attributes=path, strength=1.0), plain, rtol=0, atol=0)
    stronger = clam.clam(vgg, x, None, base=base, attributes=path, strength=1.3)
    assert not torch.allclose(stronger, plain, rtol=1e-3)
    if base == "lrp":  # of which nothing is negative
        assert (stronger >= plain * (1 - 1e-5)).all() and stronger.sum() > 1.2 * plain.sum()


def test_with_clrp_nothing_is_negative(vgg, tmp_path):
    x = images()
    path = kept(vgg, fitted(vgg, x), tmp_path / "a.safetensors", "clrp")
    for y in range(5):
        found, plain = clam.clam(vgg, x, torch.tensor([y, y]), attributes=path, strength=1.0), xr.explain(vgg, x, y, "clrp", contrast="logits")
        assert (found >= 0).all() and torch.equal(found, plain)
    raw = [clam.relevance(vgg, x, torch.tensor([y, y]), clam.table("alpha1beta0", "z-box"), clam.against_logits)[0].sum(1) for y in range(5)]
    assert any((one < 0).any() for one in raw)


def test_masks_lie_where_the_nearest_patches_are(vgg, tmp_path):
    """With one layer of attributes, by hand: relevance is stopped there, multiplied, and sent on."""
    from xai_repro.methods.relevance import one_hot, table
    from xai_repro.network.propagate import relevance

    x, y = images(), torch.tensor([3, 0])
    learnt = fitted(vgg, x, "core")
    path = kept(vgg, learnt, tmp_path / "a.safetensors", "lrp", "core")
    seen = {}

    def by_hand(A, R, y, name):
        one = learnt[name]
        d = cla.mean_distances(A, y, one)
        mask = torch.ones(len(A), 1, *A.shape[-2:], dtype=torch.float64)
        for b in range(len(A)):
            for n in range(len(one.attributes)):
                least = min(((float(d[b, n, i, j]), i, j) for i in range(d.shape[2]) for j in range(d.shape[3])))
                mask[b] *= cla.strengthened(torch.tensor([[least[1:]]]), one.p, A.shape[-2:], 1.2)[0]
        seen[name] = R
        return R * mask.to(R)

    at = {one.name: partial(by_hand, name=one.name) for one in clam_layers.specs(vgg, x, "core")}
    expected = relevance(vgg, x, y, table("alpha1beta0", "z-box"), one_hot, at=at)[0].sum(1)
    torch.testing.assert_close(clam.clam(vgg, x, y, base="lrp", layers="core", attributes=path), expected)
    assert list(seen) == [f"features.{n}" for n in (29, 22, 15, 8, 3)]


def test_the_strength_is_less_than_in_training_where_there_are_many_layers(vgg, tmp_path):
    x = images(1)
    full = kept(vgg, fitted(vgg, x, strength=1.25), tmp_path / "full.safetensors")
    core = kept(vgg, fitted(vgg, x, "core", strength=1.4), tmp_path / "core.safetensors", layers="core")
    for path, layers, strength in ((full, "full", 1.2), (core, "core", 1.2)):
        found = clam.clam(vgg, x, None, layers=layers, attributes=path)
        torch.testing.assert_close(found, clam.clam(vgg, x, None, layers=layers, attributes=path, strength=strength), rtol=1e-5, atol=1e-9)


def test_cost_over_all_layers_of_vgg16(tmp_path):
    torch.manual_seed(0)
    model, x = torchvision.models.vgg16(weights=None).eval(), torch.randn(1, 3, 224, 224)
    path = kept(model, fitted(model, x, classes=1000), tmp_path / "a.safetensors", "lrp")
    unit = flops(lambda: model(x))
    more = flops(lambda: clam.clam(model, x, torch.tensor([7]), base="lrp", attributes=path)) - flops(lambda: xr.explain(model, x, 7, "lrp"))
    assert 0.5 < more / unit <= 2


# -- what is refused --------------------------------------------------------------------------------------------------------


def test_attributes_of_something_else_are_refused(vgg, tmp_path):
    x = images(1)
    path = kept(vgg, fitted(vgg, x), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="fitted to something else: base clrp in place of lrp"):
        clam.clam(vgg, x, None, base="lrp", attributes=path)
    other = kept(vgg, fitted(vgg, x), tmp_path / "b.safetensors", network="another")
    with pytest.raises(ValueError, match="something else: network another in place of"):
        clam.clam(vgg, x, None, attributes=other)
    with pytest.raises(FileNotFoundError, match="no attributes file or folder .*none.safetensors; `xai-repro fit clam`"):
        clam.clam(vgg, x, None, attributes=str(tmp_path / "none.safetensors"))
    with pytest.raises(NotApplicable, match="needs attributes that were fitted to this network, with base sglrp and layers core"):
        clam.clam(vgg, x, None, base="sglrp", layers="core")
    with pytest.raises(UnknownName, match="unknown base of CLAM 'lpr'"):
        clam.clam(vgg, x, None, base="lpr")
    with pytest.raises(UnknownName, match="unknown mask 'middle'"):
        clam.clam(vgg, x, None, mask="middle", attributes=path)


def test_a_folder_may_hold_other_files_and_damaged_ones(vgg, tmp_path):
    x = images(1)
    kept(vgg, fitted(vgg, x), tmp_path / "b.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"none")
    kept(vgg, fitted(vgg, x), tmp_path / "aa.safetensors", network="another")
    assert clam.file_of(vgg, "clrp", "full", tmp_path) == tmp_path / "b.safetensors"
    with pytest.raises(ValueError, match="a.safetensors is not a whole .safetensors file"):
        clam.file_of(vgg, "clrp", "full", tmp_path / "a.safetensors")


def test_a_file_of_a_fit_that_was_interrupted_is_refused(vgg, tmp_path):
    x = images(1)
    learnt = fitted(vgg, x, "core")
    path = kept(vgg, dict(list(learnt.items())[:2]), tmp_path / "a.part", layers="core")
    with pytest.raises(ValueError, match="the attributes lack 3 of 5 layers, such as features.15"):
        clam.clam(vgg, x, None, layers="core", attributes=path)


@pytest.mark.parametrize(("hyper", "said"), [
    ({"strength": "high"}, "strength of CLAM is 'high'"), ({"strength": float("nan")}, "a finite number is needed"), ({"strength": -1}, "cannot be negative"), ({"attributes": 3}, "attributes is 3 .*a path is needed"),
])  # fmt: skip
def test_hyper_parameters_of_another_kind_are_refused(vgg, hyper, said):
    with pytest.raises(ValueError, match=said):
        xr.explain(vgg, images(1), None, "clam", **hyper)


def test_packing_keeps_all_that_half_precision_holds(vgg):
    learnt = clam.unpacked(clam.packed(fitted(vgg, images(1))))  # rounded once
    again = clam.unpacked(clam.packed(learnt))
    assert list(again) == list(learnt)
    for name, one in learnt.items():
        for mine, theirs in zip((one.attributes, *one.first, *one.second, one.patterns), (again[name].attributes, *again[name].first, *again[name].second, again[name].patterns)):
            assert torch.equal(mine, theirs)
        assert again[name].strength == pytest.approx(one.strength)

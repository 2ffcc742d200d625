"""What a researcher's own network is: another output, one logit, half precision, other channels, compiled, quantised, and errors of its own."""

import copy
import warnings

import numpy as np
import pytest
import torch
import xai_repro as xr
from contract import ANYWHERE, CHEAP
from torch import nn
from toys import CLASSES, SIZE, TOYS, GapLinear, VGGLike, images, seeded, state, Y

from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.network.forward import predict

CAMS = ["grad-cam", "lift-cam", "layer-cam", "score-cam"]
GRADIENTS = ["gradient", "guided-backprop", "integrated-gradients", "smoothgrad", "rise", "xrai"]


def options(name, layer="features.4"):
    known = xr.method_info(name).hyper
    return {key: value for key, value in CHEAP.items() if key in known} | ({"layer": layer} if "layer" in known else {"layers": [layer]} if "layers" in known else {})


# -- what it gives ------------------------------------------------------------------------------------------------------------


class Gives(nn.Module):
    """A network whose logits lie in what it gives."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = VGGLike(), form

    def forward(self, x):
        return self.form(self.net(x))


OUTPUTS = {
    "dictionary": (lambda logits: {"out": logits, "aux": None}, lambda out: out["out"]),
    "tuple": (lambda logits: (logits, logits * 0), lambda out: out[0]),
    "segmentation": (lambda logits: {"out": logits[:, :, None, None] * torch.ones(2, 2).to(logits)}, lambda out: out["out"].mean((2, 3))),
    "one number": (lambda logits: logits[:, 0], lambda out: out[:, None]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", [*CAMS, "gradient", "rise", "collection-cam"])
def test_output_says_where_the_logits_are(kind, name):
    form, output = OUTPUTS[kind]
    model, x = seeded(lambda: Gives(form)), images()
    plain = seeded(lambda: Gives(lambda logits: logits[:, :1] if kind == "one number" else logits))
    y, given = torch.zeros(3, dtype=torch.long) if kind == "one number" else Y, options(name, "net.features.4")
    before = state(model)
    torch.testing.assert_close(xr.explain(model, x, y, name, output=output, **given), xr.explain(plain, x, y, name, **given))
    torch.testing.assert_close(xr.explain(model, x, None, name, output=output, **given), xr.explain(plain, x, None, name, **given))
    with pytest.raises(ValueError, match="the model gives .*say with output=... how they come from it, as in lambda out: out"):
        xr.explain(model, x, y, name, **given)
    assert state(model) == before


def test_output_for_scores_coefficients_and_all_methods():
    form, output = OUTPUTS["dictionary"]
    model, x = seeded(lambda: Gives(form)), images()
    plain = seeded(lambda: Gives(lambda logits: logits))
    maps = xr.normalize(x[:, 0])
    for metric in ("average-drop", "insertion", "overall"):
        torch.testing.assert_close(xr.score(metric, model, x, Y, maps, output=output), xr.score(metric, plain, x, Y, maps))
    sanity = {"method": "gradient", "seed": 3}
    torch.testing.assert_close(xr.score("sanity-cascading", model, x, Y, maps, output=output, **sanity), xr.score("sanity-cascading", plain, x, Y, maps, **sanity))
    torch.testing.assert_close(xr.coefficients(model, x, Y, layer="net.features.4", output=output), xr.coefficients(plain, x, Y, layer="net.features.4"))
    maps, reasons = xr.explain_all(model, x, Y, ["grad-cam", "gradient", "random"], "net.features.4", output=output)
    assert list(maps) == ["grad-cam", "gradient", "random"] and not reasons


class Record(dict):
    """What transformers give."""

    logits = property(lambda self: self["logits"])


@pytest.mark.parametrize("form", [lambda logits: Record(logits=logits), lambda logits: {"logits": logits, "loss": None}])
def test_logits_by_name_are_found(form):
    model, x = seeded(lambda: Gives(form)), images()
    assert torch.equal(xr.explain(model, x, Y, "gradient"), xr.explain(model.net, x, Y, "gradient"))


# -- one logit ----------------------------------------------------------------------------------------------------------------


class Binary(GapLinear):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 1)


def test_one_logit_is_a_probability_by_sigmoid():
    model, x = seeded(Binary), images()
    x[:, :, 8:] = -x[:, :, 8:]
    y, half = torch.zeros(3, dtype=torch.long), torch.zeros(3, SIZE, SIZE, dtype=torch.float64)
    half[:, :8] = 1
    p = [model(x * mask[:, None]).sigmoid()[:, 0].detach() for mask in (torch.ones_like(half), half, 1 - half)]
    torch.testing.assert_close(xr.score("average-drop", model, x, y, half), ((p[0] - p[1]).clamp(min=0) / p[0]))
    torch.testing.assert_close(xr.score("average-drop-in-deletion", model, x, None, half), (p[0] - p[2]) / p[0])
    assert (xr.score("insertion", model, x, y, half) < 1).all()
    for name in ("grad-cam", "score-cam", "rise", "gradient", "collection-cam"):
        assert xr.explain(model, x, y, name, **options(name, "features.3")).shape == (3, SIZE, SIZE)
    alpha = xr.coefficients(model, x, y, "score-cam", layer="features.3")
    assert ((0 < alpha) & (alpha < 1)).any() and alpha.std() > 1e-6, "a softmax over one class would be 1"
    with pytest.raises(ValueError, match="class 1; the model has classes 0 to 0"):
        xr.explain(model, x, 1, "grad-cam")


# -- precisions and channels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ANYWHERE)
def test_half_precision_is_near_single(name, dtype):
    """Sums are made in float32, so that what is left is the rounding of the network's own numbers."""
    model, x = seeded(TOYS["gap"].build, dtype=torch.float32), images(dtype=torch.float32)
    half, given = copy.deepcopy(model).to(dtype), options(name, "features.3")
    if "steps" in given:
        given["steps"] = 50
    if name == "smoothgrad":
        given["samples"] = 25
    expected = xr.explain(model, x.to(dtype).float(), Y, name, **given)
    got = xr.explain(half, x, Y, name, **given)
    assert got.dtype == torch.float32 and got.shape == expected.shape
    miss = ((got - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).median()
    discrete = 0.5 if name in ("collection-cam", "xrai", "lime-cam", "kshap-cam", "shap-cam") else 1  # of which some regions or fits are others
    assert miss < (0.05 if dtype == torch.bfloat16 else 0.01) / discrete


class Channels(nn.Module):
    """Takes grey images, or images with a fourth channel."""

    def __init__(self, channels):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1), nn.ReLU())
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", ANYWHERE)
def test_images_of_other_channels(name, channels):
    model, x = seeded(lambda: Channels(channels)), torch.cat([images(), images(seed=7)], 1)[:, :channels]
    maps = xr.explain(model, x, Y, name, **options(name, "features.3"))
    assert maps.shape == (3, SIZE, SIZE) and torch.isfinite(maps).all()


@pytest.mark.parametrize("metric", ["average-drop", "insertion", "deletion", "proportion", "sanity-cascading"])
def test_metrics_of_images_of_other_channels(metric):
    model, x = seeded(lambda: Channels(1)), images()[:, :1]
    truth = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    given = {"method": "gradient"} if metric.startswith("sanity") else {}
    assert xr.score(metric, model, x, Y, xr.normalize(x[:, 0]), truth if xr.metric_info(metric).truth else None, **given).shape == (3,)


def test_a_network_that_makes_colours_of_a_grey_image():
    class Repeats(GapLinear):
        def forward(self, x):
            return super().forward(x.expand(-1, 3, -1, -1))

    assert xr.explain(seeded(Repeats), images()[:, :1], Y, "grad-cam").shape == (3, SIZE, SIZE)
    with pytest.raises(ValueError, match=r"images must be \[B,3,H,W\] for GapLinear; got \[3, 5, 16, 16\]"):
        xr.explain(seeded(GapLinear), torch.cat([images(), images()[:, :2]], 1), Y, "grad-cam")


def test_images_too_small_for_the_network():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, CLASSES)))
    for name in ("gradient", "grad-cam"):
        with pytest.raises(ValueError, match="images of 8 x 8 pixels are too small for Sequential: "):
            xr.explain(model, images(size=8), Y, name, **options(name, "3"))


# -- errors of its own -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError, NotImplementedError, NotApplicable, TypeError])
@pytest.mark.parametrize("name", ANYWHERE)
def test_errors_of_the_models_own_forward_pass_through(name, kind):
    """Once: the forward pass is not run again for it."""

    class Fails(VGGLike):
        calls = 0

        def forward(self, x):
            Fails.calls += 1
            raise kind("my own")

    model = seeded(Fails)
    before = state(model)
    if xr.method_info(name).family == "control":
        return
    with pytest.raises(kind, match="my own"):
        xr.explain(model, images(), Y, name, **options(name))
    assert Fails.calls == 1 and state(model) == before


@pytest.mark.parametrize("name", ["lift-cam", "ablation-cam", "shap-cam", "lime-cam", "kshap-cam"])
def test_an_error_above_the_layer_passes_through_the_heads_replay(name):
    class Picky(VGGLike):
        """Refuses activations that are all zero, as if by a check of its own."""

        ran = 0

        def forward(self, x):
            A = self.features(x)
            Picky.ran += 1
            if (A.flatten(1).abs().sum(1) == 0).any():
                raise RuntimeError("nothing left: my own")
            return self.classifier(torch.flatten(self.avgpool(A), 1))

    model = seeded(Picky)
    before = state(model)
    with pytest.raises(RuntimeError, match="nothing left: my own"):
        xr.explain(model, images(), Y, name, **options(name))
    assert state(model) == before


def test_products_with_a_shape_alone_are_no_results():
    """torch lets a matrix product of a tensor without values and a real one pass, with whatever lay in the memory."""

    class Mixed(GapLinear):
        def __init__(self):
            super().__init__()
            self.turn = nn.Parameter(torch.randn(3, 3))

        def forward(self, x):
            x = torch.einsum("dc,bchw->bdhw", self.turn, x)
            low = x.mean((2, 3)) @ self.turn
            return self.fc(self.pool(self.features(x)).flatten(1)) + low.sum(1, keepdim=True)

    model, x = seeded(Mixed), images()
    alpha = xr.coefficients(model, x, Y, "ablation-cam", layer="features.3")
    A = model.features(torch.einsum("dc,bchw->bdhw", model.turn, x))
    torch.testing.assert_close(alpha, (model.fc.weight[Y] * A.mean((2, 3))).detach())


def test_all_methods_give_maps_or_reasons():
    class Odd(VGGLike):
        """Fails on batches of one row more than it was shown, as a method with many copies asks for."""

        def forward(self, x):
            if len(x) > 3:
                raise ZeroDivisionError("too many for me")
            return super().forward(x)

    model, x = seeded(Odd), images()
    maps, reasons = xr.explain_all(model, x, Y, layer="features.4", hyper={"rise": {"masks": 6}, "shap-cam": {"permutations": 2}})
    assert set(maps) | set(reasons) == set(xr.methods()) and {"grad-cam", "gradient", "edges"} <= set(maps)
    assert reasons["rise"] == "ZeroDivisionError: too many for me" and "global average pooling" in reasons["cam"]
    with pytest.raises(UnknownName, match="unknown method 'rice'; did you mean 'rise'"):
        xr.explain_all(model, x, Y, ["rise"], hyper={"rice": {"masks": 6}})
    with pytest.raises(UnknownName, match="unknown hyper-parameter of rise 'mask'; did you mean 'masks'"):
        xr.explain_all(model, x, Y, ["rise"], hyper={"rise": {"mask": 6}})
    with pytest.raises(UnknownName, match="unknown layer 'features.44'"):
        xr.explain_all(model, x, Y, layer="features.44")
    with pytest.raises(ValueError, match="images must be"):
        xr.explain_all(model, x[0], Y)


# -- compiled, scripted, quantised, without weights --------------------------------------------------------------------------------


def test_compiled_models_are_explained_as_what_they_compile(monkeypatch):
    model, x = seeded(TOYS["vgg"].build, dtype=torch.float32), images(dtype=torch.float32)
    expected = xr.explain(model, x, Y, "lift-cam", layer="features.4")
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(xr.explain(compiled, x, Y, "lift-cam", layer="features.4"), expected)
    assert torch.equal(xr.score("average-drop", compiled, x, Y, xr.normalize(expected)), xr.score("average-drop", model, x, Y, xr.normalize(expected)))
    model.compile(backend="eager")
    inside = model._compiled_call_impl
    assert torch.equal(xr.explain(model, x, Y, "lift-cam", layer="features.4"), expected) and model._compiled_call_impl is inside


def test_traced_graphs_are_explained_where_they_have_layers():
    model, x = seeded(TOYS["vgg"].build), images()
    graph = torch.fx.symbolic_trace(model)
    for name in CAMS:
        torch.testing.assert_close(xr.explain(graph, x, Y, name, **options(name)), xr.explain(model, x, Y, name, **options(name)))
    exported = torch.export.export(model, (x[:1],)).module()
    with pytest.raises((NotApplicable, ValueError), match="no layer of|runs 0 times"):
        xr.explain(exported, x[:1], 1, "grad-cam")


def test_scripted_models_are_refused_in_words():
    scripted = torch.jit.script(seeded(TOYS["vgg"].build))
    before = scripted.training
    for name, said in (("grad-cam", "TorchScript model cannot be cut"), ("guided-backprop", "ReLUs of a TorchScript model")):
        with pytest.raises(NotApplicable, match=said):
            xr.explain(scripted, images(), Y, name, **options(name))
    assert xr.explain(scripted, images(), Y, "gradient").any() and scripted.training == before


def test_quantised_layers_pass_no_gradient():
    model = seeded(TOYS["vgg"].build, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    x = images(dtype=torch.float32)
    for name in ("grad-cam", "lift-cam", "layer-cam", "gradient", "integrated-gradients", "collection-cam"):
        with pytest.raises(ValueError, match="no gradient reaches"):
            xr.explain(quantised, x, Y, name, **options(name))
    for name in ("rise", "random"):  # which take none
        assert xr.explain(quantised, x, Y, name, **options(name)).any()


def test_models_without_usable_weights_are_refused_in_words():
    with torch.device("meta"):
        empty = VGGLike()
    with torch.inference_mode():
        made = VGGLike().double()
    for name in ("grad-cam", "gradient", "random"):
        with pytest.raises(ValueError, match="'features.0.weight' is on the device meta: the model has no weights"):
            xr.explain(empty, images(), Y, name)
        with pytest.raises(ValueError, match="'features.0.weight' was made in inference mode.*outside torch.inference_mode"):
            xr.explain(made, images(), Y, name)
    for wrong, said in (("vgg16", "got str: load it with xr.load_model"), (None, "got NoneType"), (VGGLike, "got type")):
        with pytest.raises(ValueError, match=f"a model is a torch.nn.Module; {said}"):
            xr.explain(wrong, images(), Y, "gradient")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_and_logits_that_are_no_numbers(bad):
    model = seeded(TOYS["vgg"].build)
    with torch.no_grad():
        model.classifier[6].bias[1] = bad
    for name in ("grad-cam", "gradient", "rise", "lift-cam", "score-cam"):
        with pytest.raises(ValueError, match="gives NaN for image|logit of the class is infinite|finite maps"):
            xr.explain(model, images(), 1, name, **options(name))
    values = xr.score("average-drop", model, images(), 1, xr.normalize(images()[:, 0]))
    assert values.isnan().all()
    assert xr.score("increase-in-confidence", model, images(), 1, xr.normalize(images()[:, 0])).isnan().all() or bad == float("inf")


# -- classes by name, pieces of the library -----------------------------------------------------------------------------------------


def test_classes_by_name():
    model, x = seeded(TOYS["vgg"].build), images()
    with pytest.raises(UnknownName, match="unknown class 'cat': the model does not name its classes"):
        xr.explain(model, x, "cat", "gradient")
    model.classes = ("cat", "dog", "hen", "owl", "eel")
    assert torch.equal(xr.explain(model, x, "dog", "gradient"), xr.explain(model, x, 1, "gradient"))
    assert torch.equal(xr.explain(model, x, ["dog", "eel", "cat"], "gradient"), xr.explain(model, x, Y, "gradient"))
    assert torch.equal(xr.score("average-drop", model, x, "dog", xr.normalize(x[:, 0])), xr.score("average-drop", model, x, 1, xr.normalize(x[:, 0])))
    with pytest.raises(UnknownName, match="unknown class 'dogs'; did you mean 'dog'"):
        xr.explain(model, x, "dogs", "gradient")
    for wrong in (["dog", 1, 2], [None] * 3, 10**30, {"a": 1}, [[1, 2], [3]]):
        with pytest.raises(ValueError, match="y must"):
            xr.explain(model, x, wrong, "gradient")
    assert torch.equal(xr.explain(model, x, np.int64(1), "gradient"), xr.explain(model, x, 1, "gradient"))


def test_a_package_is_called_for_its_names_and_holds_its_files():
    import xai_repro.methods.shapley as shapley
    import xai_repro.metrics.curves

    assert xr.methods.shapley is shapley and "lift-cam" in xr.methods("lift*") and xai_repro.metrics.curves.insertion
    assert callable(xr.explain) and callable(xr.score) and xr.metrics("pointing-g*") == ["pointing-game", "pointing-game-pixels"]

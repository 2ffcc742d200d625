"""Bad inputs to the functions around explaining: hyper-parameters, several methods at once, scores, registering, models and data by name."""

import numpy as np
import torch
import xai_repro as xr
from test_bad_explain import cam, explain, GAP, gives, MAPS, Odd, score, TRUTH, VGG, X
from toy_bad import cases, refused

from xai_repro.errors import UnknownName

NAN, INF = float("nan"), float("inf")


def maps_with(value):
    maps = MAPS.clone()
    maps[1, 3, 4] = value
    return maps


def everything(*names, **more):
    return xr.explain_all(VGG, X, 1, list(names) or ["gradient"], **more)


def register(name="mine", function=None, **more):
    return xr.method(name, **{"family": "toy", "cite": "none"} | more)(function or documented)


def measure(name="mine", function=None, **more):
    return xr.metric(name, **{"higher_is_better": True, "cite": "none"} | more)(function or measured)


def documented(model, x, y):
    """Has a docstring."""


def measured(model, x, y, maps, truth):
    """Has a docstring."""


def undocumented(model, x, y):
    return x


def short_of_one(model, x):
    """Takes no class."""


def without_default(model, x, y, *, steps):
    """A hyper-parameter has no default."""


HYPER = [
    *((f"{method}: {name}={value!r}", lambda method=method, name=name, value=value: explain(method=method, **{name: value}), ValueError, name, *said)
      for method, name, value, *said in [
        ("rise", "masks", 0, "0; at least 1"), ("rise", "masks", -5, "cannot be negative"), ("rise", "masks", 2.0, "2.0 (float)", "4000"), ("rise", "masks", "8", "'8' (str)"), ("rise", "masks", None, "None", "4000"),
        ("rise", "masks", True, "True (bool)"), ("rise", "masks", 10**12, "at most 1000000"), ("rise", "masks", [4], "[4] (list)"), ("rise", "masks", NAN, "nan (float)"), ("rise", "masks", b"4", "bytes"),
        ("rise", "masks", Odd(), "an odd thing"), ("rise", "cells", 0, "at least 1"), ("rise", "keep", 0.0, "(0,1]"), ("rise", "keep", 1.5, "(0,1]"), ("rise", "keep", NAN, "finite"), ("rise", "keep", INF, "finite"),
        ("rise", "keep", "half", "'half' (str)"), ("rise", "seed", -1, "seed of rise is -1", "at least 0"), ("rise", "seed", 2**32, "at most 4294967295"), ("rise", "seed", 0.5, "0.5 (float)"), ("rise", "seed", "lucky", "'lucky'"),
        ("rise", "seed", None, "None"), ("rise", "seed", np.random.default_rng(0), "Generator"), ("rise", "seed", 10**500, "at most 4294967295"),
        ("random", "cells", 0, "at least 1"), ("random", "cells", np.array([7]), "ndarray"), ("random", "cells", 10**6, "cells"), ("center", "width", 0.0, "above 0"), ("center", "width", -0.5, "negative"), ("center", "width", 1j, "complex"),
        ("integrated-gradients", "steps", 0, "at least 1"), ("integrated-gradients", "steps", 1.5, "1.5"), ("integrated-gradients", "baseline", "black", "'black'", "zero"), ("integrated-gradients", "baseline", 0, "0 (int)", "a text"),
        ("xrai", "steps", 0, "at least 1"), ("smoothgrad", "samples", 0, "at least 1"), ("smoothgrad", "noise", -0.1, "negative"), ("smoothgrad", "noise", "low", "'low'"),
        ("score-cam", "weight", "logit", "weight is 'logit'", "softmax"), ("score-cam", "weight", None, "None", "a text"), ("grad-cam++", "alpha_norm", 1, "1 (int)", "true or false"), ("grad-cam++", "alpha_norm", "no", "'no'"),
        ("shap-cam", "permutations", 0, "at least 1"), ("shap-cam", "permutations", 10**7, "at most"), ("shap-cam", "sampling", "random", "'random'", "antithetic"), ("shap-cam", "seed", -3, "at least 0"),
        ("kshap-cam", "samples", 0, "at least 1"), ("lime-cam", "samples", 0, "at least 1"), ("lime-cam", "beta", -1.0, "negative"), ("lime-cam", "gamma", 0.0, "gamma is 0"), ("lime-cam", "gamma", -INF, "finite"),
        ("collection-cam", "least", 0, "1 <= least <= most"), ("collection-cam", "most", 1, "least is 2, most is 1"), ("collection-cam", "theta", 1.0, "[0,1)"), ("collection-cam", "theta", -0.1, "negative"),
        ("collection-cam", "denoise", "percentile", "'percentile'", "max-fraction"), ("collection-cam", "score", "loss", "'loss'", "probability"), ("collection-cam", "standardize", "yes", "'yes'", "true or false"),
    ]),
    *((f"a hyper-parameter of {method}: {name!r:.30}", lambda method=method, name=name: explain(method=method, **{name: 1}), UnknownName, f"hyper-parameter of {method}", said)
      for method, name, said in [
        ("rise", "mask", "did you mean 'masks'"), ("rise", "Masks", "did you mean 'masks'"), ("gradient", "steps", "'steps'; possible: none"), ("rise", "", "''"), ("rise", "masks\n", "'masks'"), ("rise", "n" * 10**5, "..."),
        ("grad-cam", "target", "'target'"), ("rise", "info", "'info'"), ("rise", "m\u00e4sks", "did you mean 'masks'"),
    ]),
]
TOGETHER = [
    ("all methods of a number", lambda: xr.explain_all(VGG, X, 1, 5), ValueError, "5", "names"),
    ("all methods of true", lambda: xr.explain_all(VGG, X, 1, True), ValueError, "True", "names"),
    ("all methods, and None among them", lambda: everything("gradient", None), UnknownName, "unknown method 'None'"),
    ("all methods, one with a typo", lambda: everything("gradient", "grad-camm"), UnknownName, "did you mean 'grad-cam'"),
    ("all methods in lists in a list", lambda: everything(["gradient"]), UnknownName, "unknown method"),
    ("settings of all methods as a text", lambda: everything(hyper="steps=3"), ValueError, "hyper is 'steps=3'", "a dictionary"),
    ("settings of all methods as a list", lambda: everything(hyper=["rise"]), ValueError, "hyper is ['rise']", "a dictionary"),
    ("settings of one method as a number", lambda: everything(hyper={"rise": 5}), ValueError, "hyper of rise is 5", "a dictionary"),
    ("settings of one method as None", lambda: everything(hyper={"rise": None}), ValueError, "hyper of rise is None", "a dictionary"),
    ("settings of a method that does not exist", lambda: everything(hyper={"rice": {}}), UnknownName, "did you mean 'rise'"),
    ("settings with a typo", lambda: everything(hyper={"rise": {"mask": 3}}), UnknownName, "did you mean 'masks'"),
    ("settings of another kind", lambda: everything(hyper={"rise": {"masks": "3"}}), ValueError, "masks of rise is '3'"),
    ("a layer for all that does not exist", lambda: everything(layer="features.44"), UnknownName, "did you mean 'features.4'"),
    ("a class for all that does not exist", lambda: xr.explain_all(VGG, X, "crow", ["gradient"]), UnknownName, "model.classes"),
    ("images for all that are none", lambda: xr.explain_all(VGG, "photo.jpg", 1), ValueError, "images must be"),
    ("no model for all", lambda: xr.explain_all(None, X, 1), ValueError, "torch.nn.Module"),
    ("output for all as a list", lambda: everything(output=["logits"]), ValueError, "output is ['logits']"),
    *((f"coefficients of {name}", lambda name=name: xr.coefficients(VGG, X, 1, name), ValueError, f"{name} has no coefficients") for name in ("gradient", "rise", "layer-cam", "random")),
    ("coefficients of a typo", lambda: xr.coefficients(VGG, X, 1, "lift-camm"), UnknownName, "did you mean 'lift-cam'"),
    ("coefficients of several layers", lambda: xr.coefficients(VGG, X, 1, "lift-cam", layers="all"), ValueError, "one layer", "layer=..."),
    ("coefficients for NaN", lambda: xr.coefficients(VGG, X * NAN, 1), ValueError, "finite"),
]
SCORES = [
    *((f"a metric: {given!r:.40}", lambda given=given: score(given), UnknownName, "unknown metric", said) for given, said in [
        (None, "'None'"), ("average drop", "did you mean 'average-drop'"), (["average-drop"], "average-drop"), ("grad-cam", "'grad-cam'"), (b"deletion", "deletion"), ("", "''"), (Odd(), "an odd thing"),
    ]),
    ("no maps", lambda: score(maps=None), ValueError, "maps must be a tensor [3, 16, 16]", "NoneType"),
    ("maps as an array", lambda: score(maps=MAPS.numpy()), ValueError, "got ndarray"),
    ("maps as a list", lambda: score(maps=list(MAPS)), ValueError, "got list"),
    ("maps by name", lambda: score(maps={"gradient": MAPS}), ValueError, "got dict"),
    ("one map for three images", lambda: score(maps=MAPS[:1]), ValueError, "[3, 16, 16]", "[1, 16, 16]"),
    ("maps of another size", lambda: score(maps=MAPS[..., :8, :8]), ValueError, "[3, 16, 16]", "[3, 8, 8]"),
    ("maps with a channel", lambda: score(maps=MAPS[:, None]), ValueError, "[3, 1, 16, 16]"),
    ("maps that are flat", lambda: score(maps=MAPS.flatten(1)), ValueError, "[3, 256]"),
    ("maps with NaN", lambda: score(maps=maps_with(NAN)), ValueError, "maps must be finite"),
    ("maps with infinity", lambda: score("completeness", maps_with(INF)), ValueError, "maps must be finite"),
    ("maps above 1", lambda: score(maps=MAPS * 3), ValueError, "maps in [0,1]", "xr.normalize"),
    ("maps below 0", lambda: score("deletion", MAPS - 0.5), ValueError, "maps in [0,1]", "xr.normalize"),
    ("maps a little above 1", lambda: score("insertion", maps_with(1.01)), ValueError, "1.01", "xr.normalize"),
    ("complex maps", lambda: score(maps=MAPS.to(torch.complex64)), ValueError, "maps must be", "complex64"),
    ("maps on meta", lambda: score(maps=MAPS.to("meta")), ValueError, "maps must be", "meta"),
    ("sparse maps", lambda: score(maps=MAPS.to_sparse()), ValueError, "maps must be", "sparse"),
    ("maps for coefficients", lambda: score("cosine-to"), ValueError, "coefficients [3,K]", "xr.coefficients"),
    ("coefficients for maps", lambda: score(maps=torch.rand(3, 6)), ValueError, "[3, 16, 16]", "[3, 6]"),
    ("coefficients of another layer", lambda: score("cosine-to", torch.rand(3, 5), permutations=2), ValueError, "5 coefficients", "6 channels", "layer="),
    ("no truth", lambda: score("proportion"), ValueError, "needs truth", "box", "[3, 16, 16]"),
    ("truth as numbers", lambda: score("proportion", truth=TRUTH.float()), ValueError, "bool mask [3, 16, 16]", "torch.float32"),
    ("truth as boxes", lambda: score("proportion", truth=torch.tensor([[0, 1, 1, 5, 5]])), ValueError, "bool mask", "[1, 5]"),
    ("truth of one image", lambda: score("pointing-game", truth=TRUTH[0]), ValueError, "bool mask [3, 16, 16]", "[16, 16]"),
    ("truth of another size", lambda: score("pointing-game", truth=TRUTH[..., :4]), ValueError, "[3, 16, 4]"),
    ("truth as an array", lambda: score("pointing-game", truth=TRUTH.numpy()), ValueError, "bool mask [3, 16, 16]", "array"),
    ("truth as a name", lambda: score("pointing-game", truth="dog"), ValueError, "'dog'"),
    ("truth that nobody needs, of a wrong kind", lambda: score(truth=[1, 2]), ValueError, "[1, 2]"),
    ("a class of scores too high", lambda: score(y=7), ValueError, "class 7", "0 to 4"),
    ("a class of locations too high", lambda: score("proportion", truth=TRUTH, y=7), ValueError, "class 7", "0 to 4"),
    ("classes of scores of another number", lambda: score(y=[1, 2]), ValueError, "[3]; got [2]"),
    ("images of scores without a batch", lambda: score(x=X[0]), ValueError, "x[None]"),
    ("images of scores too small", lambda: score(x=X[..., :1, :1], maps=MAPS[..., :1, :1]), ValueError, "1 x 1 pixels are too small"),
    ("a model of scores that is none", lambda: score(model="vgg16"), ValueError, "xr.load_model"),
    ("a model of scores without logits", lambda: score(model=gives(lambda h: {"out": h})), ValueError, "out['out']"),
    ("output of scores as a text", lambda: score(output="out"), ValueError, "output is 'out'"),
    *((f"{metric}: {name}={value!r}", lambda metric=metric, name=name, value=value: score(metric, truth=TRUTH, **{name: value}), kind, name, *said) for metric, name, value, kind, *said in [
        ("deletion", "steps", 1, ValueError, "at least 2"), ("deletion", "steps", 2.5, ValueError, "2.5"), ("insertion", "steps", True, ValueError, "True"), ("overall", "steps", 10**12, ValueError, "at most"),
        ("insertion", "baseline", "grey", ValueError, "'grey'", "blur, zero"), ("insertion", "baseline", None, ValueError, "None"), ("deletion", "chunk", 0, ValueError, "at least 1"),
        ("pointing-game", "tolerance", -1.0, ValueError, "negative"), ("pointing-game", "tolerance", "15 px", ValueError, "'15 px'"), ("pointing-game", "tolerance", NAN, ValueError, "finite"),
        ("average-drop", "steps", 3, UnknownName, "possible: none"), ("pointing-game", "tolerence", 0.1, UnknownName, "did you mean 'tolerance'"), ("proportion", "truth_", 1, UnknownName, "possible: none"),
        ("morf-insertion", "canvas", "zero", UnknownName, "'zero'", "blur, mean"), ("morf-insertion", "kernel", 10, ValueError, "10", "odd"), ("morf-insertion", "sigma", 0.0, ValueError, "0.0", "more than 0"),
        ("morf-insertion", "share", 20.0, ValueError, "20.0", "from 0 to 1"), ("lerf-perturbation", "report", "area", UnknownName, "'area'", "mean, last"), ("lerf-perturbation", "steps", 0, ValueError, "at least 1"),
        ("pointing-energy", "energy", 0.5, ValueError, "0.5", "'count'"), ("pointing-energy", "range", "0.05", UnknownName, "all, lower, higher"), ("segmentation-ap", "reading", "agf", UnknownName, "'agf'", "two-channel"),
        ("outside-inside-ratio", "positive", 1, ValueError, "true or false"), ("iou", "deviations", NAN, ValueError, "finite"), ("iou", "deviations", -1, ValueError, "negative"),
    ]),
    *((f"sanity: {name}={value!r}", lambda name=name, value=value: score("sanity-cascading", **{"method": "gradient"} | {name: value}), kind, *said) for name, value, kind, *said in [
        ("similarity", "pearson", UnknownName, "similarity 'pearson'", "spearman"), ("similarity", None, ValueError, "similarity"), ("method", "grad-camm", UnknownName, "did you mean 'grad-cam'"), ("method", None, ValueError, "method"),
        ("settings", "steps=3", ValueError, "settings is 'steps=3'", "a dictionary"), ("settings", [3], ValueError, "settings is [3]", "a dictionary"), ("settings", {"step": 3}, UnknownName, "hyper-parameter of gradient 'step'"),
        ("seed", -1, ValueError, "at least 0"), ("layer", "features.4", UnknownName, "'layer'"), ("settings", {"chunk": 0}, ValueError, "chunk is 0"),
    ]),
    ("maps too small for ssim", lambda: score("sanity-cascading", MAPS[..., :8, :8], x=X[..., :8, :8], method="gradient", similarity="ssim"), ValueError, "11x11", "8x8"),
    ("a reference without coefficients", lambda: score("cosine-to", torch.rand(3, 6), reference="rise"), ValueError, "rise has no coefficients"),
    ("a reference that does not exist", lambda: score("cosine-to", torch.rand(3, 6), reference="shap"), UnknownName, "unknown method 'shap'"),
    *((f"maps to normalise: {name}", lambda given=given: xr.normalize(given), ValueError, "maps", said) for name, given, said in [
        ("none", None, "NoneType"), ("an array", MAPS.numpy(), "ndarray"), ("a list", [MAPS], "list"), ("a number", torch.tensor(3.0), "[]"), ("a row", MAPS[0, 0], "[16]"), ("nothing", MAPS[:, :0], "[3, 0, 16]"),
        ("NaN", maps_with(NAN), "finite"), ("infinity", maps_with(-INF), "finite"), ("complex numbers", MAPS.to(torch.complex64), "complex64"), ("bools", TRUTH, "torch.bool"), ("on meta", MAPS.to("meta"), "meta"),
    ]),
]
REGISTER = [
    *((f"a method called {given!r:.30}", lambda given=given: register(given), ValueError, "a name is a text", said) for given, said in [(None, "None"), ("", "got"), (3, "3"), (b"mine", "mine"), (["mine"], "mine")]),
    ("a method without docstring", lambda: register(function=undocumented), ValueError, "'mine'", "docstring"),
    ("a method called as another one", lambda: register("grad-cam"), ValueError, "'grad-cam' is registered twice"),
    ("a hyper-parameter without default", lambda: register(function=without_default), ValueError, "'mine'", "steps", "default"),
    ("a method that takes no class", lambda: register(function=short_of_one), ValueError, "'mine'", "(model, x)", "(model, x, y"),
    ("a method that is a number", lambda: register(function=5), ValueError, "'mine'", "5", "a function"),
    ("a family that is none", lambda: register(family=None), ValueError, "family of 'mine' is None", "a text"),
    ("a citation that is none", lambda: register(cite=None), ValueError, "cite of 'mine' is None", "a text"),
    ("needs as a list", lambda: register(needs=["ReLU"]), ValueError, "needs of 'mine'", "a text"),
    ("signed as a text", lambda: register(signed="yes"), ValueError, "signed of 'mine' is 'yes'", "true or false"),
    ("a lift by name", lambda: register(lift="gradients"), ValueError, "lift of 'mine' is 'gradients'", "xai_repro.methods.lifts"),
    ("a metric called as another one", lambda: measure("average-drop"), ValueError, "'average-drop' is registered twice"),
    ("a metric without docstring", lambda: measure(function=lambda model, x, y, maps, truth: x), ValueError, "docstring"),
    ("a metric that takes no truth", lambda: measure(function=documented), ValueError, "'mine'", "(model, x, y)", "maps, truth"),
    ("maps of a metric with a typo", lambda: measure(maps="units"), UnknownName, "maps of 'mine' 'units'", "unit"),
    ("truth of a metric with a typo", lambda: measure(truth="boxes"), UnknownName, "truth of 'mine' 'boxes'", "box"),
    ("a direction as a text", lambda: measure(higher_is_better="yes"), ValueError, "higher_is_better of 'mine' is 'yes'", "true or false"),
    *((f"a pattern of names: {given!r}", lambda given=given, of=of: of(given), ValueError, "a pattern of names", "'*cam*'") for given, of in [(None, xr.methods), (3, xr.metrics), (["*"], xr.methods), (b"*", xr.metrics)]),
    *((f"about a method: {given!r}", lambda given=given, of=of: of(given), UnknownName, "unknown m", said) for given, of, said in [
        (None, xr.method_info, "None"), ("average-drop", xr.method_info, "'average-drop'"), ("rise", xr.metric_info, "unknown metric 'rise'"), (3, xr.metric_info, "'3'"), ({"rise"}, xr.method_info, "rise"),
    ]),
]


@cases(HYPER, TOGETHER, SCORES, REGISTER)
def test_around_explain(call, kind, words):
    names = [xr.methods(), xr.metrics()]
    refused(call, kind, words)
    assert [xr.methods(), xr.metrics()] == names

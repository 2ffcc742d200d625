"""Bad inputs to the functions that explain and score: whatever is given, the error says what it was and what is possible."""

import numpy as np
import pytest
import torch
import xai_repro as xr
from toy_bad import cases, refused
from toys import CLASSES, GapLinear, images, seeded, state, VGGLike
from torch import nn

from xai_repro.errors import NotApplicable, UnknownName

VGG, GAP, X = seeded(VGGLike), seeded(GapLinear), images()
GAP.classes = ("crow", "crane", "kite", "crane", "r\u00e9mora")
MAPS, TRUTH = torch.rand(3, 16, 16), torch.zeros(3, 16, 16, dtype=torch.bool)


class Gives(nn.Module):
    """A network that gives what it is told to instead of logits."""

    def __init__(self, made, **attributes):
        super().__init__()
        self.conv, self.made = nn.Conv2d(3, 4, 3, padding=1), made
        vars(self).update(attributes)

    def forward(self, x):
        return self.made(self.conv(x))


class Odd:
    """Has a length that is none, is equal to nothing without an error, and counts as neither true nor false."""

    def __len__(self):
        return -1

    def __eq__(self, other):
        raise ArithmeticError("compared")

    __hash__ = None

    def __bool__(self):
        raise ArithmeticError("asked")

    def __repr__(self):
        return "an odd\nthing"


def explain(x=X, y=1, method="gradient", model=VGG, **more):
    return xr.explain(model, x, y, method, **more)


def cam(**more):
    return explain(**{"method": "grad-cam"} | more)


def score(metric="average-drop", maps=MAPS, truth=None, x=X, y=1, model=VGG, **more):
    return xr.score(metric, model, x, y, maps, truth, **more)


def with_value(value, place=(1, 0, 2, 2)):
    x = X.clone()
    x[place] = value
    return x


def gives(made, **attributes):
    return Gives(lambda h: made(h.mean((2, 3))), **attributes).double().eval()


def spoilt(value, name="0.weight"):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    with torch.no_grad():
        model.get_parameter(name).fill_(value)
    return model


def made_in_inference():
    with torch.inference_mode():
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


IMAGES = [
    ("no images", lambda: explain(None), ValueError, "images must be", "NoneType"),
    ("a path as images", lambda: explain("photo.jpg"), ValueError, "images must be", "got str"),
    ("bytes as images", lambda: explain(b"\xff\xd8"), ValueError, "images must be", "got bytes"),
    ("a list of images", lambda: explain(list(X)), ValueError, "images must be", "got list"),
    ("an array as images", lambda: explain(X.numpy()), ValueError, "images must be", "got ndarray"),
    ("a number as images", lambda: explain(np.float32(3)), ValueError, "images must be", "got float32"),
    ("a generator of images", lambda: explain(x for x in X), ValueError, "images must be", "got generator"),
    ("pixels of a photo", lambda: explain((X * 255).byte()), ValueError, "floating-point", "got torch.uint8"),
    ("bool images", lambda: explain(X > 0), ValueError, "floating-point", "got torch.bool"),
    ("complex images", lambda: explain(X.to(torch.complex64)), ValueError, "floating-point", "got torch.complex64"),
    ("images of 8 bits", lambda: explain(X.to(torch.float8_e4m3fn)), ValueError, "images", "float8"),
    ("sparse images", lambda: explain(X.to_sparse()), ValueError, "images must be", "sparse"),
    ("nested images", lambda: explain(torch.nested.nested_tensor([X[0], X[1, :, :8]], layout=torch.jagged)), ValueError, "images must be", "nested"),
    ("images for mkldnn", lambda: explain(X.float().to_mkldnn()), ValueError, "images must be", "mkldnn"),
    ("one image without a batch", lambda: explain(X[0]), ValueError, "[3, 16, 16]", "x[None]"),
    ("one plane", lambda: explain(X[0, 0]), ValueError, "images must be [B,C,H,W]; got [16, 16]"),
    ("a scalar tensor", lambda: explain(torch.tensor(1.0)), ValueError, "got []"),
    ("a batch in a batch", lambda: explain(X[None]), ValueError, "got [1, 3, 3, 16, 16]"),
    ("an empty batch", lambda: explain(X[:0]), ValueError, "got [0, 3, 16, 16]"),
    ("images without rows", lambda: explain(X[:, :, :0]), ValueError, "got [3, 3, 0, 16]"),
    ("images without colours", lambda: explain(X[:, :0]), ValueError, "got [3, 0, 16, 16]"),
    ("channels last", lambda: explain(X.permute(0, 2, 3, 1)), ValueError, "[B,3,H,W]", "[3, 16, 16, 3]"),
    ("grey images", lambda: explain(X[:, :1]), ValueError, "[3, 1, 16, 16]", "x.expand(-1, 3, -1, -1)"),
    ("four colours", lambda: explain(torch.cat([X, X[:, :1]], 1)), ValueError, "[B,3,H,W]", "[3, 4, 16, 16]"),
    ("NaN in one image", lambda: explain(with_value(torch.nan)), ValueError, "finite", "row(s) [1]"),
    ("infinity in one image", lambda: explain(with_value(-torch.inf)), ValueError, "finite", "row(s) [1]"),
    ("NaN throughout", lambda: explain(X * torch.nan), ValueError, "row(s) [0, 1, 2]"),
    ("images on meta", lambda: explain(X.to("meta")), ValueError, "images are on meta", ".to(...)"),
    ("images of one pixel", lambda: explain(X[..., :1, :1], model=spoilt(1.0).double()), ValueError, "1 x 1 pixels are too small"),
    ("too small for the pooling", lambda: explain(X[..., :1, :], model=VGG), ValueError, "1 x 16 pixels are too small for VGGLike"),
]
MODELS = [
    ("no model", lambda: explain(model=None), ValueError, "torch.nn.Module", "NoneType"),
    ("the name of a model", lambda: explain(model="mini-vgg"), ValueError, "torch.nn.Module", "xr.load_model"),
    ("the class of a model", lambda: explain(model=VGGLike), ValueError, "torch.nn.Module", "type"),
    ("a function as model", lambda: explain(model=lambda x: x), ValueError, "torch.nn.Module", "function"),
    ("weights as model", lambda: explain(model=VGG.state_dict()), ValueError, "torch.nn.Module", "OrderedDict"),
    ("an odd model", lambda: explain(model=Odd()), ValueError, "torch.nn.Module", "Odd"),
    ("a model on meta", lambda: explain(model=nn.Conv2d(3, 2, 3, device="meta")), ValueError, "'weight'", "meta", "no weights"),
    ("a buffer on meta", lambda: explain(model=nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, affine=False, device="meta"))), ValueError, "'1.running_mean'", "meta"),
    ("a model made in inference mode", lambda: explain(model=made_in_inference()), ValueError, "'0.weight'", "inference mode"),
    ("a model whose layers have no shape yet", lambda: explain(model=nn.Sequential(nn.LazyConv2d(4, 3))), ValueError, "'0.weight'", "no shape yet", "run the model"),
    ("a model that gives nothing", lambda: explain(model=gives(lambda h: None)), ValueError, "gives NoneType", "output="),
    ("a model that gives a text", lambda: explain(model=gives(lambda h: "cat")), ValueError, "gives str", "output="),
    ("a model that gives a pair", lambda: explain(model=gives(lambda h: (h, h))), ValueError, "a tuple of 2", "lambda out: out[0]"),
    ("a model that gives a dictionary", lambda: explain(model=gives(lambda h: {"scores": h})), ValueError, "'scores'", "out['scores']"),
    ("a model that gives an empty list", lambda: explain(model=gives(lambda h: [])), ValueError, "a list of 0", "output="),
    ("a model that gives an array", lambda: explain(model=gives(lambda h: h.detach().numpy())), ValueError, "gives ndarray", "output="),
    ("one number per image", lambda: explain(model=gives(lambda h: h[:, 0])), ValueError, "gives [3]", "out[:, None]"),
    ("one number in all", lambda: explain(model=gives(lambda h: h.sum())), ValueError, "gives []", "output="),
    ("maps in place of logits", lambda: explain(model=Gives(lambda h: h).double()), ValueError, "gives [3, 4, 16, 16]", "out.mean((2, 3))"),
    ("no class", lambda: explain(model=gives(lambda h: h[:, :0])), ValueError, "[3, 0]", "logits [B,C]"),
    ("no class, and none asked for", lambda: explain(model=gives(lambda h: h[:, :0]), y=None), ValueError, "[3, 0]", "logits [B,C]"),
    ("logits of another batch", lambda: explain(model=gives(lambda h: h.mean(0, keepdim=True))), ValueError, "[1, 4]", "3 images"),
    ("logits of one image more", lambda: explain(model=gives(lambda h: torch.cat([h, h[:1]]))), ValueError, "[4, 4]", "3 images"),
    ("complex logits", lambda: explain(model=gives(lambda h: h.to(torch.complex128))), ValueError, "complex", "logits"),
    ("logits that are whole numbers", lambda: explain(model=gives(lambda h: h.long())), NotApplicable, "no gradient reaches the images"),
    ("logits that are NaN", lambda: explain(model=gives(lambda h: h * torch.nan)), ValueError, "NaN", "[0, 1, 2]"),
    ("logits that are infinite", lambda: explain(model=gives(lambda h: h / 0)), ValueError, "infinite", "nothing to explain"),
    ("weights that are NaN", lambda: explain(X.float(), model=spoilt(torch.nan)), ValueError, "NaN", "weights"),
    ("weights that are infinite", lambda: cam(x=X.float(), model=spoilt(torch.inf)), ValueError, "NaN", "weights"),
    ("weights that are huge", lambda: explain(X.float(), model=spoilt(3e38)), ValueError, "NaN", "weights"),
    ("a network without a map", lambda: cam(model=nn.Sequential(nn.Flatten(), nn.Linear(768, 5)).double()), NotApplicable, "layer"),
    ("a network that hides its ReLUs", lambda: explain(method="deconvnet", model=gives(torch.sigmoid)), NotApplicable, "no ReLU"),
    ("a network without a linear head", lambda: cam(method="cam"), NotApplicable, "global average pooling", "VGGLike"),
    ("output as a text", lambda: explain(output="logits"), ValueError, "output is 'logits'", "a function"),
    ("output as a number", lambda: cam(output=0), ValueError, "output is 0", "a function"),
    ("output that gives a text", lambda: explain(output=lambda out: "cat"), ValueError, "gives str", "logits [B,C]"),
    ("output that gives one number per image", lambda: explain(output=lambda out: out[:, 0]), ValueError, "gives [3]", "logits [B,C]"),
    ("output that cuts the gradient", lambda: explain(output=lambda out: out.detach()), NotApplicable, "no gradient"),
]
TARGETS = [
    ("a class below 0", lambda: explain(y=-1), ValueError, "class -1", "start at 0"),
    ("a class too high", lambda: explain(y=CLASSES), ValueError, "class 5", "0 to 4"),
    ("a class far too high", lambda: explain(y=10**30), ValueError, "1000000000", "one class, or one per image"),
    ("one class of three too high", lambda: explain(y=[0, 99, 1]), ValueError, "class 99", "0 to 4"),
    ("a class too high for a control", lambda: explain(y=9, method="random"), ValueError, "class 9", "0 to 4"),
    ("a class as a fraction", lambda: explain(y=1.0), ValueError, "class indices", "torch.float"),
    ("a class that is NaN", lambda: explain(y=float("nan")), ValueError, "class indices", "torch.float"),
    ("true as a class", lambda: explain(y=True), ValueError, "class indices", "torch.bool"),
    ("a complex class", lambda: explain(y=1j), ValueError, "class indices", "complex"),
    ("logits as classes", lambda: explain(y=torch.rand(3, 5)), ValueError, "class indices", "float32"),
    ("one-hot classes", lambda: explain(y=torch.eye(5)[:3].long()), ValueError, "[3]; got [3, 5]"),
    ("too few classes", lambda: explain(y=[0, 1]), ValueError, "[3]; got [2]"),
    ("one class in a list", lambda: explain(y=[2]), ValueError, "[3]; got [1]"),
    ("no class in a list", lambda: explain(y=[]), ValueError, "y must", "got"),
    ("ragged classes", lambda: explain(y=[[0, 1], [2], [3]]), ValueError, "one class, or one per image", "[[0, 1], [2], [3]]"),
    ("None among classes", lambda: explain(y=[0, None, 1]), ValueError, "one class, or one per image", "None"),
    ("names and numbers mixed", lambda: explain(y=["crow", 1, 2], model=GAP), ValueError, "one class, or one per image", "'crow'"),
    ("a set of classes", lambda: explain(y={0, 1, 2}), ValueError, "one class, or one per image", "{0, 1, 2}"),
    ("a dictionary of classes", lambda: explain(y={"a": 1}), ValueError, "one class, or one per image", "{'a': 1}"),
    ("bytes as a class", lambda: explain(y=b"crow", model=GAP), ValueError, "y must", "got"),
    ("a generator of classes", lambda: explain(y=(c for c in (0, 1, 2))), ValueError, "one class, or one per image", "generator"),
    ("an odd class", lambda: explain(y=Odd()), ValueError, "one class, or one per image", "an odd thing"),
    ("an array of texts", lambda: explain(y=np.array(["crow", "kite", "crow"]), model=GAP), ValueError, "one class, or one per image", "crow"),
    ("an array of objects", lambda: explain(y=np.array([0, None, 1], object)), ValueError, "one class, or one per image"),
    ("unsigned classes of 64 bits", lambda: explain(y=np.array([0, 2**63, 1], np.uint64)), ValueError, "class", "9223372036854775808"),
    ("classes on meta", lambda: explain(y=torch.zeros(3, dtype=torch.long, device="meta")), ValueError, "one class, or one per image", "meta"),
    ("a name for a model without names", lambda: explain(y="crow"), UnknownName, "'crow'", "model.classes", "give numbers"),
    ("a class name with a typo", lambda: explain(y="crwo", model=GAP), UnknownName, "'crwo'", "did you mean 'crow'"),
    ("a class name in capitals", lambda: explain(y="CROW", model=GAP), UnknownName, "'CROW'", "possible: crow"),
    ("an empty class name", lambda: explain(y="", model=GAP), UnknownName, "unknown class ''", "possible: crow"),
    ("a class name that two classes have", lambda: explain(y="crane", model=GAP), ValueError, "'crane'", "1, 3", "number"),
    ("a class name with a line break", lambda: explain(y="crow\n", model=GAP), UnknownName, "unknown class 'crow'"),
    ("a class name of other letters", lambda: explain(y="re\u0301mora", model=GAP), UnknownName, "did you mean 'r\u00e9mora'"),
    ("a very long class name", lambda: explain(y="crow" * 10_000, model=GAP), UnknownName, "crowcrow", "..."),
    ("too few class names", lambda: explain(y=["crow", "kite"], model=GAP), ValueError, "[3]; got [2]"),
    ("class names that are a number", lambda: explain(y="crow", model=gives(torch.relu, classes=5)), UnknownName, "'crow'", "model.classes", "give numbers"),
]
METHODS = [
    *((f"a method: {given!r:.40}", lambda given=given: explain(method=given), UnknownName, "unknown method", said) for given, said in [
        (None, "'None'"), (3, "'3'"), (b"grad-cam", "grad-cam"), (["grad-cam"], "grad-cam"), ("", "''"), ("Grad-CAM", "did you mean 'grad-cam'"), (Odd(), "an odd thing"),
        (" grad-cam ", "did you mean 'grad-cam'"), ("grad_cam", "did you mean 'grad-cam'"), ("grad-cam\n", "'grad-cam'"), ("../grad-cam", "did you mean"), ("gr\u00e4d-cam", "did you mean"),
        ("x" * 10**6, "..."), (xr.explain, "function explain"), ("*cam*", "nearest of"),
    ]),
    *((f"a layer: {given!r:.40}", lambda given=given: cam(layer=given), kind, *said) for given, kind, *said in [
        ("", UnknownName, "unknown layer ''"), ("features.99", UnknownName, "did you mean 'features."), ("feature.4", UnknownName, "did you mean 'features.4'"), (b"features.4", UnknownName, "features.4"),
        (4, UnknownName, "unknown layer '4'"), (4.5, UnknownName, "'4.5'"), (True, UnknownName, "'True'"), (["features.4"], UnknownName, "unknown layer"), (("features.4",), UnknownName, "unknown layer"),
        ("features.4#", ValueError, "names call ''", "#-1"), ("features.4#one", ValueError, "names call 'one'"), ("features.4#1", ValueError, "features.4", "runs 1 times"), ("features.4#-2", ValueError, "runs 1 times"),
        ("features.4#" + "9" * 5000, ValueError, "features.4"), ("#0", UnknownName, "'#0'"), (nn.Conv2d, UnknownName, "Conv2d"), (nn.ReLU(), UnknownName, "ReLU", "no module of this model"),
        (VGG, UnknownName, "VGGLike", "no module of this model"), (GAP.features[3], UnknownName, "no module of this model"), ("classifier.6", ValueError, "classifier.6", "[3, 5]"), ("features/4", UnknownName, "did you mean 'features.4'"),
        ("features." * 10_000, UnknownName, "..."), ("forward", UnknownName, "unknown layer 'forward'"), ("__class__", UnknownName, "unknown layer"), (Odd(), UnknownName, "an odd thing"),
    ]),
    *((f"layers: {given!r:.40}", lambda given=given: cam(layers=given), kind, *said) for given, kind, *said in [
        ("some", ValueError, "'all'"), (0, ValueError, "layers is 0"), (-1, ValueError, "layers is -1"), (99, ValueError, "layers is 99", "stages"), (1.0, ValueError, "layers is 1.0"), ([], ValueError, "layers is []"),
        ({"features.4"}, ValueError, "layers is {'features.4'}"), ([None], UnknownName, "unknown layer"), ([["features.4"]], UnknownName, "unknown layer"), (["features.4", "nope"], UnknownName, "'nope'"),
        (np.array(["features.2", "features.4"]), ValueError, "layers is", "a list of names"), (Odd(), ValueError, "an odd thing"), (np.int64(99), ValueError, "layers is"),
    ]),
    ("layer and layers", lambda: cam(layer="features.4", layers="all"), ValueError, "'features.4'", "'all'", "give one"),
    ("layers twice the same", lambda: explain(method="layer-cam", layers=["features.2", "features.2"]), ValueError, "names one twice"),
    ("layers from above to below", lambda: explain(method="layer-cam", layers=["features.4", "features.2"]), ValueError, "from the input to the logits"),
    ("a layer for a method without one", lambda: explain(layer="features.4"), UnknownName, "hyper-parameter of gradient 'layer'"),
    ("an unknown layout", lambda: cam(layout="NHWC"), UnknownName, "layout 'NHWC'", "channels-last"),
    ("a layout that does not fit", lambda: cam(layout="tokens"), ValueError, "layout is tokens"),
    ("a layout as a list", lambda: cam(layout=["tokens"]), UnknownName, "layout", "channels-first"),
    *((f"chunk: {given!r}", lambda given=given: explain(chunk=given), ValueError, "chunk is", "at least 1") for given in (0, -3, 2.0, "4", True, [4], Odd(), float("nan"))),
    *((f"chunk of rise: {given!r}", lambda given=given: explain(method="rise", masks=2, chunk=given), ValueError, "chunk is", "at least 1") for given in (0, False, 1.5)),
]


@cases(IMAGES, MODELS, TARGETS, METHODS)
def test_explain(call, kind, words):
    before = state(VGG), state(GAP)
    refused(call, kind, words)
    assert (state(VGG), state(GAP)) == before

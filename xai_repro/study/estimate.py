"""What a profile costs before it is run: forward passes, counted on one image, times images; hours on a GPU of an assumed rate.

Counting does no arithmetic: all that takes large tensors gives numbers of no meaning in the right shape (`Unworked`), so that the papers' networks
are counted in seconds, at the papers' size.
"""

import warnings
from collections import namedtuple
from contextlib import contextmanager
from functools import cache, partial

import pandas as pd
import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from xai_repro.errors import like, NotApplicable
from xai_repro.explain import coefficients, explain
from xai_repro.metrics.faithfulness import logits
from xai_repro.metrics.randomise import blocks
from xai_repro.models import load_model
from xai_repro.network.forward import predict
from xai_repro.published import published
from xai_repro.registry import method_info, methods as known_methods, metric_info
from xai_repro.score import score
from xai_repro.store.progress import track
from xai_repro.store.sharing import sharing
from xai_repro.study import clam, hedging
from xai_repro.study.asked import explains_again, with_hyper
from xai_repro.study.photographs import deep_layers
from xai_repro.study.profiles import profile as settings_of

RATE = 20.0  # TFLOP/s of one GPU in float32: 30 % of the 67 that an H100 has without tensor cores (it has 989 in bfloat16, dense)
PAPERS = {"1": "lift_cam", "2": "collection_cam", "3": "gradient_hedging", "4": clam.PAPER}  # by the first digit of a notebook
COLUMNS = ["paper", "notebook", "network", "data", "images", "passes per image", "PFLOP", "hours"]
LINEAR = {"steps": (2, 4), "masks": (1, 2), "permutations": (1, 2), "samples": (8, 16), "most": (2, 4)}  # what the cost is linear in, and where it is counted
FREE = ("sampling", "seed", "chunk", "gamma", "parts")  # hyper-parameters that do not change it, or make it less
ALIKE = {"lime-cam": "kshap-cam"}  # as many coalitions; the fit to them runs no network, and may not end on numbers of no meaning
RUNNING = ("increase-in-confidence", "confidence-gain", "average-drop", "average-drop-in-deletion", "insertion", "deletion", "overall", "morf-insertion", "morf-perturbation", "lerf-perturbation")  # metrics that run the network
REFINING = 2  # forward passes that CLAM costs at most beside its base, as its docstring says
LARGE = 2**16  # numbers of a tensor, above which nothing is worked out: more than a map has, and than the weights of small fits

Request = namedtuple("Request", "notebook model data images methods metrics")  # one evaluation of a notebook, of one network on one data set


def estimate(profile="paper", rate=RATE):
    """What the notebooks of the papers cost with a profile: a table with the columns COLUMNS, one row per notebook, network and data set.

    rate: TFLOP/s of the GPU, sustained in float32. images: the most that one evaluation of the notebook explains; passes per image: forward passes of all its evaluations,
    over these images; a backward pass counts as what it computes. PFLOP: of convolutions and matrix products, a multiplication and an addition being two. hours: on one such GPU, if nothing else
    takes time. attrs["assumed"] says all of this in a sentence.

    At most: Score-CAM tries all channels, Collection-CAM makes as many masks as it may, a sanity check computes every map from the images on, nothing is found in
    shards. One class is explained per image. Left out: notebooks that show a few images or whose networks are small whatever the profile, times (20), and the fits of CLAM.
    Raises UnknownName for a profile, ValueError for a rate that is not above 0.
    """
    settings = settings_of(profile)
    if not like("rate", rate, 1.0) > 0:
        raise ValueError(f"rate is {rate}; TFLOP/s above 0 are needed")
    with _one_thread():
        asked, rows = list(requests(settings)), []
        with track(len(asked), "evaluations counted") as step:
            for one in asked:
                count = counter(one.model)
                rows.append([PAPERS[one.notebook[0]], one.notebook, one.model, one.data, one.images, one.images * count.request(one), count.forward])
                step()
    table = pd.DataFrame(rows, columns=[*COLUMNS[:5], "passes", "flop"])
    table = table.groupby(COLUMNS[:4] + ["flop"], sort=False).agg({"images": "max", "passes": "sum"}).reset_index()
    table["PFLOP"] = table["passes"] * table["flop"] / 1e15
    table["hours"] = table["PFLOP"] * 1e15 / (rate * 1e12) / 3600
    table = table.assign(**{"passes per image": table["passes"] / table["images"]})[COLUMNS]
    table.attrs["assumed"] = (
        f"profile '{profile}', one class per image; a GPU that sustains {rate:g} TFLOP/s in float32 and waits for nothing "
        f"(an H100 has 67 without tensor cores, of which {RATE:g} are 30 %)"
    )
    return table


def said(table):
    """What the whole profile costs, in two sentences: the result of `estimate`."""
    hours = table.groupby("paper", sort=False)["hours"].sum()
    most = table.groupby("notebook", sort=False)["hours"].sum()
    return (
        f"Counted together, the notebooks of the papers take {table['PFLOP'].sum():,.0f} PFLOP or {hours.sum():,.0f} hours of one GPU, at most; {100 * hours.max() / hours.sum():.0f} % of that for "
        f"{hours.idxmax()}. The costliest notebook is {most.idxmax()}, with {most.max():,.1f} hours. Assumed: {table.attrs['assumed']}."
    )


def by_paper(table):
    """The sums of `estimate` for each paper, and of all."""
    sums = table.groupby("paper", sort=False)[["PFLOP", "hours"]].sum()
    return pd.concat([sums, sums.sum().to_frame("all").T.rename_axis("paper")]).reset_index()


# -- what the notebooks ask for ------------------------------------------------------------------------------------------


def requests(settings):
    """Every `evaluate` of the papers' notebooks with the settings of a profile, as a Request per network and data set."""
    models, data, usual = settings["models"], settings["datasets"], settings["hyper"]
    first, last, study, early = models[:1], models[-1:], settings["study"], settings["early"]
    images = {name: settings["images"].get(name, settings["images"]["other"]) for name in data}

    def ask(notebook, models, data, methods, metrics, limit=None):
        asked = with_hyper(methods, "method", usual), with_hyper(metrics, "metric", usual)
        yield from (Request(notebook, model, name, limit or images[name], *asked) for model in models for name in data)

    faithful = list(RUNNING[:4])
    yield from ask("10", models, data, [name for name in known_methods() if name not in settings["costly"]], faithful)
    for n in settings["permutations"]:
        yield from ask("11", first, data, ("shap-cam", {"permutations": n}), ("cosine-to", {"permutations": n}), min(20, study))
    tried = {f"{kind} {n}": ("shap-cam", {"permutations": n, "sampling": kind}) for kind in ("plain", "antithetic", "sobol") for n in settings["permutations"][1:-1]}
    yield from ask("11", first, data[:1], tried, ("cosine-to", {"permutations": max(settings["permutations"])}), min(5, study))
    layers = {layer: ("lift-cam", {"layer": layer}) for layer in deep_layers(first[0])}
    for layer, method in layers.items():
        yield from ask("12", first, data[:1], {layer: method}, ("cosine-to", {"layer": layer, "permutations": early}), min(20, study))
    yield from ask("12", first, data, layers, faithful)
    solutions, K = ["lift-cam", "ablation-cam", "lrp-cam", "grad-cam", "grad-cam++", "xgrad-cam"], counter(first[0]).channels()
    fits = [(name, {"samples": n}) for name in ("lime-cam", "kshap-cam") for n in (K, 10 * K)]
    reference = ("cosine-to", {"permutations": settings["reference"]})
    yield from ask("14", first, data, [*solutions, *fits], reference, study)
    counts = [K // 4, K // 2, 3 * K // 4, K, 5 * K // 4, 3 * K // 2, 2 * K, 5 * K, 10 * K]
    yield from ask("14", first, data[:1], [("kshap-cam", {"samples": n, "sampling": kind}) for kind in ("plain", "paired") for n in counts], reference, min(20, study))
    yield from ask("14", last, data, ["lift-cam", "ablation-cam"], reference)
    yield from ask("14", first, data, ["lrp-cam", "grad-cam", "lift-cam", *fits[:2]], faithful)

    every = ["grad-cam", "grad-cam++", ("layer-cam", {"layers": "all"}), "score-cam", "rise", "collection-cam", "random"]
    yield from ask("21", models, data[:1], every, ["average-drop", "increase-in-confidence", "deletion", "insertion", "overall"], settings["curves"])
    cases = [(name, {"layers": n}) for name in ("grad-cam", "grad-cam++", "layer-cam") for n in range(1, 5)]
    yield from ask("22", models, data[:1], cases, "proportion", settings["curves"])
    shown = ["guided-backprop", "grad-cam", "collection-cam", "edges"]
    yield from ask("25", models, data[:1], shown, [("sanity-cascading", {"start": "last-convolution"}), "sanity-independent"], settings["sanity"])
    yield from ask("25", first, data[:1], shown, [("sanity-cascading", {"similarity": kind}) for kind in ("spearman", "ssim", "hog")], max(settings["sanity"] // 4, 1))

    yield from ask("30", models, data[-2:], {**hedging.methods(), **hedging.gammas(), **hedging.ablation()}, "pointing-game")
    named = ["grad-cam", "guided-backprop", "contrastive-excitation-backprop", "clrp", "relevance-cam", "rsp", "agf", "gradient-hedging", "lrp", "rap", "random"]
    shares = {f"top {share} %": ("morf-insertion", {"steps": 1, "share": share / 100}) for share in range(1, 21)}
    yield from ask("31", models, data[:2], named, shares | {"morf-perturbation": "morf-perturbation"}, settings["sanity"])
    third = {*published(hedging.PAPER, "3")["method"], "grad-cam", "lrp", "rap", "fullgrad", "center", "random"}
    yield from ask("32", models, data[:2], sorted(third), "outside-inside-ratio", study)
    yield from ask("33", models, data[-2:], ["gradient-hedging", "guided-backprop", "edges"], "sanity-cascading", settings["sanity"])

    yield from ask("40", models, data[:1], clam.methods(), "pointing-energy")
    yield from ask("41", models, data[:1], clam.methods(), clam.PERTURBED)
    yield from ask("42", models, data[:1], clam.methods(), "iou")


# -- what one image costs --------------------------------------------------------------------------------------------------


class Counter:
    """Forward passes of a network at its own size, counted on one image."""

    def __init__(self, name):
        self.model, side = _network(name)
        self.x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with Unworked():
            self.y = predict(self.model, self.x).argmax(1)
        self.forward, self.known = flops(lambda: predict(self.model, self.x)), {}

    def request(self, one):
        """What one image of a Request costs, in forward passes."""
        maps = [cost for method in one.methods if (cost := self.method(method.name, method.arguments)) is not None]
        every = self.metrics([metric for metric in one.metrics if metric.name in RUNNING])
        again = sum(self._blocks(metric.arguments.get("start", "logits")) for metric in one.metrics if explains_again(metric))
        found = [self.method("shap-cam", {**metric_info("cosine-to").hyper, **metric.arguments}) for metric in one.metrics if metric.name == "cosine-to"]
        return 1 + (1 + again) * sum(maps) + len(maps) * every + sum(found)  # 1: the images as they are

    def method(self, name, hyper):
        """What a map costs; None for a method that cannot explain the network."""
        if name == "clam":
            base = clam.PLAIN[hyper.get("base", "clrp")]
            return self.method(*((base, {}) if isinstance(base, str) else base)) + REFINING
        if name == "xrai":  # from two baselines; its segments run no network
            return 2 * self.method("integrated-gradients", {"steps": hyper.get("steps", method_info(name).hyper["steps"])})
        if name == "score-cam":
            return self.channels() + 1
        name = ALIKE.get(name, name)
        known = method_info(name).hyper
        given = {key: value for key, value in {**known, **hyper}.items() if key in known and key not in FREE and (value != known[key] or key in LINEAR)}
        try:
            return self._counted(name, given, lambda own: explain(self.model, self.x, self.y, name, **own))
        except NotApplicable:
            return None

    def metrics(self, asked):
        """What metrics that run the network cost for a map, beside what the image as it is costs."""
        if not asked:
            return 0
        maps = torch.rand(1, *self.x.shape[2:], generator=torch.Generator().manual_seed(1))
        settings = [(one.name, {**metric_info(one.name).hyper, **one.arguments}) for one in asked]
        most = max(own.get("steps", 1) for _, own in settings)

        def run(steps):
            logits(self.model, self.x)
            for name, own in settings:
                score(name, self.model, self.x, self.y, maps, **own | (steps if own.get("steps") == most else {}))

        return self._counted(repr(settings), {"steps": most}, run) - 1

    def channels(self):
        """The channels of the layer that is explained by default."""
        with Unworked():
            return coefficients(self.model, self.x, self.y, "grad-cam").shape[1]

    def _counted(self, name, given, run):
        """Forward passes of run(hyper-parameters); where they are linear in one, from what they are at two small values of it."""

        def count(own):
            key = name, repr(sorted(own.items()))
            if key not in self.known:
                self.known[key] = flops(sharing()(partial(run, own))) / self.forward
            return self.known[key]

        return _linear(given, count)

    def _blocks(self, start):
        """How many parts of the network a sanity check draws anew."""
        names = blocks(self.model)
        flat = [all(p.dim() < 4 for p in self.model.get_submodule(name).parameters()) for name in names]
        return len(names) if start == "logits" else len(names) - flat.index(False)


counter = cache(Counter)


def _linear(given, count):
    """count(given), from what it is at two small values of the hyper-parameter in which it is linear."""
    for name in given.keys() & LINEAR:
        low, high = LINEAR[name]
        if given[name] > high:
            fewer, more = (count(given | {name: n} | ({"least": n} if name == "most" else {})) for n in (low, high))
            return fewer + (more - fewer) / (high - low) * (given[name] - low)
    return count(given)


def _network(name):
    """A network in its own size with weights that mean nothing, and the side of its images."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        model = load_model(name, weights="random", device="cpu")
        return model, model.input_size
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None).eval()
    model = model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(1)
    model.classes = tuple(map(str, range(1000)))  # what is known need not be asked of a forward pass
    return model, next(iter(torchvision.models.get_model_weights(name))).transforms().crop_size[0]


# -- counting --------------------------------------------------------------------------------------------------------------


def flops(function):
    """Floating-point operations of a call: torch's formulas for convolutions and matrix products, none of which is worked out."""
    with Unworked() as counted, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers of no meaning do not add up
        function()
    return counted.flops


@contextmanager
def _one_thread():
    """Counting is thousands of calls that do next to nothing: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Unworked(TorchDispatchMode):
    """While active, nothing large is worked out: whatever takes large tensors gives others of the right shape, with numbers of no meaning."""

    shapes = {}  # call -> what it gives, on the device meta
    floats = torch.rand(0)  # the memory of all large tensors of floats

    def __init__(self):
        super().__init__()
        self.flops, self.made = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = self._called(function, args, kwargs or {})
        if function.overloadpacket in flop_registry:
            self.flops += flop_registry[function.overloadpacket](*args, **kwargs or {}, out_val=found)
        return found

    def _called(self, function, args, kwargs):
        if function.overloadpacket is torch.ops.aten.all:  # whether numbers are what they have to be: these are not, and pass
            return torch.ones_like(function(*args, **kwargs))
        if function.is_view or not any(map(self._large, _flat((args, kwargs)))):
            return function(*args, **kwargs)
        if function._schema.is_mutable:  # writes into what it is given: not into what has no meaning
            return args[0] if self._unworked(args[0]) else function(*args, **kwargs)
        if (call := (function, _described((args, kwargs)))) not in self.shapes:
            try:
                self.shapes[call] = function(*_each(_on_meta, args), **_each(_on_meta, kwargs))
            except (NotImplementedError, RuntimeError):  # the shape itself rests on values, or the result is on another device
                return function(*args, **kwargs)
        found = self.shapes[call]
        if isinstance(found, torch.Tensor) and found.dtype == torch.bool:  # what is done next may hang on signs: stand-ins are positive
            return function(*args, **kwargs)
        return _each(self._standin, found)

    def _large(self, one):
        """Whether something is a large tensor, or a part of one that was not worked out."""
        return isinstance(one, torch.Tensor) and (one.numel() > LARGE or self._unworked(one))

    def _unworked(self, one):
        return isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() == self.floats.data_ptr()

    def _standin(self, like):
        """A tensor like another: floats in (0, 1), whole numbers all zero. Large ones share their memory, each from another place on; small ones are the same every time."""
        if not like.is_floating_point():
            return torch.zeros((), dtype=like.dtype).expand(like.shape)
        if len(self.floats) < like.numel() + 2**22:
            Unworked.floats = torch.rand(2**20, generator=torch.Generator().manual_seed(0)).repeat(-(-(like.numel() + 2**22) // 2**20))
        if like.numel() <= LARGE:
            return self.floats[: like.numel()].to(like.dtype, copy=True).view(like.shape)
        place, self.made = 16 * (self.made % 2**18), self.made + 1
        return self.floats[place : place + like.numel()].view(like.shape).to(like.dtype)


def _on_meta(tensor):
    return tensor.to("meta")


def _each(function, value):
    """What an operation takes or gives, with function(tensor) in place of every tensor."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _each(function, one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(_each(function, one) for one in value)
    return value


def _flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, dict):
            yield from _flat(value.values())
        else:
            yield value


def _described(value):
    """What decides the shape of a result: tensors by shape and type, everything else by what it is."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    return tuple((name, _described(one)) for name, one in value.items()) if isinstance(value, dict) else (type(value), value)

"""Time, memory and agreement against the peers: the same model, images and process, results as ratios.

`shapley` compares the shares of the channels with captum's ShapleyValueSampling, FeatureAblation, Lime and KernelShap on a head
whose features are there already (one feature per channel), and with grad-cam's AblationCAM and ScoreCAM on the whole model.
What would take a peer too long is measured in part and multiplied, and says so in the column `note`.
"""

import io
import os
import time
from contextlib import redirect_stderr
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torchvision.models import vgg16

from xai_repro import plots
from xai_repro.explain import coefficients
from xai_repro.methods.shapley import draw_permutations
from xai_repro.models import load_model
from xai_repro.progress import track
from xai_repro.registry import method_info
from xai_repro.split import Split, default_layer

BATCHES = (1, 16, 128)  # captum's perturbations_per_eval: the fastest of these is taken
LOGITS = 5  # the spread of the logits that random weights are scaled to, that of a trained network


def shapley(quick=False, model=None, size=224, permutations=100, samples=512, channels=64, repeats=3, threads=1):
    """One row per comparison: seconds of wall clock and CPU, their ratios (median, least, greatest), peak MB, agreement.

    quick: mini-vgg at 96 x 96, one repeat. model: a torchvision VGG, by default vgg16 with random weights. channels: of all, that
    grad-cam is measured on. threads: of torch, for ours and theirs. Batch 1. Raises ModuleNotFoundError without the peers,
    ValueError for another model.
    """
    attr, cams = _peers()
    if quick:
        size, permutations, samples, channels, repeats = 96, 10, 64, 8, 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = model or (load_model("mini-vgg", weights="random", device="cpu") if quick else vgg16())
            if not hasattr(model, "classifier") or not hasattr(model, "avgpool"):
                raise ValueError(f"the benchmark takes a torchvision VGG; got {type(model).__name__}")
            comparisons = _comparisons(attr, cams, model, size, permutations, samples, channels)
            with track(len(comparisons), "comparisons") as step:
                rows = [_row(step, **{"repeats": repeats} | comparison) for comparison in comparisons]
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame(rows).assign(model=type(model).__name__, size=size, threads=threads, repeats=repeats, torch=torch.__version__)


def write(table, folder):
    """bench_shapley.csv, .json and .svg in a folder; the path of the figure."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "bench_shapley.csv", index=False)
    table.to_json(folder / "bench_shapley.json", orient="records", indent=1)
    return plots.save(figure(table), folder / "bench_shapley.svg")


@plots._styled
def figure(table):
    """How many times as long a peer takes, one bar per comparison, with the least and the greatest ratio; the line is parity.

    table: the result of `shapley`, columns task, peer, ratio, least, greatest.
    """
    drawn = Figure(figsize=(plots.WIDTH, 0.5 * len(table) + 1), layout="constrained")
    axis = drawn.subplots()
    spread = [table["ratio"] - table["least"], table["greatest"] - table["ratio"]]
    axis.barh(range(len(table)), table["ratio"], xerr=spread, color=plots.COLOURS[0], ecolor="0.3", height=0.6)
    for place, ratio in enumerate(table["ratio"]):
        axis.annotate(f"{ratio:.3g}", (table["greatest"].iat[place], place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=10)
    labels = [f"{task}\n{peer}" for task, peer in zip(table["task"], table["peer"])]
    axis.set(yticks=range(len(table)), ylim=(len(table) - 0.5, -0.5), xscale="log", xlabel="time of the peer / ours")
    axis.set_yticks(range(len(table)), labels, fontsize=9)
    axis.axvline(1, color="0.4", linewidth=1)
    axis.margins(x=0.15)
    return drawn


def _peers():
    try:
        import captum.attr
        import pytorch_grad_cam
    except ImportError as missing:
        raise ModuleNotFoundError(f"the benchmark needs its peers, and {missing.name} is missing: pip install xai-repro[bench]") from missing
    return captum.attr, pytorch_grad_cam


def _comparisons(attr, cams, model, size, permutations, samples, channels):
    """What _row takes, for each comparison."""
    x = torch.randn(1, 3, size, size)
    model = model.eval().requires_grad_(False)
    spread = model(x).std()
    model.classifier[-1].weight *= LOGITS / spread
    model.classifier[-1].bias *= LOGITS / spread
    layer = default_layer(model)
    above = int(layer.split(".")[1]) + 1
    head = nn.Sequential(*model.features[above:], model.avgpool, nn.Flatten(), model.classifier)
    split, y = Split(model, x, layer), model(x).argmax(1)
    A, K, c = split.A, split.A.shape[1], int(y)
    mask = torch.arange(K)[None, :, None, None].expand_as(A).contiguous()
    some = Split(model, x, layer)
    some.A = torch.where(torch.arange(K)[:, None, None] < channels, A, 0)  # the channels that the peer is measured on
    channels, live = min(channels, K), int((some.A.amax((2, 3)) > 0).sum())

    def ours(name, split=split, **hyper):
        alpha = method_info(name).coefficients.__wrapped__
        return lambda n=None: alpha(split, y, **(hyper if n is None else hyper | {"permutations": n}))[0]

    def captum(name, **options):
        peer = getattr(attr, name)(head) if name != "Lime" else attr.Lime(head, _lasso(), _closeness)
        if name == "ShapleyValueSampling":  # the same permutations as ours
            peer.permutation_generator = lambda features, n: draw_permutations(features, n, "plain", 0).tolist()

        def run(n=None, batch=1):
            number = {} if n is None else {"n_samples": n}
            shares = peer.attribute(A, target=c, feature_mask=mask, perturbations_per_eval=batch, **options, **number)
            return torch.stack([shares[0, k].flatten()[0] for k in range(K)])

        return run

    def grad_cam(name):
        def run(n=None):
            target = model.get_submodule(layer)
            with getattr(cams, name)(model, [target]) as cam, redirect_stderr(io.StringIO()), torch.no_grad():  # its hooks are in no one's way
                cam.batch_size = min(channels, 16)
                weights = cam.get_cam_weights(x, target, [lambda output: output[c]], A[:, : n or channels].numpy(), None)
            return torch.as_tensor(weights)[0] * (split.logits[0, c] if name == "AblationCAM" else 1)

        return run

    partly, few = f"{channels} of {K} channels measured", min(2, permutations)
    note = f"{few} of {permutations} permutations measured of both"
    return [
        dict(task=f"shap-cam, {permutations} permutations", peer="captum ShapleyValueSampling", ours=ours("shap-cam", permutations=permutations),
             theirs=captum("ShapleyValueSampling"), few=few, light=1, times=permutations / few, ours_times=permutations / few, note=note, batches=BATCHES),
        dict(task="ablation-cam", peer="captum FeatureAblation", ours=ours("ablation-cam"), theirs=captum("FeatureAblation"), batches=BATCHES),
        dict(task=f"lime-cam, {samples} samples", peer="captum Lime", ours=ours("lime-cam", samples=samples),
             theirs=captum("Lime", n_samples=samples), note="other draws", batches=BATCHES),
        dict(task=f"kshap-cam, {samples} samples", peer="captum KernelShap", ours=ours("kshap-cam", samples=samples),
             theirs=captum("KernelShap", n_samples=samples), note="other draws", batches=BATCHES),
        dict(task="ablation-cam with trunk", peer="grad-cam AblationCAM", ours=lambda: coefficients(model, x, y, "ablation-cam", layer)[0],
             theirs=grad_cam("AblationCAM"), light=16, times=K / channels, note=partly, repeats=1),
        dict(task="score-cam", peer="grad-cam ScoreCAM", ours=ours("score-cam", some, weight="softmax"), theirs=grad_cam("ScoreCAM"), light=16,
             times=K / channels, ours_times=K / channels, note=f"{partly} of both, {live} of them live; corners aligned there", repeats=1),
    ]  # fmt: skip


def _lasso():
    from captum._utils.models.linear_model import SkLearnLasso

    return SkLearnLasso(alpha=0.01 / (2 * 0.135))  # beta / (2 psi), psi about exp(-1/2 / 0.5^2)


def _closeness(given, perturbed, coalition, **_):
    return torch.exp(-(given - perturbed).square().sum() / given.square().sum() / 0.5**2)


def _row(step, repeats, task, peer, ours, theirs, few=None, light=None, times=1, ours_times=1, note="", batches=()):
    """Ours and theirs in turn, as often as asked.

    few: n that the two are compared with; light: n for the peer's trial runs.
    """
    options, extent, trial = ({} if n is None else {"n": n} for n in (None, few, light))
    if batches:
        spent = {batch: _timed(lambda: theirs(batch=batch, **trial))[0] for batch in batches}
        options["batch"] = min(spent, key=spent.get)
        note = "; ".join(filter(None, [note, f"perturbations_per_eval {options['batch']}"]))
    row = {"ours_mb": _peak(lambda: ours(**extent)), "peer_mb": _peak(lambda: theirs(**options, **trial))}  # the warm-up, too
    mine, other = ours(**extent).double(), theirs(**options, **extent).double()
    mine = mine[: len(other)]
    row["cosine"] = nn.functional.cosine_similarity(mine, other, dim=0).item()
    row["max_difference"] = ((mine - other).abs().max() / mine.abs().max()).item()
    runs = [(*_timed(lambda: ours(**extent)), *_timed(lambda: theirs(**options, **extent))) for _ in range(repeats)]
    runs = pd.DataFrame(runs, columns=["ours", "ours_cpu", "peer", "peer_cpu"]) * [ours_times, ours_times, times, times]
    ratio = runs["peer"] / runs["ours"]
    row |= {"ours_seconds": runs["ours"].median(), "peer_seconds": runs["peer"].median(), "ratio": ratio.median(), "least": ratio.min()}
    row |= {"greatest": ratio.max(), "cpu_ratio": (runs["peer_cpu"] / runs["ours_cpu"]).median()}
    step(1)
    return {"task": task, "peer": peer, **row, "note": note}


def _timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak(function):
    """Most MB that a call holds of torch's memory at one time, what was there before not counted."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its own notices are not for the reader
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return pd.Series([event.nbytes() for event in events if event.name() == "[memory]"], dtype=float).cumsum().max() / 2**20

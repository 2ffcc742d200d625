"""Time, memory and agreement against the peers: the same model, images, class and process, results as ratios.

`run` measures suites of comparisons, `figure` draws the table that it returns, and `write` keeps both: `maps` sets the methods
beside grad-cam, torchcam, captum and zennit, `curves` insertion and deletion beside torchcam and quantus, `shapley` the shares of
the channels beside captum, `relevance` what is sent back through a network beside zennit, captum and TorchRay. The networks have random weights, since time does not depend on what they have learnt.
"""

from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from xai_repro.bench import curves, maps, relevance, shapley
from xai_repro.bench.measure import NEAR, NOBODY, compare, flops
from xai_repro.bench.networks import cases
from xai_repro.bench.peers import need
from xai_repro.errors import unknown
from xai_repro.store.files import whole
from xai_repro.store.progress import track
from xai_repro.study import plots

SUITES = {"maps": maps.tasks, "curves": curves.tasks, "shapley": shapley.tasks, "relevance": relevance.tasks}
FULL = {
    "networks": {"resnet50": 224, "vgg16": 224, "mobilenet_v2": 224},  # names and the side of the images in pixels
    "relevance": {"vgg16": 224, "resnet50": 224, "densenet121": 224},  # the same for relevance
    "batches": (1, 8),  # images at once; what takes long is measured on one alone
    "repeats": 5,
    "channels": 64,  # of all, that Score-CAM and grad-cam's Ablation-CAM are measured on
    "steps": 50,  # of integrated gradients
    "samples": 25,  # of SmoothGrad
    "points": 15,  # of a curve; one less divides the number of pixels
    "permutations": 100,
    "coalitions": 512,
}
QUICK = {
    "networks": {"resnet18": 64, "mini-vgg": 96, "mobilenet_v2": 96}, "relevance": {"vgg16": 64, "resnet50": 64}, "repeats": 3, "channels": 32, "steps": 16, "samples": 16, "points": 9,
    "permutations": 10, "coalitions": 64,
}  # fmt: skip


def run(suite="all", quick=False, threads=1, tasks="*", **changes):
    """One row per comparison of ours with a peer.

    suite: "maps", "curves", "shapley", "relevance" or "all". quick: small networks, a minute or two in place of an hour. threads: of torch, for
    ours and theirs. tasks: shell pattern of the tasks' names. changes: entries of FULL, in place of those.

    Columns: suite, task, peer and its version; network, size and images; ours_seconds, peer_seconds: medians of wall clock; ratio,
    least, greatest: peer / ours over the repeats, each of them the best of a few calls in turn; the same with cpu for CPU time;
    ours_mb, peer_mb: peaks of torch's memory (numpy's is not seen); ours_forwards, peer_forwards: arithmetic in forward passes of
    the same images; cosine: the least over the images; max_difference: the largest, relative to the greatest value of ours (both
    NaN where both draw at random); same: whether the peer's definition is ours; verdict: ours is "faster", "equal" or "slower" than
    the fastest peer of the same definition, "" in the other rows of a task; note: settings, conventions, and why ours takes longer
    where it is more than 10 %. Slower: by more than 10 % in the median; faster: that, and in every repeat. With one thread the
    verdict goes by CPU time, which other programs change less, otherwise by wall clock.

    Raises ModuleNotFoundError without the peers, UnknownName for another suite or setting, ValueError where no task is left.
    """
    if suite not in ("all", *SUITES):
        raise unknown("benchmark", suite, ["all", *SUITES])
    for name in changes:
        if name not in FULL:
            raise unknown("setting of the benchmark", name, FULL)
    chosen = list(SUITES) if suite == "all" else [suite]
    need(chosen)
    settings = FULL | (QUICK if quick else {}) | changes
    with _undisturbed(threads):
        jobs = []
        for names, case in _cases(chosen, settings):
            found = [(name, task) for name in names for task in SUITES[name](case, settings) if fnmatchcase(task.name, tasks)]
            unit = flops(lambda: case.model(case.x)) if found else 0
            about = {"network": case.name, "size": case.x.shape[-1], "images": len(case.x)}
            jobs += [({"suite": name, "task": task.name} | about, task, unit) for name, task in found]
        if not jobs:
            raise ValueError(f"nothing to measure: {suite} has no task '{tasks}' for {', '.join(settings['networks'])}")
        rows = []
        with track(len(jobs), "tasks") as step:
            for about, task, unit in jobs:
                rows += [about | row for row in compare(task, unit, settings["repeats"], cpu=threads == 1)]
                step(1)
    return pd.DataFrame(rows).assign(threads=threads, repeats=settings["repeats"], torch=torch.__version__)


def _cases(chosen, settings):
    """Pairs (suites, case): relevance is measured on networks of its own, on one image."""
    usual = [name for name in chosen if name != "relevance"]
    for case in cases(settings["networks"], settings["batches"]) if usual else []:
        yield usual, case
    for case in cases(settings["relevance"], (1,)) if "relevance" in chosen else []:
        yield ["relevance"], case


@contextmanager
def _undisturbed(threads):
    """A number of threads and a random state of torch's own, as they were afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(before)


def write(table, folder):
    """bench.csv, bench.json and bench.svg in a folder; the path of the figure."""
    folder = Path(folder)
    with whole(folder / "bench.csv") as path:
        table.to_csv(path, index=False)
    with whole(folder / "bench.json") as path:
        table.to_json(path, orient="records", indent=1)
    return plots.save(figure(table), folder / "bench.svg")


@plots.styled
def figure(table):
    """How many times as long a peer takes as ours: one panel per network, one line per task, one marker per peer.

    Bars reach from the least to the greatest ratio; a hollow marker: a peer whose definition is another. The line is parity, the
    band 10 % around it. CPU time with one thread, wall clock otherwise. table: the result of `run`.
    """
    table = table[table["peer"] != NOBODY]
    kind = "cpu_" if (table["threads"] == 1).all() else ""
    tasks = list(dict.fromkeys(table["task"]))
    lines = sorted(set(zip(table["task"], table["images"])), key=lambda line: (tasks.index(line[0]), line[1]))
    packages, networks = (list(dict.fromkeys(column)) for column in (table["peer"].str.split().str[0], table["network"]))
    drawn = Figure(figsize=(plots.WIDTH, 0.28 * len(lines) + 1.2), layout="constrained")
    for axis, network in zip(drawn.subplots(1, len(networks), sharex=True, sharey=True, squeeze=False)[0], networks):
        axis.axvspan(1 / NEAR, NEAR, color="0.9", linewidth=0)
        axis.axvline(1, color="0.4", linewidth=1)
        for (task, images), part in table[table["network"] == network].groupby(["task", "images"]):
            for number, row in enumerate(part.to_dict("records")):
                package = packages.index(row["peer"].split()[0])
                place, colour = lines.index((task, images)) + 0.2 * (number - (len(part) - 1) / 2), plots.COLOURS[package % 8]
                axis.plot([row[f"{kind}least"], row[f"{kind}greatest"]], [place, place], color=colour, linewidth=2)
                face = colour if row["same"] else "white"
                axis.plot(row[f"{kind}ratio"], place, plots.MARKERS[package % 8], color=colour, markersize=5, markerfacecolor=face)
        axis.set(xscale="log", xlabel="time of the peer / ours", ylim=(len(lines) - 0.5, -0.5))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_yticks(range(len(lines)), [task if images == 1 else f"{task}, {images} images" for task, images in lines], fontsize=9)
        axis.set_title(network, fontsize=11, loc="left")
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
    shown = [axis.plot([], [], plots.MARKERS[n % 8], color=plots.COLOURS[n % 8], label=name)[0] for n, name in enumerate(packages)]
    drawn.legend(handles=shown, loc="outside lower center", ncols=len(packages), frameon=False, fontsize=10)
    return drawn

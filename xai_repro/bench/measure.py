"""Ours and the peers in turn: time, memory, arithmetic and agreement."""

import io
import os
import time
import warnings
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Callable

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SECONDS, CALLS = 0.06, 6  # a repeat is the best of as many calls as fit in these seconds, at most CALLS
NOBODY = "none"  # the peer of what no other library has
NEAR = 1.1  # times within 10 % are called equal


@dataclass(frozen=True)
class Peer:
    """A peer's way to a result.

    name: its package and what is used of it. ready: a context manager that yields the call; what it sets up and takes down is not
    measured. chunks: chunk sizes to choose from, given to the call. same: whether the definition is ours. drawn: whether both draw
    at random, so that there is nothing to compare. times: what the measured time is multiplied with. note: conventions.
    """

    name: str
    ready: Callable
    chunks: tuple = ()
    same: bool = True
    drawn: bool = False
    times: float = 1
    note: str = ""


@dataclass(frozen=True)
class Task:
    """What is computed, our way to it, and the peers' ways.

    view: what is done to the results before they are compared. times: what our time is multiplied with. slower: why ours may take
    longer, where counting does not tell.
    """

    name: str
    ours: Callable
    peers: list
    view: Callable = lambda result: result
    times: float = 1
    slower: str = ""


def always(call):
    """A `ready` for what needs no setting up."""
    return lambda: nullcontext(call)


def compare(task, unit, repeats, cpu):
    """One row per peer of a task, or one of NOBODY. unit: operations of a forward pass; cpu: whether the verdict goes by CPU time."""
    ways = [Peer("ours", always(task.ours), times=task.times), *task.peers]
    batches = [_fastest_chunk(way) for way in ways]
    facts = [_facts(way, batch, unit) for way, batch in zip(ways, batches)]
    calls = [max(1, min(CALLS, int(SECONDS / fact["seconds"]))) for fact in facts]
    times = [[_best(*settings) for settings in zip(ways, batches, calls)] for _ in range(repeats)]
    wall, spent = (pd.DataFrame([[way[kind] for way in turn] for turn in times]) * [way.times for way in ways] for kind in (0, 1))
    rows, kind = [], "cpu_" if cpu else ""
    for number, (way, batch, theirs) in enumerate(zip(ways, batches, facts)):
        if way.name == "ours":
            continue
        row = {"peer": way.name, "version": version(way.name.split()[0])}
        row |= _ratios("", wall[0], wall[number]) | _ratios("cpu_", spent[0], spent[number])
        row |= {"ours_mb": facts[0]["mb"], "peer_mb": theirs["mb"]}
        row |= {"ours_forwards": facts[0]["forwards"], "peer_forwards": theirs["forwards"]}
        row |= agreement(task.view(facts[0]["result"]), task.view(theirs["result"]), way.drawn)
        row |= {"same": way.same, "verdict": ""}
        notes = ["other draws" if way.drawn else "", way.note, f"chunk {batch[0]}" if batch else ""]
        if row[f"{kind}ratio"] < 1 / NEAR:
            notes.append(why(row, kind, task.slower))
        rows.append(row | {"note": "; ".join(filter(None, notes))})
    if not task.peers:
        times = {f"ours_{clock}seconds": table[0].median() for clock, table in (("", wall), ("cpu_", spent))}
        rows.append({"peer": NOBODY, "version": ""} | times | {"ours_mb": facts[0]["mb"], "ours_forwards": facts[0]["forwards"], "same": False, "verdict": "", "note": ""})
    rivals = [row for row in rows if row["same"]]
    if rivals:
        fastest = min(rivals, key=lambda row: row[f"{kind}ratio"])
        fastest["verdict"] = verdict(fastest[f"{kind}ratio"], fastest[f"{kind}least"])
    return rows


def verdict(ratio, least):
    """What ratios of times, peer / ours, say of ours: a lead has to show in every repeat, the median is enough for a lag."""
    if ratio < 1 / NEAR:
        return "slower"
    return "faster" if ratio > NEAR and least > 1 else "equal"


def why(row, kind="", reason=""):
    """Why ours takes longer: it computes more, or spends the difference outside the arithmetic that is counted."""
    ours, peer = row["ours_forwards"], row["peer_forwards"]
    if ours > 1.05 * peer:
        counted = f"slower, as it costs {ours:.3g} forward passes against {peer:.3g}"
    else:
        gap = 1000 * (row[f"ours_{kind}seconds"] - row[f"peer_{kind}seconds"])
        counted = f"slower by {gap:.2g} ms at the same arithmetic ({ours:.3g} x a forward pass)"
    return ": ".join(filter(None, [counted, reason]))


def agreement(ours, theirs, drawn=False):
    """cosine: the least over the rows [B,...]; max_difference: the largest, relative to the greatest value of ours; NaN if drawn."""
    if drawn:
        return {"cosine": float("nan"), "max_difference": float("nan")}
    ours, theirs = (torch.as_tensor(values).detach().double().flatten(1) for values in (ours, theirs))
    alike = (ours == theirs).all(1)  # also two maps of zeros
    cosine = torch.where(alike, 1, torch.nn.functional.cosine_similarity(ours, theirs)).min().item()
    return {"cosine": cosine, "max_difference": ((ours - theirs).abs().max() / ours.abs().max()).item()}


def flops(function):
    """Floating-point operations of a call, by the formulas of torch's counter (convolutions and matrix products)."""
    with _Counter() as counter:
        function()
    return counter.total


class _Counter(TorchDispatchMode):
    """torch's own counter also follows the modules, which some peers' gradients of leaves do not bear."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, count = kwargs or {}, flop_registry.get(function._overloadpacket)
        if count is None:
            with self:  # in inference mode operations come whole
                parts = function.decompose(*args, **kwargs)
            return function(*args, **kwargs) if parts is NotImplemented else parts
        result = function(*args, **kwargs)
        self.total += count(*args, **kwargs, out_val=result)
        return result


def peak(function):
    """Most MB that a call holds of torch's memory at one time, what was there before not counted."""
    with _without_notices(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return pd.Series([event.nbytes() for event in events if event.name() == "[memory]"], dtype=float).cumsum().max() / 2**20


@contextmanager
def quiet():
    """Nothing that a peer prints or warns of is shown."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_notices():
    """Nothing that the profiler itself writes to the process's stderr is shown."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _fastest_chunk(way):
    """The fastest of the chunk sizes in a tuple, or an empty one, after a call to warm up."""
    if not way.chunks:
        return ()
    _best(way, way.chunks[:1], 1)
    return (min(way.chunks, key=lambda chunk: _best(way, (chunk,), 1)[1]),)


def _facts(way, batch, unit):
    """The result, and what one call costs; the first call warms up."""
    with quiet(), way.ready() as plain:
        call = partial(plain, *batch)
        result = call()
        seconds = _timed(call)[0]
        return {"result": result, "seconds": seconds, "mb": peak(call), "forwards": way.times * flops(call) / unit}


def _best(way, batch, calls):
    """The least wall-clock and the least CPU seconds of some calls."""
    with quiet(), way.ready() as call:
        return tuple(map(min, zip(*[_timed(partial(call, *batch)) for _ in range(calls)])))


def _timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def _ratios(kind, ours, theirs):
    ratio = theirs / ours
    seconds = {f"ours_{kind}seconds": ours.median(), f"peer_{kind}seconds": theirs.median()}
    return seconds | {f"{kind}ratio": ratio.median(), f"{kind}least": ratio.min(), f"{kind}greatest": ratio.max()}

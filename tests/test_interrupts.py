"""An interrupt at any line of the library leaves the model, torch's modes and the random state as they were."""

import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import xai_repro as xr
from contract import METHODS, METRICS, hyper
from toys import TOYS, images, seeded, state, Y
from torch.overrides import _get_current_function_mode_stack as mode_stack

from xai_repro.network import borrow

ROOT = str(Path(xr.__file__).parent)
SEEN = set()  # lines that an interrupt has hit, so that what all methods share is not tried with each of them in full
COUNT = []
EACH = 25  # lines of every method that are tried besides the new ones


class Interrupt(KeyboardInterrupt):
    pass


def watched(function, at=None):
    """Run a function; the lines of the library in the order in which they ran, and an Interrupt before line number `at`."""
    lines = []

    def local(frame, event, arg):
        if event == "line":
            lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(lines) - 1 == at:
                raise Interrupt
        return local

    def follow(frame, event, arg):
        return local if frame.f_code.co_filename.startswith(ROOT) else None

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines


def chosen(lines, name):
    """Where every line runs first and last, if no interrupt has hit it yet, and some others."""
    first, last = {}, {}
    for number, line in enumerate(lines):
        first.setdefault(line, number)
        last[line] = number
    new = [number for line in first if line not in SEEN for number in {first[line], last[line]}]
    SEEN.update(first)
    return sorted({*new, *random.Random(name).sample(range(len(lines)), min(EACH, len(lines)))})


def everything(model):
    return state(model), torch.is_grad_enabled(), mode_stack(), len(borrow._MINE.changes), len(borrow._MINE.models), [v.get(None) for v in borrow.CONTEXT], torch.get_rng_state().tolist()


def withstands(name, model, function):
    before = everything(model)
    function()  # what is remembered from then on is not done again
    lines = watched(function)
    assert everything(model) == before
    tried, hits = chosen(lines, name), 0
    for at in tried:
        try:
            watched(function, at)
        except Interrupt:
            hits += 1
        assert everything(model) == before, f"{Path(lines[at][0]).name}:{lines[at][1]} (line event {at} of {name})"
    function()
    assert hits > 0.95 * len(tried)  # a run can be some lines shorter than another, where it finds something remembered
    COUNT.append(hits)
    return len(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_methods(name):
    for toy in ("vgg", "residual"):
        model, x = seeded(TOYS[toy].build).train(), images()
        try:
            xr.explain(model, x, Y, name, **hyper(name, TOYS[toy]))
        except ValueError:
            continue
        assert withstands(f"{name} {toy}", model, lambda: xr.explain(model, x, Y, name, **hyper(name, TOYS[toy]))) > 5
        return
    pytest.skip("needs another network")


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_interrupted_metrics(name):
    model, x = seeded(TOYS["vgg"].build).train(), images()
    info, truth = xr.metric_info(name), torch.zeros(3, 16, 16, dtype=torch.bool)
    truth[:, 4:9, 3:12] = True
    if info.truth == "parts":  # four strips of the object, of different worth
        strips = torch.stack([truth & (torch.arange(16) % 4 == n) for n in range(4)], 1)
        truth = torch.where(strips, torch.tensor([1.5, 0.5, 2.0, -1.0])[:, None, None], torch.nan)
    maps = xr.coefficients(model, x, Y, "grad-cam", layer="features.4") if info.maps == "coefficients" else xr.normalize(x[:, 0])
    settings = hyper(name, TOYS["vgg"], xr.metric_info) | ({"others": maps.flip(-1)} if name == "stability-iou" else {})
    withstands(name, model, lambda: xr.score(name, model, x, Y, maps, truth if info.truth else None, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["layer", "layers", "trace", "call", "untidy"])
def test_interrupted_cuts(what):
    """Ways to a layer that the methods above do not take: found by a trace, several, a chosen call, a trunk that runs twice."""
    from toy_untidy import WrittenAfter

    model, layer = (seeded(WrittenAfter), "cut") if what == "untidy" else (seeded(TOYS["vgg"].build), "features.4")
    model, x = model.train(), images()
    from xai_repro.network import layers

    def run():
        layers._TRACED.clear()
        asked = {"layer": {"layer": layer}, "layers": {"layers": ["features.2", layer]}, "trace": {}, "call": {"layer": f"{layer}#-1"}, "untidy": {"layer": layer}}
        return xr.explain(model, x, Y, "lift-cam", **asked[what])

    withstands(what, model, run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guided-backprop", "lift-cam", "sanity"])
def test_a_time_limit_by_signal(name):
    """A signal whose handler raises can hit torch's own Python code, also where it changes the stack of modes."""
    model, x = seeded(TOYS["vgg"].build).train(), images()
    before, hits = everything(model), 0

    def handler(*_):
        raise Interrupt

    def run():
        if name == "sanity":
            return xr.score("sanity-independent", model, x, Y, x[:, 0], method="guided-backprop")
        return xr.explain(model, x, Y, name, **({"layer": "features.4"} if name == "lift-cam" else {}))

    run()
    start = time.perf_counter()
    run()
    took = time.perf_counter() - start
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, took * (number % 100 + 1) / 90)
                try:
                    run()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                hits += 1
            except BaseException as error:  # torch may say it in its own words, but about the interrupt and nothing else
                assert "Interrupt" in repr(error) or isinstance(error.__context__, Interrupt) or isinstance(error.__cause__, Interrupt), repr(error)
                hits += 1
            assert everything(model) == before, number
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert hits > 100


@pytest.mark.slow
def test_there_were_many():
    assert sum(COUNT) > 1000 or len(COUNT) < 30, "with all of the tests above"

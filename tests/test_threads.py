"""Threads that share a model take turns; models that share nothing do not wait for each other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import xai_repro as xr
from torch import nn
from toys import TOYS, images, seeded, state, Y

from xai_repro.network.borrow import borrowed

METHODS = {"grad-cam": {}, "lift-cam": {}, "layer-cam": {}, "ablation-cam": {}, "guided-backprop": {}, "gradient": {}, "score-cam": {}, "shap-cam": {"permutations": 2}}


def layered(name):
    return {"layer": "features.4"} if "layer" in xr.method_info(name).hyper else {}


@pytest.mark.parametrize("train", [False, True])
def test_threads_that_share_a_model_get_the_maps_of_one_thread(train):
    """200 calls in 8 threads, and scores of metrics between them."""
    model, x = seeded(TOYS["vgg"].build), images()
    model.train(train)
    before = state(model)
    expected = {name: xr.explain(model, x, Y, name, **hyper, **layered(name)) for name, hyper in METHODS.items()}
    drops = xr.score("average-drop", model, x, Y, xr.normalize(expected["grad-cam"]))
    sanity = xr.score("sanity-cascading", model, x, Y, expected["gradient"], method="gradient")

    def call(number):
        name = list(METHODS)[number % len(METHODS)]
        got = xr.explain(model, x, Y, name, **METHODS[name], **layered(name))
        if number % 10 == 0:
            assert torch.equal(xr.score("average-drop", model, x, Y, xr.normalize(expected["grad-cam"])), drops)
        if number % 50 == 0:
            assert torch.equal(xr.score("sanity-cascading", model, x, Y, expected["gradient"], method="gradient"), sanity)
        return torch.equal(got, expected[name])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(200)))
    assert state(model) == before


def test_a_wrapper_and_what_it_wraps_are_one():
    net, x = seeded(TOYS["vgg"].build), images()
    wrapped = nn.Sequential(nn.Identity(), net)
    net.train()
    expected = xr.explain(net, x, Y, "grad-cam", layer="features.4")

    def call(number):
        model, layer = ((net, "features.4"), (wrapped, "1.features.4"))[number % 2]
        return torch.equal(xr.explain(model, x, Y, "grad-cam", layer=layer), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(100)))
    assert all(module.training for module in net.modules())


def test_different_models_do_not_wait_for_each_other():
    """Each thread is inside its own model's forward pass until the other is, too."""
    barrier = threading.Barrier(2, timeout=20)

    class Waits(nn.Module):
        def forward(self, x):
            barrier.wait()
            return x.flatten(1)[:, :3]

    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(xr.explain, Waits(), images(1), 0, "gradient") for _ in range(2)]
        assert all(one.result().shape == (1, 16, 16) for one in waits)


def test_parts_that_were_models_of_their_own_are_held_together():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    inside, order = threading.Event(), []

    def alone(name):
        order.append(name)
        return name

    assert borrowed(a, lambda: alone("a")) == "a" and borrowed(b, lambda: alone("b")) == "b"  # each has a lock of its own now
    both = nn.Sequential(a, b)

    def hold():
        inside.set()
        time.sleep(0.3)
        order.append("both")

    waiting = threading.Thread(target=lambda: borrowed(b, lambda: alone("b again")))
    holding = threading.Thread(target=lambda: borrowed(both, hold))
    holding.start()
    inside.wait(5)
    waiting.start()
    holding.join(5), waiting.join(5)
    assert order == ["a", "b", "both", "b again"]


def test_a_thread_may_borrow_again_what_it_has():
    model = seeded(TOYS["gap"].build)
    assert borrowed(model, lambda: borrowed(nn.Sequential(model), lambda: borrowed(model.features, lambda: 7))) == 7


def test_a_lock_is_free_again_after_an_error():
    model = seeded(TOYS["gap"].build)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            borrowed(model, lambda: 1 / 0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(borrowed, model, lambda: 7).result(5) == 7

"""evaluate: what metrics share, metrics that explain again, the profile."""

import json
import weakref

import pytest
import torch
from torch import nn
from toy_evaluation import Brightest, Calls, Data, evaluate, evaluation, run, samples, shard_files, shards_or_none, toys

from xai_repro import registry
from xai_repro.errors import UnknownName
from xai_repro.metrics.faithfulness import probability
from xai_repro.score import score


# -- what metrics share ---------------------------------------------------------------------------------------------


def rows_run(**request):
    """Images that pass through the model while a request is worked off, and its table."""
    seen = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        frame = run(**request)
    finally:
        handle.remove()
    assert (frame.status == "ok").all()
    return sum(seen), frame


FIVE = {"steps": 5}

CURVES = [("insertion", FIVE), ("deletion", FIVE), ("overall", FIVE)]


@pytest.mark.parametrize("metrics, passes", [
    (["toy-mean"], 0), (["average-drop"], 1), (["increase-in-confidence"], 1), (["average-drop-in-deletion"], 1),
    (["increase-in-confidence", "average-drop", "average-drop-in-deletion"], 2),  # O serves two metrics
    (CURVES[:1], 4), (CURVES[1:2], 4), (CURVES[2:], 8), (CURVES, 8), (CURVES[::-1], 8), ([*CURVES, "average-drop"], 9),
])  # fmt: skip
@pytest.mark.parametrize("many", [False, True])
def test_forward_passes(toys, metrics, passes, many):
    """One for the images of all methods, and per method what the metrics need beyond it."""
    data = Data(samples())
    data.multi_label = many
    for methods in (["toy-channel"], ["toy-channel", "toy-flat"]):
        rows, frame = rows_run(methods=methods, metrics=metrics, data=data)
        assert rows == 7 * (1 + len(methods) * passes)
    images = torch.stack([s.image for s in data])
    y = torch.tensor(frame.target[:7].to_numpy())
    for metric in metrics:
        name, hyper = (metric, {}) if isinstance(metric, str) else metric
        if name != "toy-mean":
            unit = evaluation.positive(images[torch.arange(7), y])
            values = frame.query("method == 'toy-channel'").query("metric == @name").value
            assert values.tolist() == pytest.approx(score(name, Brightest(), images, y, unit, **hyper).tolist(), rel=1e-5)


def test_what_metrics_share_is_forgotten_with_the_method(toys):
    alive, held = {}, []

    @registry.metric("toy-kept", higher_is_better=True, cite="none")
    def kept(model, x, y, maps, truth):
        """The probability of what the map keeps."""
        value = probability(model, x, y, maps)
        method = len(alive[maps.shape]) // 3
        alive[maps.shape].append(weakref.ref(maps))
        held.append([number // 3 for number, one in enumerate(alive[maps.shape]) if one() is not None and number // 3 < method])
        return value

    alive[3, 8, 8] = []
    methods = ["toy-channel", ("toy-channel", {"gain": 2.0}), "toy-flat"]
    frame = run(methods=methods, metrics=["toy-kept"], data=Data(samples(9)), limit=9)
    assert (frame.status == "ok").all() and held == [[]] * 9
    assert [one() for one in alive[3, 8, 8]] == [None] * 9


def test_unit_maps_are_made_once_for_all_metrics(toys, monkeypatch):
    made = []
    monkeypatch.setattr(evaluation, "normalize", lambda maps, normalize=evaluation.normalize: made.append(1) or normalize(maps))
    run(metrics=["toy-mean", "average-drop", "deletion", "toy-inside"])
    assert len(made) == 2 * 3  # methods, batches


def test_a_failing_metric_leaves_the_others_alone(toys):
    @registry.metric("toy-fails", higher_is_better=True, cite="none")
    def fails(model, x, y, maps, truth):
        """Asks for what is shared and fails."""
        probability(model, x, y, maps)
        raise ValueError("no")

    alone = run(metrics=["average-drop"])
    frame = run(metrics=["toy-fails", "average-drop"])
    assert set(frame.query("metric == 'toy-fails'").status) == {"no"}
    assert frame.query("metric == 'average-drop'").value.tolist() == alone.value.tolist()


# -- metrics that explain again -----------------------------------------------------------------------------------------


@pytest.fixture
def again(toys):
    """A metric with a method of its own, and what it was given."""
    given = Calls()

    @registry.metric("toy-again", higher_is_better=True, cite="none", maps="raw")
    def again(model, x, y, maps, truth, *, method="grad-cam", settings=None, layer=None):
        """What it explains with."""
        given[len(given)] = method, settings, layer
        return maps.mean((1, 2))

    @registry.method("toy-layered", family="toy", cite="none")
    def layered(model, x, y, *, layer=None, gain=1.0):
        """A method with a layer."""
        return x.mean(1)

    return given


class Layered(Brightest):
    """Two layers, so that they can be asked for."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()


def test_a_metric_that_explains_again_gets_the_method_at_hand(again):
    methods = ["toy-flat", ("toy-channel", {"gain": 2.0}), ("toy-layered", {"layer": "first", "gain": 3.0})]
    frame = run(methods=methods, metrics=["toy-again"], limit=3, model=Layered())
    assert list(again.values()) == [("toy-flat", {}, None), ("toy-channel", {"gain": 2.0}, None), ("toy-layered", {"gain": 3.0, "layer": "first"}, None)]
    assert (frame.status == "ok").all()
    assert [json.loads(text) for text in frame.hyper[::3]] == [{}, {"gain": 2.0}, {"gain": 3.0, "layer": "first"}]  # as asked for


def test_unless_it_is_given_one(again):
    run(methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-again", {"method": "toy-flat"})], limit=3)
    run(methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-again", {"settings": {"gain": 4.0}})], limit=3)
    run(methods=[("toy-layered", {"layer": "first"})], metrics=[("toy-again", {"layer": "second"})], limit=3, model=Layered())
    assert list(again.values()) == [("toy-flat", None, None), ("toy-channel", {"gain": 4.0}, None), ("toy-layered", {"layer": "first"}, "second")]


def test_shards_of_a_metric_that_explains_again(again, tmp_path, monkeypatch):
    def new(method, metric="toy-again"):
        before = shards_or_none(tmp_path)
        run(tmp_path, methods=[method], metrics=[metric], limit=3)
        return len(shards_or_none(tmp_path)) - len(before)

    assert new("toy-channel") == 1
    assert new(("toy-channel", {"gain": 1.0})) == 0  # the default
    assert new(("toy-channel", {"gain": 2.0})) == 1
    assert new("toy-flat") == 1 and new("toy-flat", ("toy-again", {"method": "toy-channel"})) == 1
    assert new("toy-flat", ("toy-again", {"settings": {"gain": 2.0}})) == 1
    code = []
    monkeypatch.setattr(shard_files, "_code", lambda function: code.append(function) or "")
    new("toy-flat")
    functions = {name: registry.method_info(name).function for name in ("toy-flat", "toy-channel", "grad-cam")}
    assert [name for name, function in functions.items() if function in code] == ["toy-flat"]  # and not the metric's default


# -- the profile --------------------------------------------------------------------------------------------------------


def test_a_profile_may_hold_hyper_parameters(toys, monkeypatch, tmp_path):
    plain = run(methods=["toy-channel"], metrics=["toy-inside"])
    settings = {"images": {"other": 7}, "hyper": {"toy-channel": {"gain": 2.0}, "toy-inside": {"power": 2}, "rise": {"masks": 5}}}
    monkeypatch.setattr(evaluation, "settings_of", lambda name: settings)
    frame = run(tmp_path, methods=["toy-channel", "toy-flat"], metrics=["toy-inside"], limit=None)
    assert [json.loads(text) for text in frame.hyper[::7]] == [{"gain": 2.0, "metric": {"power": 2}}, {"metric": {"power": 2}}]
    torch.testing.assert_close(torch.tensor(frame.value[:7].to_numpy()), torch.tensor(plain.value.to_numpy()) * 2 / 12)
    labelled = evaluate(Brightest(), Data(samples()), {"ours": "toy-channel"}, "toy-inside", limit=7)
    assert labelled.value.tolist() == frame.value[:7].tolist()
    by_hand = run(tmp_path, methods=[("toy-channel", {"gain": 2.0})], metrics=[("toy-inside", {"power": 2})], limit=None)
    assert by_hand.value.tolist() == frame.value[:7].tolist() and len(shards_or_none(tmp_path)) == 2
    given = run(methods=[("toy-channel", {})], metrics=[("toy-inside", {})])
    assert set(given.hyper) == {"{}"} and given.value.tolist() == plain.value.tolist()


def test_a_wrong_hyper_parameter_of_a_profile_is_refused(toys, monkeypatch):
    monkeypatch.setattr(evaluation, "settings_of", lambda name: {"images": {"other": 7}, "hyper": {"toy-channel": {"gian": 2.0}}})
    with pytest.raises(UnknownName, match="did you mean 'gain'"):
        run(methods=["toy-channel"])
    assert toys["toy-channel"] == 0

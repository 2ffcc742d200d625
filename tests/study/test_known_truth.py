"""Known truth by parts: the oracle and the object as rows, Shapley values of parts by enumeration, and ranks and agreement by hand."""

from functools import cache
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
import xai_repro as xr
from scipy.stats import kendalltau
from toy_rows import rows as toy_rows

from xai_repro.data import load_data
from xai_repro.metrics.parts import worth
from xai_repro.study import known_truth

BIRDS = load_data("mini-birds", "val", limit=4)
NAMES = ["beak", "crest", "wing", "tail", "legs"]


def reader(weight, bias=9.0):
    """A network whose logit of class 2 is a weighted sum of the pixels, squared, the others 0."""

    class Reads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(weight, requires_grad=False)

        def forward(self, x):
            logits = torch.zeros(len(x), 16, dtype=x.dtype)
            logits[:, 2] = (x * self.weight).sum((1, 2, 3)).square() + bias
            return logits

    return Reads().eval()


@pytest.fixture(scope="module")
def model():
    return reader(torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(3)) / 30)


# -- rows ---------------------------------------------------------------------------------------------------------------


def test_rows_of_the_truth_are_scored_as_methods_are(model):
    metrics = ["average-drop", "proportion", "part-hit", "part-share"]
    rows, parts = known_truth.truth_rows({"reads": model}, {"birds": BIRDS}, metrics, limit=4, batch=3)
    assert len(rows) == 2 * 4 * 4 and set(rows["method"]) == {"oracle", "object"} and (rows["target"] == 2).all() and (rows["status"] == "ok").all()
    assert list(rows.columns) == list(xr.evaluate({"reads": model}, {"birds": BIRDS}, ["center"], ["proportion"], limit=4).columns)
    x = torch.stack([sample.image for sample in BIRDS])
    y = torch.full((4,), 2)
    found = worth(model, x, y, list(BIRDS))
    mask = torch.stack([sample.truth(sample.labels[0]) for sample in BIRDS])
    box = torch.stack([sample.box_truth(sample.labels[0]) for sample in BIRDS])
    for name, maps in (("oracle", xr.normalize(found.oracle)), ("object", mask.float())):
        for metric, truth in (("average-drop", None), ("proportion", box), ("part-hit", found.truth), ("part-share", found.truth)):
            got = rows[(rows["method"] == name) & (rows["metric"] == metric)]["value"].tolist()
            assert got == pytest.approx(xr.score(metric, model, x, y, maps, truth).tolist(), abs=1e-6)
    assert parts["effect"].tolist() == pytest.approx(found.effect.flatten().tolist()) and parts["part"].tolist() == NAMES * 4
    assert parts["pixels"].tolist() == [int(sample.parts[name].sum()) if name in sample.parts else 0 for sample in BIRDS for name in NAMES]
    object_share = rows[(rows["method"] == "object") & (rows["metric"] == "part-share")]["value"].tolist()
    inside = [sum(int((part & sample.truth()).sum()) for name, part in sample.parts.items() if name in NAMES) / int(sample.truth().sum()) for sample in BIRDS]
    assert object_share == pytest.approx(inside)


def test_networks_get_the_images_that_evaluate_gives_them():
    asked = (["mini-resnet"], "mini-birds", ["part-share"], "smoke")
    rows, parts = known_truth.truth_rows(*asked, limit=4)
    others = xr.evaluate(*asked[:2], ["center"], *asked[2:], limit=4)
    key = ["dataset", "model", "run", "image_id", "target"]
    assert set(rows["run"]) == {0, 1} and rows[rows["method"] == "oracle"][key].values.tolist() == others[key].values.tolist()
    assert parts.groupby("run").size().tolist() == [10, 10]


@pytest.mark.parametrize("metric", ["cosine-to", "sanity-cascading"])
def test_what_needs_a_method_is_refused(model, metric):
    with pytest.raises(ValueError, match=f"{metric} needs a method or its coefficients"):
        known_truth.truth_rows({"reads": model}, {"birds": BIRDS}, [metric])


def test_data_without_counterfactuals_have_no_truth(model):
    bare = [(sample.image, sample.labels[0]) for sample in BIRDS]
    rows, parts = known_truth.truth_rows({"reads": model}, {"bare": bare}, ["part-share", "average-drop"], limit=2)
    assert parts.empty and (rows[rows["metric"] == "part-share"]["status"] == "undefined").all()
    assert rows[rows["method"] == "oracle"]["empty"].all()


# -- several parts at once ------------------------------------------------------------------------------------------------


def test_parts_together_are_shapley_values_by_all_orders(model):
    sample = BIRDS[1]
    own, clean = sample.counterfactuals, float(model(sample.image[None])[0, 2])

    @cache
    def lost(changed):
        if not changed:
            return 0.0
        images = own.images([{part: own.shapes[part][k] for part in changed} for k in (1, 2, 3)])
        return clean - float(model(images)[:, 2].double().mean())

    expected = np.zeros(5)
    for order in permutations(range(5)):  # parts are changed one after the other; each is credited with what it adds to the loss
        for place, p in enumerate(order):
            expected[p] += (lost(frozenset(NAMES[q] for q in order[: place + 1])) - lost(frozenset(NAMES[q] for q in order[:place]))) / 120
    found = known_truth.together(model, [sample])
    assert found.shape == (1, 5) and found[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert float(found.sum()) == pytest.approx(lost(frozenset(NAMES)), abs=1e-4)


def test_without_equally_many_shapes_there_is_no_such_value(model):
    with pytest.raises(ValueError, match="equally many shapes are needed; an image has none"):
        known_truth.together(model, [xr.Sample(image=BIRDS[0].image, labels=(0,))])


# -- judging ---------------------------------------------------------------------------------------------------------------


def table(drop, hit, images=30, noise=0.0):
    """Rows of one network: average-drop and part-hit of methods with these means."""
    generator = np.random.default_rng(0)
    return pd.concat([
        toy_rows(value + noise * generator.normal(size=images), method=method, metric=metric) for metric, values in (("average-drop", drop), ("part-hit", hit)) for method, value in values.items()
    ])  # fmt: skip


def test_ranks_gaps_and_agreement_by_hand():
    drop = {"oracle": 0.4, "object": 0.2, "random": 0.3, "grad-cam": 0.2, "lift-cam": 0.1, "edges": 0.5}
    hit = {"oracle": 1.0, "object": 0.3, "random": 0.2, "grad-cam": 0.7, "lift-cam": 0.9, "edges": 0.0}
    (row,) = known_truth.judged(table(drop, hit)).to_dict("records")
    assert row["metric"] == "average-drop" and row["methods"] == 4
    assert row["oracle rank"] == 4 and row["object rank"] == 2.5  # a lower drop is better; level with grad-cam
    assert [row["over random"], row["low"], row["high"]] == pytest.approx([-0.1] * 3)
    assert row["part-hit"] == pytest.approx(1.0) and np.isnan(row["part-share"])
    (noisy,) = known_truth.judged(table(drop, hit, noise=0.05)).to_dict("records")
    assert noisy["low"] < noisy["over random"] < noisy["high"] < 0 and noisy["part-hit"] == pytest.approx(1) and noisy["part-hit low"] <= 1


def test_agreement_is_kendalls_tau_and_leaves_empty_maps_out():
    generator = np.random.default_rng(5)
    names = ["random", "grad-cam", "lift-cam", "edges", "cam", "layer-cam"]
    for _ in range(20):
        drop, hit = (dict(zip(names, generator.integers(0, 5, 6) / 10)) for _ in range(2))
        (row,) = known_truth.judged(table(drop | {"oracle": 0.3}, hit | {"oracle": 1})).to_dict("records")
        expected = kendalltau([-drop[name] for name in names], [hit[name] for name in names]).statistic
        assert row["part-hit"] == pytest.approx(expected, nan_ok=True)
    rows = table(drop | {"oracle": 0.3}, hit | {"oracle": 1})
    rows["empty"] = (rows["method"] == "cam") & (rows.groupby(["method", "metric"]).cumcount() < 3)
    (row,) = known_truth.judged(rows).to_dict("records")
    rest = [name for name in names if name != "cam"]
    assert row["methods"] == 5 and row["part-hit"] == pytest.approx(kendalltau([-drop[n] for n in rest], [hit[n] for n in rest]).statistic, nan_ok=True)


def test_without_the_oracle_nothing_is_judged():
    with pytest.raises(ValueError, match="rows of the oracle are needed"):
        known_truth.judged(table({"random": 0.1}, {"random": 0.2}))


def test_what_is_said_names_those_that_fail():
    drop = {"oracle": 0.4, "object": 0.2, "random": 0.3, "grad-cam": 0.2, "lift-cam": 0.1, "edges": 0.5}
    judgement = known_truth.judged(table(drop, {name: -value for name, value in drop.items()}))
    text = known_truth.said(judgement)
    assert text.startswith("* On mini-vgg, 0 of 1 metrics put the oracle, which shows the truth, before every method; it comes behind more than half of them by average-drop.")
    assert text.endswith("It is better than a random map, beyond doubt, by none of them, and worse by average-drop.")
    assert "* mini-vgg: the order of the methods by part-hit agrees with that by average-drop." in known_truth.said_of_orders(judgement)
    best = known_truth.judged(table(drop | {"oracle": 0.05}, {name: -value for name, value in drop.items()}))
    assert known_truth.said(best) == (
        "* On mini-vgg, 1 of 1 metrics put the oracle, which shows the truth, before every method. It is better than a random map, beyond doubt, by 1 of them."
    )
    shown = known_truth.shown(judgement)
    assert shown["rank of the oracle"].tolist() == ["4 of 5"] and shown["oracle better than random by"].tolist() == ["-0.10 (-0.10 to -0.10)"]
    assert shown["tau with part-share"].tolist() == [""]


def test_worth_by_part_is_a_mean_over_images():
    parts = pd.DataFrame({
        "dataset": "d", "model": "m", "run": [0, 0, 1, 1], "image_id": ["a", "a", "b", "b"], "part": ["beak", "wing"] * 2,
        "effect": [1.0, 3.0, 0.5, 1.0], "flips": [0, 1, 1 / 3, 1], "pixels": [10, 50, 0, 30],
    })  # fmt: skip
    beak, wing = known_truth.by_part(parts).to_dict("records")
    assert (beak["effect"], beak["flips"], beak["strongest"], beak["pixels"], beak["n"], beak["networks"]) == (0.75, pytest.approx(1 / 6), 0.0, 10, 2, 2)
    assert (wing["effect"], wing["flips"], wing["strongest"], wing["pixels"]) == (2.0, 1.0, 1.0, 40) and wing["low"] <= 2 <= wing["high"]


def test_who_points_better_points_at_what_decides_by_kendalls_tau_within_the_family():
    """Controls and methods of other families are no part of the order, and neither are the rows that know the truth."""
    pointing = {"oracle": 1, "random": 0.9, "grad-cam": 0.1, "lrp": 0.5, "clrp": 0.6, "rap": 0.7, "rsp": 0.8}
    hit = {"oracle": 1, "random": 0.0, "grad-cam": 0.9, "lrp": 0.1, "clrp": 0.2, "rap": 0.4, "rsp": 0.3}
    df = table(pointing, hit).replace({"metric": {"average-drop": "pointing-game"}})
    found = known_truth.pointing(df).set_index("by")
    assert found.loc["part-hit", "tau"] == pytest.approx(4 / 6) and found.loc["part-hit", "methods"] == 4 and np.isnan(found.loc["part-share", "tau"])
    assert found.loc["part-hit", ["least at pointing", "greatest"]].tolist() == pytest.approx([0.5, 0.8])
    assert known_truth.said_of_pointing(found.reset_index()) == "**mini-vgg**, 4 methods: yes by part-hit."
    turned = known_truth.pointing(table(pointing, {name: 1 - value for name, value in hit.items()}).replace({"metric": {"average-drop": "pointing-game"}}))
    assert known_truth.said_of_pointing(turned) == "**mini-vgg**, 4 methods: no, rather the reverse, by part-hit."


def test_alone_and_together_are_means_over_images(model):
    found = known_truth.alone_and_together({"a": model, "b": model}, BIRDS[:2])
    x = torch.stack([sample.image for sample in BIRDS[:2]])
    alone = worth(model, x, model(x).argmax(1), BIRDS[:2]).effect.mean(0)
    assert found["model"].tolist() == ["a"] * 5 + ["b"] * 5 and found["part"].tolist()[:5] == NAMES and set(found["n"]) == {2}
    assert found["alone"].tolist()[:5] == pytest.approx(alone.tolist(), abs=1e-5)
    assert found["together"].tolist()[5:] == pytest.approx(known_truth.together(model, BIRDS[:2]).mean(0).tolist())

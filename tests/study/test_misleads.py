"""Where metrics mislead: the wrong map stands above the right one, by numbers that the metric itself gives."""

import re

import pytest
import torch
import xai_repro as xr

from xai_repro.metrics.parts import worth
from xai_repro.study import misleads

HYPER = {"lerf-perturbation": {"steps": 2}, "cosine-to": {"reference": "lift-cam"}}
CHEAP = ["average-drop", "average-drop-in-deletion", "positive-ratio", "proportion", "pointing-game", "part-share", "part-hit", "part-correlation", "completeness", "stability-iou", "iou", "cosine-to"]


@pytest.fixture(scope="module")
def birds():
    return misleads.birds(2)


@pytest.fixture(scope="module")
def cases(birds):
    return misleads.cases(CHEAP, birds, HYPER)


def test_birds_are_recognised_and_known_by_parts(birds):
    batch, twin = birds.batch, birds.twin
    assert len(batch.x) == 2 and torch.equal(batch.model(batch.x).argmax(1), batch.y) and batch.worth.truth.isfinite().any()
    assert not torch.equal(next(batch.model.parameters()), next(twin.model.parameters())) and torch.equal(batch.x, twin.x)


def test_what_is_right_and_what_is_wrong(birds):
    batch, maps = birds.batch, birds.raw
    assert next(iter(maps)) == "oracle" and set(maps) < set(misleads.SAYS)
    assert torch.equal(maps["oracle"], worth(batch.model, batch.x, batch.y, batch.samples).oracle)
    for b, sample in enumerate(batch.samples):
        bird = sample.truth()
        assert torch.equal(maps["object"][b] > 0, bird)
        effect = {part: float(batch.worth.effect[b, p]) for p, part in enumerate(sample.counterfactuals.shapes) if part in sample.parts and sample.parts[part].any()}
        assert torch.equal(maps["least part"][b] > 0, sample.parts[min(effect, key=effect.get)])
        assert sample.parts[max(effect, key=effect.get)].flatten()[maps["beside"][b].argmax()]
        assert (maps["beside"][b][~bird] == torch.tensor(0.9)).all() and maps["beside"][b][bird].sort().values[-2] <= 0.1
        assert maps["corner"][b].sum() == maps["corner"][b, 0, 0] == 1 and (maps["everything"][b] + maps["corner"][b] == 1).all()
    change = (batch.model(batch.x) - batch.model(batch.x * 0)).gather(1, batch.y[:, None])[:, 0]
    torch.testing.assert_close(maps["center"].sum((1, 2)), change.detach(), rtol=1e-4, atol=1e-4)
    assert change.min() > 0


def test_coefficients_that_make_the_same_map_and_those_that_do_not(birds):
    batch, found = birds.batch, misleads._coefficients(birds.batch)
    alpha, m = xr.coefficients(batch.model, batch.x, batch.y), xr.explain(batch.model, batch.x, batch.y, "lift-cam")
    (right, same), (wrong, other) = found["weakest channel"], found["other place"]
    assert ((same - m).flatten(1).norm(dim=1) < (other - m).flatten(1).norm(dim=1)).all()
    assert ((right != alpha).sum(1) == 1).all()
    top = m.flatten(1).argmax(1, keepdim=True)
    assert (other.flatten(1).gather(1, top) < 0.1 * other.amax((1, 2))[:, None]).all() and (same.flatten(1).argmax(1, keepdim=True) == top).all()
    near, far = (torch.cosine_similarity(one, alpha) for one in (wrong, right))
    assert (near > far).all()


@pytest.mark.parametrize("name, by", [
    ("positive-ratio", "corner"), ("part-share", "least part"), ("completeness", "center"), ("cosine-to", "other place"), ("iou", "object"), ("part-hit", "beside"),
])  # fmt: skip
def test_what_must_mislead_does(cases, name, by):
    case = cases[name]
    assert case.above == case.images == 2 and case.level == 0 and list(case.maps)[1] == by
    assert (case.values[1] > case.values[0]) == xr.metric_info(name).higher_is_better


def test_the_image_itself_loses_nothing(birds):
    batch = birds.batch
    lost = xr.score("average-drop", batch.model, batch.x, batch.y, birds.unit["everything"])
    assert lost.max() < 0.01 and (xr.score("average-drop", batch.model, batch.x, batch.y, birds.unit["oracle"]) > lost).all()


def test_what_is_no_better_than_right_is_level(cases):
    for name in ("pointing-game", "part-correlation"):
        assert (cases[name].above, cases[name].level) == (0, 2) and cases[name].values[0] == pytest.approx(cases[name].values[1])


@pytest.mark.parametrize("name", ["average-drop", "positive-ratio", "iou", "part-share", "proportion"])
def test_the_numbers_are_those_of_the_metric(cases, birds, name):
    case, info, batch = cases[name], xr.metric_info(name), birds.batch
    row = next(b for b in range(2) if torch.equal(batch.x[b], case.x[0]))
    truth = batch.truth(info.truth)
    for value, one in zip(case.values, case.maps.values()):
        given = xr.normalize(one) if info.maps == "unit" else one
        again = xr.score(name, batch.model, case.x, batch.y[row : row + 1], given, None if truth is None else truth[row : row + 1])
        assert value == pytest.approx(float(again), abs=1e-6)


def test_costs_are_forward_passes(birds):
    found = misleads.costs(["average-drop", "proportion", "completeness", "deletion", "lerf-perturbation"], birds, HYPER)
    assert found == pytest.approx({"average-drop": 2, "proportion": 0, "completeness": 2, "deletion": 29, "lerf-perturbation": 3}, rel=1e-6)


def test_noise_that_is_new_passes_a_sanity_check(birds):
    case = misleads.case("sanity-independent", birds)
    assert list(case.maps) == ["lift-cam", "new noise"] and abs(case.values[1]) < 0.1


def test_every_family_has_a_heading_and_every_metric_its_place():
    families = list(misleads.families())
    assert sorted(name for _, _, names in families for name in names) == sorted(xr.metrics())
    assert all(heading and text and not text.startswith(heading) for heading, text, _ in families)
    assert "Faithfulness" in [heading for heading, _, _ in families]
    assert misleads._plain("a_b [c] `d_e`*") == r"a\_b \[c\] `d_e`\*"


def test_in_words(cases):
    case, game = cases["average-drop"], cases["pointing-game"]
    right, wrong = (f"{value:.3g}" for value in case.values)
    assert misleads.said(case) == (
        f"On 2 of 2 birds it puts a wrong map above the right one. Shown: *object* (the whole bird) has {wrong}, *oracle* (what each part is worth) has {right}."
    )
    assert misleads.said(game).startswith("On 2 of 2 birds it puts a wrong map level with the right one. Shown: ")
    assert misleads.takes("average-drop", 2.0) == "Lower is better. Takes maps scaled to [0,1]. Costs 2 forward passes for an image and a map here. Hyper-parameters: none."
    assert "`tolerance=0.5`" in misleads.takes("pointing-game", 0, tolerance=0.5) and ", and the object's mask. " in misleads.takes("pointing-game", 0)
    table = misleads.overview(list(cases.values()), dict.fromkeys(CHEAP, 2)).set_index("metric")
    assert table.loc["positive-ratio", "wrong map"] == "corner" and table.loc["pointing-game", "level"] == "2 of 2" and table.loc["average-drop", "wrong above right"] == "2 of 2"
    figure = misleads.drawn(case)
    assert [axis.get_title().replace("\u200b", "") for axis in figure.axes] == ["image", f"oracle\n{right}", f"object\n{wrong}"]


def test_told_counts_those_that_are_misled(cases):
    some = [cases[name] for name in ("average-drop", "iou", "pointing-game")]
    assert misleads.told(some) == (
        "2 of 3 metrics put a wrong map above the right one on at least one of 2 drawn birds, 2 of them on every one. A wrong map is level with it, never above, for *pointing-game*."
    )
    unmoved = misleads.Case("deletion", some[0].x, some[0].maps, (0.1, 0.2), 0, 0, 2)
    assert misleads.told([*some, unmoved]).endswith(" No map that was tried misleads *deletion*.") and re.match("On 0 of 2 birds it puts a wrong map above", misleads.said(unmoved))

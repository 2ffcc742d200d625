"""Sentences are made of rows: other rows, another sentence; what is undecided, empty or a stand-in is called so."""

import numpy as np
import pandas as pd
import pytest
import torch
from toy_rows import LIFT, rows, table7

from xai_repro.study import cases, claims, estimate, said, tables


def summary(means, spread=0.0, metric="average-drop", n=40, **facts):
    noise = spread * np.linspace(-1, 1, n)
    return tables.summary(pd.concat([rows(mean + noise, method=method, metric=metric, **facts) for method, mean in means.items()]))


def checked(*outcomes, says="It is so.", stands_in="mini-birds for imagenet, mini-vgg for vgg16"):
    found = [{"id": f"c{n}", "place": f"Table {n}", "says": f"{n}: {says}", "outcome": outcome, "n": 20 + n, "networks": 5, "stands_in": stands_in} for n, outcome in enumerate(outcomes)]
    return pd.DataFrame(found, columns=["id", "place", "says", "outcome", "n", "networks", "stands_in"])


def ranks(*taus, needed=0.87, low=-0.1, high=0.5, methods=6):
    return pd.DataFrame([{"group": f"g{n}", "metric": "average-drop", "tau": tau, "low": low, "high": high, "methods": methods, "needed": needed} for n, tau in enumerate(taus)])


# -- the best -------------------------------------------------------------------------------------------------------------


def test_the_best_follows_the_rows():
    drops = {"lift-cam": 0.1, "grad-cam": 0.2, "random": 0.4}
    text = said.best(summary(drops), "average-drop")
    assert text == "On mini-vgg, mini-birds, *lift-cam* has the lowest average drop, 10.0 % (10.0 to 10.0; 40 images, 1 network); the control *random* has 40.0 %."
    assert "*grad-cam* has the lowest average drop, 5.0 %" in said.best(summary(drops | {"grad-cam": 0.05}), "average-drop")


def test_where_more_is_better_the_best_is_the_highest():
    means = {"lift-cam": 0.1, "grad-cam": 0.2, "random": 0.15}
    assert "*grad-cam* has the highest insertion, 20.0 %" in said.best(summary(means, metric="insertion"), "insertion")
    with pytest.raises(ValueError, match="no method is best in some-label"):
        said.best(summary(means, metric="some-label"), "some-label")


def test_methods_that_are_equal_are_named_together_and_controls_that_win_are_said_to():
    text = said.best(summary({"cam": 0.2, "grad-cam": 0.2 + 1e-9, "lift-cam": 0.2, "lrp-cam": 0.2, "center": 0.1, "random": 0.4}), "average-drop")
    assert "*cam*, *grad-cam* and 2 more have, all the same, the lowest average drop, 20.0 %" in text and "the control *center* is better with 10.0 %." in text
    assert "the control *random* is as good with 20.0 %" in said.best(summary({"cam": 0.2, "random": 0.2}), "average-drop")
    own = said.best(summary({"noise": 0.1, "cam": 0.2}), "average-drop", ["noise"])
    assert "*cam* has" in own and "the control *noise* is better" in own
    assert said.best(summary({"edges": 0.1, "random": 0.2}), "average-drop") == ""


def test_intervals_that_overlap_with_the_best_are_counted():
    close = {"lift-cam": 0.10, "grad-cam": 0.11, "cam": 0.12, "grad-cam++": 0.5, "random": 0.4}
    assert said.best(summary(close, spread=0.1), "average-drop").endswith("; the intervals of 2 other methods overlap with it.")
    assert said.best(summary({"lift-cam": 0.10, "grad-cam": 0.11}, spread=0.1), "average-drop").endswith("; the interval of another method overlaps with it.")
    assert "overlap" not in said.best(summary(close, spread=0.001), "average-drop")


def test_methods_without_values_or_with_empty_maps_are_not_the_best():
    found = summary({"lift-cam": 0.1, "grad-cam": 0.2, "cam": np.nan})
    assert "*lift-cam* has" in said.best(found, "average-drop")
    assert "*grad-cam* has" in said.best(found.assign(empty=np.where(found["method"] == "lift-cam", 0.5, 0.0)), "average-drop")
    assert said.best(found[:0], "average-drop") == said.best(found, "insertion") == said.values(found[:0], "average-drop") == ""


def test_several_networks_make_a_list():
    both = pd.concat([summary({"lift-cam": 0.1, "cam": 0.3}), summary({"lift-cam": 0.4, "cam": 0.3}, model="mini-resnet")])
    first, second = said.best(both, "average-drop").splitlines()
    assert first.startswith("* On mini-vgg, mini-birds, *lift-cam* has") and second.startswith("* On mini-resnet, mini-birds, *cam* has")
    assert said.values(both, "average-drop", ["cam", "nobody"]).splitlines()[1] == "* On mini-resnet, mini-birds, average drop: *cam* 30.0 % (30.0 to 30.0); 40 images, 1 network."


def test_values_stand_in_the_order_that_is_asked_for_and_in_the_unit_of_their_metric():
    found = summary({"a": 0.99712, "b": 0.5}, metric="cosine-to")
    assert said.values(found, "cosine-to", ["b", "a"]) == "On mini-vgg, mini-birds, cosine to SHAP-CAM's coefficients: *b* 0.500 (0.500 to 0.500), *a* 0.997 (0.997 to 0.997); 40 images, 1 network."


# -- differences ----------------------------------------------------------------------------------------------------------------


def pairs(gap, spread=0.0, n=40, metric="average-drop"):
    return pd.concat([rows(0.3 + gap + spread * np.linspace(-1, 1, n), method="a", metric=metric), rows(np.full(n, 0.3), method="b", metric=metric)])


def test_a_difference_counts_in_the_direction_of_its_metric():
    assert said.pair(pairs(-0.1), "average-drop", ("a", "b")) == "On mini-vgg, mini-birds, average drop: *a* is better than *b* by 10.0 points (10.0 to 10.0); 40 images, 1 network."
    assert "*a* is worse than *b* by 10.0 points (10.0 to 10.0)" in said.pair(pairs(0.1), "average-drop", ("a", "b"))
    assert "*a* is better than *b* by 10.0 points" in said.pair(pairs(0.1, metric="insertion"), "insertion", ("a", "b"))
    assert "*a* is better than *b* by 0.100 (" in said.pair(pairs(0.1, metric="cosine-to"), "cosine-to", ("a", "b"))
    assert "*a* is better than *b*" in said.pair(pairs(0.1, metric="a-label"), "a-label", ("a", "b"))


def test_a_difference_whose_interval_holds_zero_is_undecided():
    text = said.pair(pairs(0.005, spread=0.2), "average-drop", ("a", "b"))
    assert "*a* is worse than *b* by 0.5 points (-" in text and ", which is undecided; 40 images" in text
    assert "undecided" not in said.pair(pairs(0.1, spread=0.05), "average-drop", ("a", "b"))
    assert ", which is undecided on so few images" in said.pair(pairs(0.1, n=8), "average-drop", ("a", "b"))
    assert "*a* is as good as *b*" in said.pair(pairs(0.0), "average-drop", ("a", "b"))


def test_ends_of_the_interval_of_a_worse_one_are_turned():
    assert said.difference({"mean": -0.2, "low": -0.3, "high": -0.1, "n": 30}, "a", "b") == "*a* is worse than *b* by 0.200 (0.100 to 0.300)"


def test_pairs_without_rows_say_nothing():
    assert said.pair(pairs(0.1), "average-drop", ("a", "c")) == said.pair(pairs(0.1), "insertion", ("a", "b")) == ""
    assert said.pair(pairs(np.nan), "average-drop", ("a", "b")) == ""
    assert said.pair(pairs(0.1), "average-drop", ("a", "c"), ("b", "a")).count("is ") == 1


def test_every_row_in_words_but_those_without_a_number():
    table = pd.DataFrame({"a b": [1.234, np.nan, 2.0], "name": ["x", "y", "z"], "other": np.nan})
    assert said.each(table, "{name} {a b:.1f}") == "x 1.2; z 2.0." and said.each(table[:1], "{a b:.0%}") == "123 %." and said.each(table, "{other}") == ""


def test_controls_that_are_not_beaten_are_named_by_metric():
    against = pd.DataFrame({"dataset": "d", "model": ["m", "m", "k"], "metric": ["average-drop", "insertion", "insertion"], "control": ["random", "center", "center"], "apart": ["no", "yes", "yes"]})
    text = said.controls(against)
    start = "In 2 of 3 comparisons (2 metrics, 2 networks, 1 data set) the best method is better than the better of the controls *center* and *random*, which know nothing of the network"
    assert text == f"{start}, and the intervals do not overlap; not so in average drop (1 of 1)."
    alone = said.controls(against.assign(apart="yes", control="random"))
    assert "than the control *random*, which knows nothing" in alone and alone.endswith("do not overlap.") and said.controls(against[:0]) == ""


def test_slopes_hold_what_is_expected_or_do_not():
    found = pd.DataFrame([{"dataset": "d", "model": "m", "slope": -0.95, "low": -1.1, "high": -0.9, "n": 20, "networks": 5}])
    assert said.slope(found) == "on d with m the slope is -0.95 (-1.10 to -0.90; 20 images, 5 networks), an interval that holds -1."
    assert "an interval that does not hold -1" in said.slope(found.assign(low=-0.97))


# -- beside the paper -----------------------------------------------------------------------------------------------------------


def test_agreement_of_one_order():
    assert said.agreement(ranks(0.2)) == "The paper's order of 6 methods and ours agree no better than chance: Kendall's tau 0.20 (-0.10 to 0.50); 0.87 would be needed."
    assert "agree by more than chance" in said.agreement(ranks(0.87)) and "are opposed by more than chance" in said.agreement(ranks(-0.9))
    assert said.agreement(ranks(1.0, needed=np.nan, methods=3)).endswith("agree no better than chance: Kendall's tau 1.00 (-0.10 to 0.50); so few methods are in any order by chance.")
    assert "There is no order" in said.agreement(ranks(np.nan)) and "There is no order" in said.agreement(ranks()[:0].reindex(columns=["tau"]))


def test_agreement_of_several_orders():
    text = said.agreement(ranks(0.2, 0.9), ranks(-1.0, np.nan, needed=0.6))
    assert "in 3 columns" in text and "by more than chance in 1 (average drop of g1) and are opposed by more than chance in 1" in text
    assert text.endswith("Kendall's tau is from -1.00 to 0.90, and from 0.60 to 0.87 would be needed.")
    assert "by more than chance in none: Kendall's tau is from 0.10 to 0.20, and 0.87 would be needed." in said.agreement(ranks(0.1, 0.2))
    assert "by more than chance in all of them: Kendall's" in said.agreement(ranks(0.9, 0.9))


def test_agreement_follows_the_rows():
    same = tables.rank_agreement(table7(LIFT), "lift_cam", "7", column="Average")
    turned = tables.rank_agreement(table7({name: -mean for name, mean in LIFT.items()}), "lift_cam", "7", column="Average")
    assert "agree by more than chance" in said.agreement(same) and "are opposed by more than chance" in said.agreement(turned)


def test_claims_are_counted_and_those_that_fail_are_quoted():
    text = said.claims(checked("holds", "holds", "fails", "undecided", "not run yet", "not comparable"))
    assert text == (
        "Of the 5 claims tested here 2 hold, 1 fails, 1 is undecided at this size and 1 is about a time, for the paper's networks and sizes alone to decide (20 to 25 images, 5 networks). Not true here: \u201c2: It is so\u201d. "
        "Stand-ins: mini-birds for imagenet, mini-vgg for vgg16."
    )
    assert "4 fail" in said.claims(checked(*["fails"] * 4, "holds")) and "Not true here" not in said.claims(checked(*["fails"] * 4, "holds"))
    assert said.claims(checked("undecided", "undecided", stands_in="")) == "Both claims tested here are undecided at this size (20 to 21 images, 5 networks)."
    assert said.claims(checked("undecided", stands_in="")) == "The claim tested here, \u201c0: It is so\u201d, is undecided at this size (20 images, 5 networks)."
    assert said.claims(checked("not run yet")) == said.claims(checked()) == "The paper's claims about this ask for more than this profile runs."


def test_repetitions_of_a_time_are_no_images():
    text = said.claims(checked("not comparable", "not comparable", stands_in="").assign(id="collection-2-time-score"))
    assert text == "Both claims tested here are about times, for the paper's networks and sizes alone to decide."


def test_claims_follow_the_rows():
    """Acceptance: the rows change, and the sentence does."""
    good = table7({name: mean * 2 for name, mean in LIFT.items()}, spread=0.0)
    bad = table7({name: 1 - mean for name, mean in LIFT.items()}, spread=0.0)
    one, other = (said.claims(said.tested(claims.check(part, "lift_cam"), "Table 7")) for part in (good, bad))
    assert "hold" in one and "fail" not in one and "fail" in other and "hold" not in other and "mini-birds for imagenet" in one


def test_only_what_was_tested_is_kept():
    found = checked("holds", "not run yet", "undecided", "fails")
    assert said.tested(found)["id"].tolist() == ["c0", "c2", "c3"] and said.tested(found, "Table [03]$")["id"].tolist() == ["c0", "c3"]


def test_stand_ins_are_named():
    assert said.stand_ins(pd.DataFrame({"dataset": ["mini-birds", "voc2007"], "model": "mini-vgg"})) == "mini-birds and mini-vgg stand in for the paper's data and networks."
    assert said.stand_ins(pd.DataFrame({"dataset": ["imagenet"], "model": ["vgg16"]})) == ""
    shared = checked("holds", "fails", stands_in="mini-scenes for voc2007, mini-scenes for coco2014")
    assert said.stand_ins(shared) == "Stand-ins: mini-scenes for voc2007 and coco2014."


def test_parts_that_say_nothing_are_left_out():
    assert said.result("a", "", "b") == "a\n\nb" and said.result("") == ""


def test_an_asterisk_in_a_name_stays_one():
    assert said.name("c*LRP") == "*c\\*LRP*"


def test_lists_in_words():
    assert [said.listed(list("abcd"[:n])) for n in range(5)] == ["", "a", "a and b", "a, b and c", "a, b and 2 more"] and said.listed("abcd", most=4) == "a, b, c and d"


# -- what pages say besides -------------------------------------------------------------------------------------------------------


def test_maps_of_a_group_are_alike_within_and_across():
    one, other = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    found = cases.alike({"a": one, "b": one * 3, "c": other, "d": other}, ["a", "b"])
    assert found.to_dict("records") == [{"within": pytest.approx(1), "across": 0.0, "images": 1}]
    assert np.isnan(cases.alike({"a": one}, ["a"])["within"][0])


def test_cost_is_said_of_the_table():
    table = pd.DataFrame({"paper": ["p", "p", "q"], "notebook": ["10", "11", "20"], "PFLOP": [1.0, 2.0, 1.0], "hours": [3.0, 6.0, 1.0]})
    table.attrs["assumed"] = "a GPU"
    assert estimate.said(table) == (
        "Counted together, the notebooks of the papers take 4 PFLOP or 10 hours of one GPU, at most; 90 % of that for p. The costliest notebook is 11, with 6.0 hours. Assumed: a GPU."
    )

"""The rows, tables and figures of Gradient Hedging."""

import numpy as np
import pandas as pd
import pytest
import torch
import xai_repro as xr
from toy_rows import rows
from toys import images, seeded, VGGLike

from xai_repro.data import Sample
from xai_repro.methods.hedging import on_the_way, PARTS
from xai_repro.published import published
from xai_repro.study import hedging

F64 = torch.float64


def test_what_is_compared_is_what_the_paper_prints():
    methods = hedging.methods(["lift-cam"])
    printed = published("gradient_hedging", "1")
    assert [label for label in methods if label in set(printed["row"])] == [row for row in printed["row"].unique() if row.endswith(" / L")]
    assert methods["c*LRP / L"] == "clrp" and methods["lift-cam / L"] == "lift-cam" and len(methods) == 9 + 2 + 6 + 1
    assert {name if isinstance(name, str) else name[0] for name in methods.values()} <= set(xr.methods())
    assert [hyper["gamma"] for _, hyper in hedging.gammas().values()] == list(hedging.GAMMAS)


def test_parts_are_those_of_the_rows_of_table_2():
    assert [hyper["parts"] for _, hyper in hedging.ablation().values()] == ["C", "C Psi", "A U", "C A U", "C A U Psi"]
    assert all(hyper["gamma"] == 2 and set(hyper["parts"].split()) <= set(PARTS) for _, hyper in hedging.ablation().values())


@pytest.fixture
def found():
    """Two methods on six images: three are predicted, two are difficult, one is both."""
    facts = {"dataset": "mini-scenes", "model": "mini-vgg", "metric": "pointing-game"}
    frames = [rows(values, method=label, hyper='{"method": "x"}', **facts) for label, values in (
        ("Gradient Hedge / L", [1, 1, 0, 0, 1, 0]), ("Grad-CAM / L", [0, 0, 0, 1, 0, 1]),
    )]  # fmt: skip
    return pd.concat([one.assign(correct=[True, True, True, False, False, False], difficult=[False, False, True, True, False, False], run=0) for one in frames])


def test_predicted_labels_are_a_part_of_all(found):
    both = hedging.with_predicted(found)
    means = both.groupby("method")["value"].agg(["mean", "size"])
    assert means.loc["Gradient Hedge / P"].tolist() == pytest.approx([2 / 3, 3]) and means.loc["Gradient Hedge / L"].tolist() == [0.5, 6]
    assert set(both["method"]) == {"Gradient Hedge / L", "Gradient Hedge / P", "Grad-CAM / L", "Grad-CAM / P"}
    (counted,) = hedging.counted(found).to_dict("records")
    assert [counted[name] for name in ("images", "explained", "predicted", "difficult", "networks")] == [6, 6, 3, 2, 1]
    with pytest.raises(ValueError, match="no column 'correct'"):
        hedging.with_predicted(found.drop(columns="correct"))


def test_table_1_has_all_and_difficult_objects_side_by_side(found):
    table = hedging.table_1(hedging.with_predicted(found))
    assert list(table) == ["PASCAL VOC 2007, VGG-16", "PASCAL VOC 2007, ResNet-50", "COCO 2014, VGG-16", "COCO 2014, ResNet-50"]
    ours = table["PASCAL VOC 2007, VGG-16"].dropna(subset="ours").set_index(["group", "heading"])["ours"]
    assert ours["ALL / PG", "Gradient Hedge / L"] == 0.5 and ours["ALL / PG", "Gradient Hedge / P"] == pytest.approx(2 / 3)
    assert ours["DIF / PG", "Grad-CAM / L"] == 0.5 and ours["DIF / PG", "Grad-CAM / P"] == 0
    easy = hedging.table_1(found.assign(difficult=False))["PASCAL VOC 2007, VGG-16"]
    assert set(easy["group"]) == {"ALL / PG", "ALL / PR"}  # nothing is difficult: there is no column of nothing
    assert len(hedging.ranks(hedging.with_predicted(found))) == 16 and set(hedging.ranks(found)["labels"]) == {"L", "P"}


def test_the_second_data_set_of_the_paper_has_a_stand_in_of_its_own(found):
    birds = hedging.table_1(found.assign(dataset="mini-birds"))
    assert birds["PASCAL VOC 2007, VGG-16"]["ours"].isna().all() and birds["COCO 2014, VGG-16"]["ours"].notna().any()
    lift = xr.tables.compare(found[found["method"] == "Grad-CAM / L"].assign(model="mini-resnet", method="lift-cam", hyper="{}", metric="average-drop"), "lift_cam", "4")
    assert lift.loc[lift["dataset"] == "coco2014", "ours"].notna().any()  # of other papers it is as it was


def test_table_2(found):
    label, facts = "C ✓ / A ✓ / U ✓ / Ψ ✓", {"dataset": "mini-scenes", "model": "mini-vgg", "metric": "pointing-game"}
    frame = rows([1, 1, 0, 0], method=label, hyper='{"method": "gradient-hedging"}', **facts).assign(difficult=[True, True, False, False])
    table = {kind: part.dropna(subset="ours").set_index("heading")["ours"].to_dict() for kind, part in hedging.table_2(frame).items()}
    assert table == {"ALL": {label: 50.0}, "DIF": {label: 100.0}}


def test_the_mean_of_the_steps_is_the_metric():
    model, x = seeded(VGGLike, dtype=torch.float32), images(3, dtype=torch.float32)
    data = [Sample(image=image, labels=(0,), id=f"i{n}") for n, image in enumerate(x)]
    steps = {f"top {share} %": ("morf-insertion", {"steps": 1, "share": share / 100}) for share in range(1, 21)}
    found = xr.evaluate({"m": model}, {"d": data}, ["gradient", "grad-cam"], steps | {"morf-insertion": "morf-insertion"}, limit=3)
    whole = found[found["metric"] == "morf-insertion"].set_index(["method", "image_id"])["value"]
    mean = hedging.averaged(found)
    assert list(mean.columns) == list(found.columns) and set(mean["metric"]) == {"morf-insertion"}
    np.testing.assert_allclose(mean.set_index(["method", "image_id"])["value"].sort_index(), whole.sort_index(), atol=1e-6)
    hole = (found["metric"] == "top 3 %") & (found["image_id"] == "i1")
    broken = hedging.averaged(found.assign(value=found["value"].where(~hole), status=found["status"].where(~hole, "undefined"))).set_index("image_id")
    assert len(broken) == len(mean) and broken["value"].isna().groupby(level=0).all().to_dict() == {"i0": False, "i1": True, "i2": False}
    assert set(broken.loc["i1", "status"]) == {"undefined"} and set(broken.loc[["i0", "i2"], "status"]) == {"ok"}


# -- figures ------------------------------------------------------------------------------------------------------------


def test_erased_shows_the_image_that_noise_upsets_and_the_method_does_not():
    class Corner(torch.nn.Module):
        """Class 1 where the first pixel is bright."""

        def forward(self, x):
            return torch.stack([torch.full_like(x[:, 0, 0, 0], 0.5), x[:, 0, 0, 0]], 1)

    x = torch.ones(2, 3, 8, 8)
    x[1, :, 7, 7] = 9
    samples = [Sample(image=image, labels=(1,)) for image in x]
    methods = {"noise": ("toy-first", {}), "gradient-hedging": ("toy-last", {})}
    with pytest.MonkeyPatch.context() as patch:
        first, last = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
        first[1, 0, 0] = first[0, 7, 7] = last[:, 7, 7] = 1.0
        patch.setattr(hedging, "explain", lambda model, x, y, name, **hyper: first if name == "toy-first" else last)
        patch.setattr(hedging, "ERASED", 1 / 64)
        pictures, columns, titles = hedging.erased(Corner(), samples, ["dark", "bright"], methods)
    assert titles == ["noise: dark", "gradient-hedging: bright"]
    assert (pictures == 0).all(1).flatten(1).nonzero().tolist() == [[0, 0], [1, 63]]  # of the second image, each without its own pixel
    assert columns["gone"].flatten(1).nonzero().tolist() == [[0, 0], [1, 63]] and torch.equal(columns["map"][1], last[1])


def test_sections_share_by_one_sign_and_by_influence():
    model, x = seeded(VGGLike), images(2)
    found, pairs = hedging.sections(model, x), on_the_way(model, x)
    (A, _), (_, R) = pairs[-2:]
    torch.testing.assert_close(found["R"], R.sum(1))
    W = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)][-1].weight.detach()
    P, N = R.clamp(min=0), R.clamp(max=0)
    sent = {"by W+": (W.clamp(min=0), R), "by W-": (W.clamp(max=0), R), "for": (W.abs(), P / P.sum((1, 2, 3), True)), "against": (W.abs(), N / -N.sum((1, 2, 3), True))}
    for name, (weights, relevance) in sent.items():
        torch.testing.assert_close(found[name], plain(A, weights, relevance).sum(1), msg=name)
    torch.testing.assert_close(found["evidence"], found["for"] + found["against"])
    assert not torch.allclose(found["by W+"], found["by W-"])


def plain(x, W, R):
    """Relevance R [B,O,h,w] of a convolution of 3 x 3 with padding, shared by x W, place by place."""
    B, O, H, width = R.shape
    padded, shared = torch.nn.functional.pad(x, (1, 1, 1, 1)), torch.zeros_like(torch.nn.functional.pad(x, (1, 1, 1, 1)))
    for i in range(H):
        for j in range(width):
            parts = padded[:, None, :, i : i + 3, j : j + 3] * W
            whole = parts.sum((2, 3, 4))
            share = torch.where(whole == 0, 0, R[:, :, i, j] / whole)
            shared[:, :, i : i + 3, j : j + 3] += (parts * share[:, :, None, None, None]).sum(1)
    return shared[:, :, 1:-1, 1:-1]


def test_alike_says_how_similar_the_two_are():
    model = seeded(VGGLike, dtype=torch.float32)
    data = [Sample(image=image, labels=(0,)) for image in images(3, dtype=torch.float32)]
    table = hedging.alike({"m": model}, data, limit=2)
    maps = hedging.sections(model, torch.stack([one.image for one in data[:2]]))
    expected = torch.cosine_similarity(maps["by W+"].flatten(1), maps["by W-"].flatten(1)).mean()
    assert table["maps"].tolist() == ["by W+, by W-", "for, against"] and table["n"].tolist() == [2, 2]
    assert table["cosine"][0] == pytest.approx(float(expected), abs=1e-5) and (table["low"] <= table["cosine"]).all()


def test_channel_sums_go_from_the_start_to_the_image():
    model, x = seeded(VGGLike), images(1)
    found = hedging.channel_sums(model, x, None, ["C", "C A U Psi"], layers=3)
    side = x.shape[-1]
    assert list(found)[-1] == f"0: 3 x {side} x {side}" and all(maps.shape == (2, *x.shape[-2:]) for maps in found.values())
    torch.testing.assert_close(found[f"0: 3 x {side} x {side}"][1], xr.explain(model, x, None, "gradient-hedging")[0])

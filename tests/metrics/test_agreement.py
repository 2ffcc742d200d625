"""cosine-to: the agreement of coefficients."""

import math

import pytest
import torch
import xai_repro as xr
from toy_heads import Y, same, setting
from toy_shapley import alphas
from toys import VGGLike, images, seeded

from xai_repro.metrics import agreement


# -- cosine-to ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    agreement._KNOWN.clear()
    counted, plain = [], agreement.coefficients
    monkeypatch.setattr(agreement, "coefficients", lambda *a, **k: counted.append(a[3]) or plain(*a, **k))
    return counted


def test_cosine_to_itself_its_opposite_and_nothing(calls):
    model, x, layer = setting("vgg")
    options = {"layer": layer, "permutations": 20, "seed": 4}
    alpha = alphas("vgg", "shap-cam", permutations=20, seed=4)
    one = torch.ones(3, dtype=torch.float64)
    same(xr.score("cosine-to", model, x, Y, 7 * alpha, **options), one)
    same(xr.score("cosine-to", model, x, Y, -alpha, **options), -one)
    alpha[1] = 0
    values = xr.score("cosine-to", model, x, Y, alpha, **options)
    assert torch.isnan(values[1]) and not torch.isnan(values[[0, 2]]).any()
    assert calls == ["shap-cam"], "the reference is computed once"


def test_cosine_to_by_hand_and_to_other_references(calls):
    model, x, layer = setting("vgg")
    beta = alphas("vgg", "lift-cam")
    alpha = torch.randn(beta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [sum(a * b for a, b in zip(p, q)) / math.hypot(*p) / math.hypot(*q) for p, q in zip(alpha.tolist(), beta.tolist())]
    same(xr.score("cosine-to", model, x, Y, alpha, reference="lift-cam", layer=layer), torch.tensor(expected, dtype=torch.float64))
    same(xr.score("cosine-to", model, x, Y, beta, reference="lift-cam", layer=layer), torch.ones(3).double())


def test_the_reference_is_computed_anew_for_anything_new(calls):
    model, x, layer = setting("vgg")
    alpha = alphas("vgg", "lift-cam")

    def measure(model=model, x=x, y=Y, **options):
        xr.score("cosine-to", model, x, y, alpha[: len(x)], **({"layer": layer, "permutations": 3} | options))
        return len(calls)

    assert measure() == 1 == measure()
    assert measure(y=Y.flip(0)) == 2
    assert measure(x=x.flip(0)) == 3
    assert measure(permutations=4) == 4 and measure(seed=9) == 5 and measure(sampling="sobol") == 6
    assert measure(reference="ablation-cam") == 7 == measure(reference="ablation-cam", permutations=99)
    assert measure(model=seeded(VGGLike, seed=5)) == 8
    assert measure() == 8


def test_cosine_to_with_coefficients_of_another_layer(calls):
    model, x, layer = setting("vgg")
    with pytest.raises(ValueError, match="4 coefficients for a reference of 6 channels.*layer"):
        xr.score("cosine-to", model, x, Y, alphas("vgg, an earlier layer", "lift-cam"), layer=layer)
    with pytest.raises(ValueError, match="layer-cam has no coefficients"):
        xr.score("cosine-to", model, x, Y, alphas("vgg", "lift-cam"), reference="layer-cam", layer=layer)


class Birds(list):
    name, classes, multi_label, fingerprint = "toy", tuple("abcde"), False, "v1"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_evaluate_gives_coefficients_to_a_metric_of_coefficients(tmp_path):
    """Methods without coefficients get the reason; maps and coefficients end in one table, and its shards are found again."""
    from xai_repro.data import Sample

    x, nothing = images(dtype=torch.float32), torch.full((16, 16), -1)
    data = Birds(Sample(image=image, labels=(0,), boxes=torch.zeros(0, 5), mask=nothing, id=str(i)) for i, image in enumerate(x))
    model = seeded(VGGLike, dtype=torch.float32)
    methods = [(name, {"layer": "features.4"}) for name in ("lift-cam", "layer-cam", "lrp-cam")]
    metrics = [("cosine-to", {"permutations": 50, "layer": "features.4"}), "average-drop"]
    frame = xr.evaluate(model, data, methods, metrics, results=tmp_path, limit=3)
    y = model(x).argmax(1)
    for name in ("lift-cam", "lrp-cam"):
        alpha = xr.coefficients(model, x, y, name, layer="features.4")
        expected = xr.score("cosine-to", model, x, y, alpha, permutations=50, layer="features.4")
        rows = frame[(frame["method"] == name) & (frame["metric"] == "cosine-to")]
        torch.testing.assert_close(torch.tensor(rows["value"].tolist()), expected, rtol=1e-4, atol=1e-5)
    without = frame[(frame["method"] == "layer-cam") & (frame["metric"] == "cosine-to")]
    assert without["value"].isna().all() and without["status"].str.contains("no coefficients").all()
    assert (frame[frame["metric"] == "average-drop"]["status"] == "ok").all() and len(frame) == 18
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    again = xr.evaluate(model, data, methods, metrics, results=tmp_path, limit=3)
    assert again.equals(frame) and {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == times

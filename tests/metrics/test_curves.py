"""Insertion and deletion: by hand, against a loop over pixels, the identities of additive and constant models, and the cost."""

import math

import pytest
import torch
import xai_repro as xr
from toys import SIZE, VGGLike, flops, images, peak_bytes, seeded
from torch import nn

from xai_repro.metrics.curves import blur, deletion_curve, insertion_curve
from xai_repro.store import fingerprint
from xai_repro.store.sharing import sharing

F64 = torch.float64


class Additive(nn.Module):
    """Two classes; the probability of class 0 is 1/2 + sum_i v_i x_i exactly, of class 1 the rest."""

    def __init__(self, v):
        super().__init__()
        self.v = v

    def forward(self, x):
        p = 0.5 + (x * self.v).sum((1, 2, 3))
        return torch.stack([p, 1 - p], 1).log()


def additive(H, W, seed=0):
    v = torch.randn(3, H, W, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return Additive(0.1 * v / v.numel())


def noise(B, H, W, seed=1, levels=None):
    """Maps in [0,1]; with levels, full of ties."""
    maps = torch.rand(B, H, W, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return maps if levels is None else (maps * levels).floor() / (levels - 1)


# -- by hand --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def four():
    """A 2 x 2 image whose pixels add 0.1, 0.2, -0.1 and 0.05 to the probability 1/2; the map orders them 2, 0, 1, 3 (a tie)."""
    x = torch.zeros(1, 3, 2, 2, dtype=F64)
    x[0, 1] = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    return Additive(torch.tensor(0.1, dtype=F64)), x, torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=F64)


def test_a_2_by_2_image(four):
    model, x, maps = four
    y = torch.tensor([0])
    inserted = insertion_curve(model, x, y, maps, steps=5, baseline="zero")
    deleted = deletion_curve(model, x, y, maps, steps=5)
    torch.testing.assert_close(inserted, torch.tensor([[0.5, 0.4, 0.5, 0.7, 0.75]], dtype=F64))
    torch.testing.assert_close(deleted, torch.tensor([[0.75, 0.85, 0.75, 0.55, 0.5]], dtype=F64))
    areas = (0.45 + 0.45 + 0.6 + 0.725) / 4, (0.8 + 0.8 + 0.65 + 0.525) / 4
    assert xr.score("insertion", model, x, 0, maps, steps=5, baseline="zero").item() == pytest.approx(areas[0])
    assert xr.score("deletion", model, x, 0, maps, steps=5).item() == pytest.approx(areas[1])
    assert xr.score("overall", model, x, 0, maps, steps=5, baseline="zero").item() == pytest.approx(areas[0] - areas[1])
    assert xr.score("insertion", model, x, 1, maps, steps=5, baseline="zero").item() == pytest.approx(1 - areas[0])


def test_steps_that_do_not_divide_the_pixels(four):
    model, x, maps = four
    y = torch.tensor([0])
    curves = {
        2: [0.75, 0.5],
        4: [0.75, 0.85, 0.55, 0.5],  # 0, 4/3, 8/3 and 4 pixels
        9: [0.75, 0.85, 0.85, 0.75, 0.75, 0.55, 0.55, 0.5, 0.5],  # a half is rounded up
    }
    for steps, curve in curves.items():
        assert deletion_curve(model, x, y, maps, steps=steps).tolist()[0] == pytest.approx(curve)


def test_a_constant_map_goes_in_reading_order(four):
    model, x, maps = four
    for constant in (torch.zeros_like(maps), torch.ones_like(maps), torch.tensor([[[-0.0, 0.0], [-0.0, 0.0]]], dtype=F64)):
        curve = deletion_curve(model, x, torch.tensor([0]), constant, steps=5)
        assert curve.tolist()[0] == pytest.approx([0.75, 0.65, 0.45, 0.55, 0.5])


def test_a_multi_label_model_has_a_sigmoid_per_class(four):
    _, x, maps = four

    class Many(nn.Module):
        multi_label = True

        def forward(self, x):
            return torch.stack([x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)

    sigmoids = [1 / (1 + math.exp(-s)) for s in (0, -1, 0, 2, 2.5)]
    assert insertion_curve(Many(), x, torch.tensor([0]), maps, steps=5, baseline="zero").tolist()[0] == pytest.approx(sigmoids)
    assert xr.score("insertion", Many(), x, 1, maps).item() == pytest.approx(0.5)


def test_the_paper_changes_224_times_8_pixels_at_a_time():
    x, changed = torch.ones(1, 3, 224, 224), []

    class Watch(nn.Module):
        def forward(self, x):
            changed.extend((x[:, 0] == 0).sum((1, 2)).tolist())
            return torch.zeros(len(x), 2)

    deletion_curve(Watch(), x, torch.tensor([0]), torch.rand(1, 224, 224))
    assert sorted(changed) == [224 * 8 * t for t in range(29)]


# -- against a loop over pixels -----------------------------------------------------------------------------------------------


def plain_blur(x):
    """What RISE's code gives: a delta on an 11 x 11 grid, smoothed by a Gaussian that is cut at four sigma and reflected."""
    line = [math.exp(-(j**2) / 50) for j in range(-20, 21)]
    smooth = [0.0] * 11
    for i in range(11):
        for j in range(-20, 21):
            place = (i + j) % 22
            smooth[i] += line[j + 20] / sum(line) * ((place if place < 11 else 21 - place) == 5)
    out = torch.zeros_like(x)
    B, C, H, W = x.shape
    for i in range(H):
        for j in range(W):
            for a in range(11):
                for b in range(11):
                    if 0 <= i + a - 5 < H and 0 <= j + b - 5 < W:
                        out[:, :, i, j] += smooth[a] * smooth[b] * x[:, :, i + a - 5, j + b - 5]
    return out


def plain_curve(model, old, new, y, saliency, steps):
    """One image at a time, one pixel at a time."""
    H, W = saliency.shape
    places = sorted(((i, j) for i in range(H) for j in range(W)), key=lambda ij: (-saliency[ij].item(), ij))
    values = []
    for t in range(steps):
        picture = old.clone()
        for i, j in places[: math.floor(t * H * W / (steps - 1) + 0.5)]:
            picture[:, i, j] = new[:, i, j]
        values.append(model(picture[None]).softmax(1)[0, y].item())
    return values


@pytest.mark.parametrize("steps, levels", [(7, None), (12, 4)])
def test_both_curves_against_a_loop(steps, levels):
    model, x, y = seeded(VGGLike), images(2), torch.tensor([1, 4])
    maps = noise(2, SIZE, SIZE, levels=levels)
    smooth = plain_blur(x)
    torch.testing.assert_close(blur(x), smooth)
    expected = {
        "blur": [plain_curve(model, smooth[b], x[b], y[b], maps[b], steps) for b in range(2)],
        "zero": [plain_curve(model, 0 * x[b], x[b], y[b], maps[b], steps) for b in range(2)],
        "deletion": [plain_curve(model, x[b], 0 * x[b], y[b], maps[b], steps) for b in range(2)],
    }
    deleted = deletion_curve(model, x, y, maps, steps=steps)
    torch.testing.assert_close(deleted, torch.tensor(expected["deletion"], dtype=F64))
    area = {key: [(sum(row) - (row[0] + row[-1]) / 2) / (steps - 1) for row in rows] for key, rows in expected.items()}
    assert xr.score("deletion", model, x, y, maps, steps=steps).tolist() == pytest.approx(area["deletion"])
    for baseline in ("blur", "zero"):
        curve = insertion_curve(model, x, y, maps, steps=steps, baseline=baseline)
        torch.testing.assert_close(curve, torch.tensor(expected[baseline], dtype=F64))
        assert xr.score("insertion", model, x, y, maps, steps=steps, baseline=baseline).tolist() == pytest.approx(area[baseline])
        difference = [a - b for a, b in zip(area[baseline], area["deletion"])]
        assert xr.score("overall", model, x, y, maps, steps=steps, baseline=baseline).tolist() == pytest.approx(difference)
    blurred = insertion_curve(model, x, y, maps, steps=steps, baseline="blur")
    assert torch.equal(insertion_curve(model, x, y, maps, steps=steps), blurred)


def test_blur_keeps_the_mean_inside_and_fades_at_the_border():
    flat = blur(torch.ones(1, 3, 30, 40, dtype=F64))
    assert flat[..., 5:-5, 5:-5].sub(1).abs().max() < 1e-12 and (flat[..., :5, :] < 1).all()
    spot = torch.zeros(1, 3, 30, 40, dtype=F64)
    spot[0, 1, 15, 20] = 1
    spread = blur(spot)
    assert (spread[0, [0, 2]] == 0).all() and (spread[0, 1] > 0).sum() == 121
    assert (spread[0, 1, 15, 20] / spread[0, 1, 15, 15]).item() == pytest.approx(1.07, abs=0.005)  # nearly a box


# -- identities ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("H, W, steps", [(6, 6, 29), (5, 9, 8), (4, 4, 40)])
def test_I18_additive_model(H, W, steps):
    """What is inserted adds to the baseline what deleting it takes from the image."""
    model, x, maps = additive(H, W), 3 * noise(4, 3 * H, W, seed=2).view(4, 3, H, W) - 1, noise(4, H, W, levels=5)
    y = torch.tensor([0, 1, 0, 1])
    whole = model(x).exp()[range(4), y] + model(0 * x).exp()[range(4), y]
    inserted = insertion_curve(model, x, y, maps, steps=steps, baseline="zero")
    deleted = deletion_curve(model, x, y, maps, steps=steps)
    torch.testing.assert_close(inserted + deleted, whole[:, None].expand(4, steps))
    areas = xr.score("insertion", model, x, y, maps, steps=steps, baseline="zero")
    torch.testing.assert_close(areas + xr.score("deletion", model, x, y, maps, steps=steps), whole)
    assert (inserted.diff().abs() > 0).any()


def test_I18_constant_model():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, math.log(3)]], dtype=x.dtype).expand(len(x), 2)

    x, maps = images(3), noise(3, SIZE, SIZE)
    for y, p in ((0, 1 / 4), (1, 3 / 4)):
        for options in ({}, {"baseline": "zero"}):
            assert xr.score("insertion", Constant(), x, y, maps, **options).tolist() == pytest.approx([p] * 3)
            assert xr.score("overall", Constant(), x, y, maps, **options).tolist() == pytest.approx([0] * 3)
        assert xr.score("deletion", Constant(), x, y, maps).tolist() == pytest.approx([p] * 3)


def test_the_best_order_of_an_additive_model_wins():
    model, x = additive(6, 6), images(1, size=6)
    evidence = (x * model.v).sum(1)
    best, worst = xr.normalize(evidence), xr.normalize(-evidence)
    others = [xr.score("overall", model, x, 0, noise(1, 6, 6, seed=i), baseline="zero", steps=37).item() for i in range(20)]
    scores = [xr.score("overall", model, x, 0, maps, baseline="zero", steps=37).item() for maps in (best, worst)]
    assert scores[0] > max(others) > min(others) > scores[1]
    assert scores[0] == pytest.approx(-scores[1])


def test_only_the_order_of_the_map_counts():
    model, x, maps = seeded(VGGLike), images(), noise(3, SIZE, SIZE)
    assert torch.equal(xr.score("overall", model, x, 1, maps), xr.score("overall", model, x, 1, maps**3))


def test_both_curves_end_at_the_image():
    model, x, y, maps = seeded(VGGLike), images(), torch.tensor([1, 4, 0]), noise(3, SIZE, SIZE)
    clean, black = (model(z).softmax(1)[range(3), y] for z in (x, 0 * x))
    inserted, deleted = insertion_curve(model, x, y, maps), deletion_curve(model, x, y, maps)
    assert inserted.shape == deleted.shape == (3, 29)
    torch.testing.assert_close(torch.stack([inserted[:, -1], deleted[:, 0], deleted[:, -1]]), torch.stack([clean, clean, black]))
    torch.testing.assert_close(inserted[:, 0], model(blur(x)).softmax(1)[range(3), y])


def test_any_chunk_gives_the_same():
    model, x, y, maps = seeded(VGGLike), images(), torch.tensor([1, 4, 0]), noise(3, SIZE, SIZE)
    expected = insertion_curve(model, x, y, maps, steps=8), deletion_curve(model, x, y, maps, steps=8)
    for chunk in (1, 5, 24, 1000):
        got = insertion_curve(model, x, y, maps, steps=8, chunk=chunk), deletion_curve(model, x, y, maps, steps=8, chunk=chunk)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("metric", ["insertion", "deletion", "overall"])
def test_wrong_hyper_parameters(metric):
    model, x, maps = seeded(VGGLike), images(), noise(3, SIZE, SIZE)
    for steps in (1, 0, 2.5, "9"):
        with pytest.raises(ValueError, match=rf"steps.* is {steps!r}.*a whole number"):
            xr.score(metric, model, x, 0, maps, steps=steps)
    with pytest.raises(ValueError, match="chunk is 0"):
        xr.score(metric, model, x, 0, maps, chunk=0)
    if metric != "deletion":
        with pytest.raises(ValueError, match="baseline is 'mean'; possible: blur, zero"):
            xr.score(metric, model, x, 0, maps, baseline="mean")
    with pytest.raises(ValueError, match="class 9; the model has classes 0 to 4"):
        xr.score(metric, model, x, 9, maps)


# -- cost ---------------------------------------------------------------------------------------------------------------------


def test_forward_passes():
    model, x, maps = seeded(VGGLike, dtype=torch.float32), images(2, dtype=torch.float32), noise(2, SIZE, SIZE).float()

    def forwards(function):
        """In forward passes of the batch, all operations counted but the blurring."""
        return flops(function) / flops(lambda: model(x))

    def measure(metric, **options):
        return lambda: xr.score(metric, model, x, torch.tensor([1, 4]), maps, **options)

    blurring = forwards(lambda: blur(x))
    for n in (2, 9, 29):
        assert forwards(measure("insertion", steps=n)) == pytest.approx(n + blurring, abs=1e-9)
        assert forwards(measure("insertion", steps=n, baseline="zero")) == n
        assert forwards(measure("deletion", steps=n)) == n
        assert forwards(measure("overall", steps=n, baseline="zero")) == 2 * n - 1
    assert forwards(measure("overall")) == pytest.approx(2 * 29 - 1 + blurring, abs=1e-9)


@pytest.mark.parametrize("order", [("insertion", "deletion", "overall"), ("overall", "deletion", "insertion")])
def test_curves_are_shared(order):
    model, x, y, maps = seeded(VGGLike), images(), torch.tensor([1, 4, 0]), noise(3, SIZE, SIZE)
    alone = [xr.score(metric, model, x, y, maps, steps=5, baseline="zero") for metric in ("insertion", "overall")]

    def together():
        with sharing():
            for metric in order:
                xr.score(metric, model, x, y, maps, steps=5, **({} if metric == "deletion" else {"baseline": "zero"}))
            again = [xr.score(metric, model, x, y, maps, steps=5, baseline="zero") for metric in ("insertion", "overall")]
            assert all(torch.equal(a, b) for a, b in zip(alone, again))

    assert flops(together) == 9 * flops(lambda: model(x))

    def apart():
        with sharing():
            xr.score("deletion", model, x, y, maps, steps=5)
            xr.score("deletion", model, x, y, maps.flip(1), steps=5)
            xr.score("deletion", model, x, y, maps, steps=4)

    assert flops(apart) == (5 + 4 + 3) * flops(lambda: model(x))


@pytest.mark.parametrize("metric", ["insertion", "deletion", "overall"])
def test_memory_does_not_grow_with_the_steps(metric):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    x, maps = images(2, size=64, dtype=torch.float32), noise(2, 64, 64).float()

    def peak(steps, chunk=4):
        return peak_bytes(lambda: xr.score(metric, model, x, 1, maps, steps=steps, chunk=chunk))

    few, many = peak(9), peak(90)
    assert few <= many < few + 90 * 1000  # a probability per image and step, and not its image of 49 KB
    assert peak(9, chunk=16) > 1.5 * few


# -- fingerprints -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric, curves", [
    ("insertion", {"insertion_curve", "blur", "KERNEL"}), ("deletion", {"deletion_curve"}),
    ("overall", {"insertion_curve", "deletion_curve", "blur", "KERNEL"}),
])  # fmt: skip
def test_what_a_curve_rests_on_is_in_its_fingerprint(metric, curves, monkeypatch):
    monkeypatch.setattr(fingerprint, "digest", lambda *texts: texts)
    rests_on = {text.split(" ")[0] for text in fingerprint.of_code(xr.metric_info(metric).function)}
    found = {name.removeprefix("xai_repro.metrics.curves.") for name in rests_on}
    assert {metric, "area", "replacing", "ranks", "pixel_counts"} | curves <= found
    assert {"xai_repro.metrics.faithfulness.logits", "xai_repro.store.sharing.shared", "xai_repro.network.forward.predict"} <= rests_on
    assert not ({"insertion_curve", "deletion_curve", "blur"} - curves) & found

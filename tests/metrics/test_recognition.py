"""MoRF insertion and LeRF perturbation: by hand, against a loop over pixels, the steps of the papers, and the cost."""

import math

import pytest
import torch
import xai_repro as xr
from toys import SIZE, VGGLike, flops, images, seeded
from torch import nn

from xai_repro.errors import UnknownName
from xai_repro.metrics.curves import blur, KERNEL
from xai_repro.metrics.recognition import counts_of, ERASED, gaussian, recognised, REMOVED

F64 = torch.float64
METRICS = ("morf-insertion", "lerf-perturbation", "morf-perturbation")


class Sum(nn.Module):
    """Two classes: the first wins where the pixels add up to more than 0; a tie is won by it, too."""

    def __init__(self, multi_label=False):
        super().__init__()
        self.multi_label = multi_label

    def forward(self, x):
        s = x.sum((1, 2, 3)) / 3
        return torch.stack([s, 3 * s if self.multi_label else 0 * s], 1)


def photo(*pixels):
    """One image of a row of grey pixels."""
    return torch.tensor(pixels, dtype=F64).expand(1, 3, 1, len(pixels)).clone()


def row(*values):
    return torch.tensor([[values]], dtype=F64)


def value(name, x, maps, y=0, model=None, **options):
    (got,) = xr.score(name, model or Sum(), x, y, maps, **options).tolist()
    return got


def signed(B=3, levels=None, seed=1):
    maps = torch.randn(B, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return maps if levels is None else (maps * levels / 3).round()


class Watch(nn.Module):
    """Keeps the images that it is shown; class 0 always wins."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return torch.tensor([[1.0, 0.0]], dtype=x.dtype).expand(len(x), 2)


# -- by hand --------------------------------------------------------------------------------------------------------------


def test_insertion_by_hand():
    """Shown in this order, the pixels add up to -1, 1, 0 and -2."""
    x, maps = photo(2, -1, -2, -1), row(0.5, 0.9, -3, 0.2)
    options = {"canvas": "mean", "steps": 4, "share": 1.0}
    assert value("morf-insertion", x, maps, **options) == 2 / 4  # at 0 the first class wins the tie
    assert value("morf-insertion", x, maps, y=1, **options) == 2 / 4
    assert value("morf-insertion", x, maps, **options | {"steps": 2, "share": 0.5}) == 1 / 2
    assert value("morf-insertion", x, maps, **options | {"steps": 1}) == 0
    assert value("morf-insertion", x, maps, **options | {"share": 0.0}) == 1  # nothing is shown
    constant = [value("morf-insertion", x, row(c, c, c, c), **options) for c in (0.0, -1.0)]
    assert constant == [2 / 4, 2 / 4]  # reading order: 2, 1, -1, -2; backwards: -1, -3, -4, -2
    assert value("morf-insertion", x, row(-0.0, 0.0, -0.0, 0.0), **options) == 2 / 4


def test_perturbation_by_hand():
    """The last pixel goes first, then the second, the third, the first; beside each case what is left adds up to."""
    maps = row(0.9, 0.2, 0.5, -3)

    def left(*pixels, y=0, maps=maps, steps=4, share=1.0, report="mean"):
        return value("lerf-perturbation", photo(*pixels), maps, y, steps=steps, share=share, report=report)

    assert left(3, -2, -1, 1) == 1  # 1: 0, 2, 3, 0; a tie is won
    assert left(3, -3, -1, 2) == 3 / 4  # 1: -1, 2, 3, 0
    assert left(-3, 3, -1, 2) == 1 / 4 and left(-3, 3, -1, 2, report="last") == 1  # 1: -1, -4, -3, 0
    assert left(-3, 3, -1, 2, steps=3, share=0.75) == left(-3, 3, -1, 2, steps=3, share=0.75, report="last") == 0
    assert left(3, -3, -1, 0, y=1) == 1 / 4 and left(3, -3, -1, 0, y=1, report="last") == 0  # -1: -1, 2, 3, 0
    assert left(3, -3, -1, 2, share=0.0) == 1  # nothing is removed
    for constant in (row(1, 1, 1, 1), row(0.0, -0.0, 0.0, -0.0)):
        assert left(1, 2, -2, 1, maps=constant) == 3 / 4  # in reading order: 1, -1, 1, 0; backwards: 1, 3, 1, 0


def test_a_class_that_is_not_recognised_at_first_is_not_judged():
    x, maps = torch.cat([photo(3, -1), photo(-3, 1)]), torch.cat([row(1, 0), row(1, 0)])
    got = xr.score("lerf-perturbation", Sum(), x, 0, maps, steps=2, share=1.0)
    assert got[0] == 1 and got[1].isnan()
    assert xr.score("lerf-perturbation", Sum(), x, torch.tensor([1, 1]), maps, steps=2, share=1.0).isnan().tolist() == [True, False]
    assert xr.score("lerf-perturbation", Sum(), x, torch.tensor([1, 0]), maps, steps=2, share=1.0).isnan().all()


def test_a_multi_label_model_recognises_from_one_half():
    many = Sum(multi_label=True)
    logits = torch.tensor([[0.0, 5.0], [-0.1, -9.0], [0.1, 7.0]], dtype=F64)
    y = torch.tensor([0, 0, 0])
    assert recognised(many, logits, y).tolist() == [1, 0, 1] and recognised(Sum(), logits, y).tolist() == [0, 1, 0]
    assert recognised(Sum(), logits[:, :1], y).tolist() == [1, 0, 1]  # one logit is a probability of its own
    assert recognised(Sum(), logits * torch.nan, y).isnan().all() and recognised(many, logits * torch.nan, y).isnan().all()
    assert recognised(Sum(), torch.zeros(1, 3), torch.tensor([0])) == 1 and recognised(Sum(), torch.zeros(1, 3), torch.tensor([1])) == 0
    x, maps = photo(2, -1, -2, -1), row(0.5, 0.9, -3, 0.2)
    for y in (0, 1):
        assert value("morf-insertion", x, maps, y, many, canvas="mean", steps=4, share=1.0) == 2 / 4


# -- against a loop over pixels -------------------------------------------------------------------------------------------


def plain_rows(model, old, new, y, relevance, steps, share, first):
    """One image at a time, one pixel at a time."""
    H, W = relevance.shape
    places = sorted(((i, j) for i in range(H) for j in range(W)), key=lambda ij: (-first * relevance[ij].item(), ij))
    hits = []
    for t in range(1, steps + 1):
        picture = old.clone()
        for i, j in places[: math.floor(t * H * W * share / steps + 0.5)]:
            picture[:, i, j] = new[:, i, j]
        scores = model(picture[None])[0].tolist()
        hits.append(float(scores.index(max(scores)) == y))
    return hits


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("steps, share", [(20, 0.2), (7, 0.9)])
def test_insertion_against_a_loop(steps, share, levels):
    model, x, maps = seeded(VGGLike), 3 * images(3), signed(levels=levels)
    y = model(x).argmax(1)
    seen = []
    for canvas, start in (("blur", blur(x)), ("mean", 0 * x)):
        rows = [plain_rows(model, start[b], x[b], y[b].item(), maps[b], steps, share, first=1) for b in range(3)]
        got = xr.score("morf-insertion", model, x, y, maps, steps=steps, share=share, canvas=canvas)
        assert got.tolist() == pytest.approx([sum(row) / steps for row in rows])
        seen += got.tolist()
    assert len(set(seen)) > 1


@pytest.mark.parametrize("name, first", [("lerf-perturbation", -1), ("morf-perturbation", 1)])
@pytest.mark.parametrize("levels", [None, 4])
def test_perturbation_against_a_loop(levels, name, first):
    model, x, maps, seen = seeded(VGGLike), 3 * images(3), signed(levels=levels), []
    for y in (model(x).argmax(1), torch.tensor([1, 4, 0])):
        for steps, share in ((100, REMOVED), (9, 1.0)):
            rows = [plain_rows(model, x[b], 0 * x[b], y[b].item(), maps[b], steps, share, first=first) for b in range(3)]
            known = (model(x).argmax(1) == y).tolist()
            for report, what in (("mean", lambda hits: sum(hits) / len(hits)), ("last", lambda hits: hits[-1])):
                expected = [what(row) if there else math.nan for row, there in zip(rows, known)]
                got = xr.score(name, model, x, y, maps, steps=steps, share=share, report=report)
                assert got.tolist() == pytest.approx(expected, nan_ok=True)
                seen += [one for one in expected if not math.isnan(one)]
    assert len(set(seen)) > 2


# -- the papers' steps ----------------------------------------------------------------------------------------------------


def test_the_papers_steps():
    """Insertion shows 1 % to 20 %, one more at a time; perturbation removes 200 pixels at a time, 20,000 at last."""
    x, maps = torch.ones(1, 3, 224, 224), torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0))
    assert counts_of(x, 100, REMOVED).tolist() == [200 * t for t in range(1, 101)]
    assert counts_of(x, 20, 0.2).tolist() == [math.floor(t * 501.76 + 0.5) for t in range(1, 21)]
    assert counts_of(x[..., :10, :15], 4, 1.0).tolist() == [38, 75, 113, 150]  # a half is rounded up
    watch = Watch()
    xr.score("morf-insertion", watch, x, 0, maps, canvas="mean")
    shown = torch.cat(watch.seen)[-20:, 0] == 1
    assert shown.sum((1, 2)).tolist() == counts_of(x, 20, 0.2).tolist()
    assert (shown[1:] | ~shown[:-1]).all() and maps[0][shown[-1]].min() > maps[0][~shown[-1]].max()


def test_the_most_relevant_4000_pixels_go_at_once():
    x, maps, watch = torch.ones(1, 3, 224, 224), torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0)), Watch()
    assert value("morf-perturbation", x, maps, model=watch) == 1 and not xr.metric_info("morf-perturbation").higher_is_better
    gone = torch.cat(watch.seen)[1:, 0] == 0
    assert len(gone) == 1 and gone.sum() == 4000 == counts_of(x, 1, ERASED) and maps[0][gone[0]].min() > maps[0][~gone[0]].max()


def test_each_removal_goes_on_from_the_last():
    x, maps, watch = torch.ones(1, 3, SIZE, SIZE), signed(1), Watch()
    assert value("lerf-perturbation", x, maps, model=watch, steps=8, share=0.5) == 1
    gone = torch.cat(watch.seen)[-8:, 0] == 0
    assert gone.sum((1, 2)).tolist() == [16 * t for t in range(1, 9)]
    assert (gone[1:] | ~gone[:-1]).all() and maps[0][gone[-1]].max() < maps[0][~gone[-1]].min()


def test_only_the_order_of_the_map_counts_and_its_sign_does():
    model, x, maps = seeded(VGGLike), 3 * images(), signed()
    y = model(x).argmax(1)
    for name in METRICS:
        options = {"steps": 40, "share": 1.0}
        values = xr.score(name, model, x, y, maps, **options)
        assert torch.equal(xr.score(name, model, x, y, maps.exp() - 3, **options), values)
        assert not torch.equal(xr.score(name, model, x, y, -maps, **options), values)


def test_the_blur():
    assert gaussian(11, 5.0).tolist() == pytest.approx(KERNEL.tolist())
    x, maps, watch = images(1), signed(1), Watch()
    xr.score("morf-insertion", watch, x, 0, maps, share=0.0, steps=1)
    torch.testing.assert_close(watch.seen[-1], blur(x))
    xr.score("morf-insertion", watch, x, 0, maps, share=0.0, steps=1, kernel=3, sigma=1.0)
    line = [sum(math.exp(-(j**2) / 2) for j in range(-4, 5) if _place(i + j) == 1) for i in range(3)]
    line = torch.tensor(line, dtype=F64) / sum(math.exp(-(j**2) / 2) for j in range(-4, 5))
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    expected = sum(line[a] * line[b] * padded[..., a : a + SIZE, b : b + SIZE] for a in range(3) for b in range(3))
    torch.testing.assert_close(watch.seen[-1], expected)
    xr.score("morf-insertion", watch, x, 0, maps, share=0.0, steps=1, kernel=1)
    torch.testing.assert_close(watch.seen[-1], x)


def _place(i):
    """Where a kernel of three, reflected at its ends, has its place i."""
    return i % 6 if i % 6 < 3 else 5 - i % 6


# -- batches, cost, errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_chunks(name):
    model, x, maps = seeded(VGGLike), 3 * images(), signed(levels=3)
    y = model(x).argmax(1)
    y[1] = (y[1] + 1) % 5
    values = xr.score(name, model, x, y, maps)
    alone = torch.cat([xr.score(name, model, x[b : b + 1], y[b : b + 1], maps[b : b + 1]) for b in range(3)])
    for got in (alone, *(xr.score(name, model, x, y, maps, chunk=chunk) for chunk in (1, 7, 500))):
        torch.testing.assert_close(got, values, equal_nan=True)
    assert values.isnan().tolist() == [False, name != "morf-insertion", False]


def test_forward_passes():
    model, x, maps = seeded(VGGLike, dtype=torch.float32), images(2, dtype=torch.float32), signed(2).float()
    y = model(x).argmax(1)

    def forwards(name, y=y, **options):
        return flops(lambda: xr.score(name, model, x, y, maps, **options)) / flops(lambda: model(x))

    assert forwards("morf-insertion", canvas="mean") == 20 and forwards("morf-insertion", canvas="mean", steps=3) == 3
    assert forwards("lerf-perturbation") == 101 and forwards("lerf-perturbation", report="last") == 2
    assert forwards("lerf-perturbation", y=(y + torch.tensor([0, 1])) % 5) == 1 + 100 / 2  # one image is not recognised
    assert forwards("lerf-perturbation", y=(y + 1) % 5) == 1


def test_wrong_hyper_parameters():
    model, x, maps = seeded(VGGLike), images(), signed()
    for name in METRICS:
        for options, said in (
            ({"steps": 0}, "steps is 0; at least 1 is needed"), ({"steps": 2.5}, "steps.* is 2.5"), ({"share": 1.5}, "share is 1.5; .*from 0 to 1"),
            ({"share": -0.1}, "share.* is -0.1"), ({"chunk": 0}, "chunk is 0"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=said):
                xr.score(name, model, x, model(x).argmax(1), maps, **options)
        with pytest.raises(ValueError, match="class 9; the model has classes 0 to 4"):
            xr.score(name, model, x, 9, maps)
    for options, kind, said in (
        ({"canvas": "zero"}, UnknownName, "unknown canvas 'zero'.*possible: blur, mean"), ({"kernel": 4}, ValueError, "kernel is 4; an odd number"),
        ({"kernel": 0}, ValueError, "kernel is 0; at least 1"), ({"sigma": 0.0}, ValueError, "sigma is 0.0; more than 0"),
    ):  # fmt: skip
        with pytest.raises(kind, match=said):
            xr.score("morf-insertion", model, x, 0, maps, **options)
    with pytest.raises(UnknownName, match="unknown report 'first'.*possible: mean, last"):
        xr.score("lerf-perturbation", model, x, 0, maps, report="first")

"""Object proposals on candidates and maps made by hand, and selective search as a whole."""

import itertools
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xai_repro as xr
from toys import images
from xai_repro.data import Sample
from xai_repro.study import proposals

SIZE = 32
WHOLE = [0, 0, SIZE, SIZE]
CANDIDATES = [WHOLE, [2, 2, 10, 10], [4, 4, 12, 12], [20, 2, 30, 12], [0, 20, 32, 32]]


def map_with(**peaks):
    """A map [32,32] of zeros with a value at each named pixel: x8y3=1.0."""
    m = torch.zeros(SIZE, SIZE)
    for place, value in peaks.items():
        x, y = map(int, place[1:].split("y"))
        m[y, x] = value
    return m


def picture(*boxes, size=SIZE):
    """Rectangles of different greys, half-open, on black."""
    image = torch.zeros(3, size, size)
    for shade, (x0, y0, x1, y1) in enumerate(boxes, 1):
        image[:, y0:y1, x0:x1] = shade / len(boxes)
    return image


def sample(*rows, name="one", image=None):
    image = torch.zeros(3, SIZE, SIZE) if image is None else image
    labels = tuple(sorted({label for label, *_ in rows}))
    return Sample(image, labels, torch.tensor(rows).view(-1, 5), torch.full(image.shape[1:], -1), id=name)


@pytest.fixture
def candidates(monkeypatch):
    """Selective search finds what the test says, in this order."""

    def put(*boxes):
        found = torch.tensor(boxes), 1 - torch.arange(len(boxes)) / len(boxes)
        monkeypatch.setattr(proposals, "selective_search", lambda image, seed=0: found)

    put(*CANDIDATES)
    return put


# -- selective search -------------------------------------------------------------------------------------------------------


def test_selective_search_finds_a_plain_rectangle_and_the_whole_image():
    box = [20, 30, 60, 70]
    boxes, scores = proposals.selective_search(picture(box, size=96))
    assert boxes.dtype == torch.int64 and {tuple(b) for b in boxes.tolist()} >= {(0, 0, 96, 96)}
    # the image is smoothed before it is segmented, so the edges may lie a pixel or two beside
    assert proposals.iou(boxes, torch.tensor([box])).max() > 0.85
    N = len(boxes)
    assert scores.tolist() == pytest.approx([1 - n / N for n in range(N)]) and len(boxes.unique(dim=0)) == N


def test_boxes_are_half_open_and_in_the_order_x_then_y():
    wide = torch.zeros(3, 48, 96)
    wide[:, 10:30, 50:90] = 1
    boxes, _ = proposals.selective_search(wide)
    assert [0, 0, 96, 48] in boxes.tolist()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= torch.tensor([96, 48])).all()
    assert proposals.iou(boxes, torch.tensor([[50, 10, 90, 30]])).max() > 0.8


class Search:
    """OpenCV's selective search with boxes (x, y, width, height) that it always finds."""

    found = np.array([[4, 4, 8, 8], [0, 0, 32, 32], [2, 2, 8, 8], [2, 0, 8, 8], [0, 0, 16, 16]], dtype=np.int32)
    setBaseImage = switchToSelectiveSearchFast = lambda self, *_: None
    process = lambda self: self.found  # noqa: E731


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(proposals, "_opencv", lambda: SimpleNamespace(createSelectiveSearchSegmentation=Search))


def test_the_ranks_are_random_numbers_times_the_place_by_size(found, monkeypatch):
    """Uijlings et al., section 3.3, with the random numbers given; equally large boxes in reading order."""
    u = [0.9, 0.1, 0.8, 0.3, 0.02]
    monkeypatch.setattr(np.random, "default_rng", lambda seed: SimpleNamespace(random=lambda n: np.array(u)))
    boxes, scores = proposals.selective_search(torch.zeros(3, 32, 32))
    by_size = [[0, 0, 32, 32], [0, 0, 16, 16], [2, 0, 10, 8], [2, 2, 10, 10], [4, 4, 12, 12]]
    assert boxes.tolist() == [box for _, box in sorted((u[n] * (n + 1), by_size[n]) for n in range(5))]
    assert scores.tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_images_get_ranks_of_their_own(found):
    """One draw for all images would make the mean over images as uncertain as a single one."""
    orders = {str(proposals.selective_search(image)[0].tolist()) for image in images(8, dtype=torch.float32)}
    assert len(orders) > 4


def test_selective_search_repeats_itself_and_leaves_image_and_random_states_alone():
    image = images(1, size=64, dtype=torch.float32)[0]
    before, torch_state, numpy_state = image.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()
    (first, _), (again, _), (other, _) = (proposals.selective_search(image, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert sorted(first.tolist()) == sorted(other.tolist())  # the seed chooses the order alone
    assert torch.equal(image, before) and torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("scale, shift", [(1, 0), (0.25, -3), (8, 100)])
def test_the_units_of_the_image_do_not_matter(scale, shift):
    image = picture([5, 5, 20, 20], [22, 10, 30, 28])
    assert torch.equal(proposals.selective_search(scale * image + shift)[0], proposals.selective_search(image)[0])


def test_colours_reach_opencv_blue_first():
    image = torch.stack([torch.full((2, 4), float(c)) for c in (0, 1, 2)])
    image[0, 1, 3] = 4
    pixels = proposals._pixels(image)
    assert pixels.shape == (2, 4, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [128, 64, 0] and pixels[1, 3].tolist() == [128, 64, 255]


def test_a_plain_image_is_one_candidate():
    assert proposals.selective_search(torch.ones(3, 20, 30))[0].tolist() == [[0, 0, 30, 20]]


# -- peaks ------------------------------------------------------------------------------------------------------------------


def test_peaks_by_hand():
    two = map_with(x8y3=1.0, x25y20=0.6, x3y28=0.5)  # 0.5 is not above half of the maximum
    near = map_with(x8y3=1.0, x10y3=0.9)  # within a tenth of 32, the lower one is a shoulder
    assert [p.tolist() for p in proposals.peaks(torch.stack([two, near]))] == [[[8, 3], [25, 20]], [[8, 3]]]
    assert proposals.peaks(two[None], threshold=0.4)[0].tolist() == [[8, 3], [25, 20], [3, 28]]
    assert proposals.peaks(7 * two[None])[0].tolist() == [[8, 3], [25, 20]]


def test_peaks_against_the_definition():
    maps = torch.rand(4, 24, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for m, found in zip(maps.tolist(), proposals.peaks(maps, threshold=0.9)):
        top, expected = max(map(max, m)), []
        for y, x in itertools.product(range(24), range(31)):
            around = [m[v][u] for v in range(max(0, y - 3), min(24, y + 4)) for u in range(max(0, x - 3), min(31, x + 4))]
            if m[y][x] == max(around) and m[y][x] > 0.9 * top:
                expected.append((-m[y][x], [x, y]))
        assert found.tolist() == [place for _, place in sorted(expected)] and len(expected) > 1


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a_constant_map_has_no_peak(value):
    assert proposals.peaks(torch.full((2, 16, 16), value))[1].shape == (0, 2)


def test_a_plateau_is_one_peak():
    m = torch.zeros(1, 96, 96)
    m[0, 40:48, 88:] = 1  # what bilinear upsampling makes of a cell at the border
    (points,) = proposals.peaks(m)
    assert len(points) == 1 and 88 <= points[0, 0] and 40 <= points[0, 1] < 48
    coarse = torch.zeros(1, 6, 6)
    coarse[0, 0, 0] = coarse[0, 5, 5] = 1
    up = torch.nn.functional.interpolate(coarse[None], size=(96, 96), mode="bilinear")[0]
    assert len(proposals.peaks(up)[0]) == 2


# -- proposals --------------------------------------------------------------------------------------------------------------


def test_each_peak_proposes_the_best_candidate_that_contains_it(candidates):
    image, two = torch.zeros(3, SIZE, SIZE), map_with(x5y5=1.0, x25y5=0.8)
    assert proposals.propose(image).tolist() == [WHOLE]
    assert proposals.propose(image, two).tolist() == [WHOLE]  # it contains both, and it is first
    candidates(*CANDIDATES[1:], WHOLE)
    assert proposals.propose(image, two).tolist() == [[2, 2, 10, 10], [20, 2, 30, 12]]
    candidates(CANDIDATES[3], CANDIDATES[2], CANDIDATES[1], WHOLE)
    assert proposals.propose(image, two).tolist() == [[20, 2, 30, 12], [4, 4, 12, 12]]  # the highest score first
    assert proposals.propose(image, two, threshold=0.9).tolist() == [[4, 4, 12, 12]]


EDGES = [(4, 6, True), (11, 6, True), (12, 6, False), (4, 5, False), (4, 13, True), (4, 14, False)]


@pytest.mark.parametrize("x, y, inside", EDGES)
def test_the_ends_of_a_box_lie_outside(candidates, x, y, inside):
    candidates([4, 6, 12, 14])
    proposed = proposals.propose(torch.zeros(3, SIZE, SIZE), map_with(**{f"x{x}y{y}": 1.0}))
    assert proposed.tolist() == ([[4, 6, 12, 14]] if inside else [])


def test_a_map_without_peaks_proposes_nothing(candidates):
    proposed = proposals.propose(torch.zeros(3, SIZE, SIZE), torch.zeros(SIZE, SIZE))
    assert proposed.shape == (0, 4) and proposed.dtype == torch.int64


def test_a_proposal_of_selective_search_itself_contains_the_peak():
    image, m = picture([4, 4, 14, 14], [18, 16, 30, 30]), map_with(x9y9=1.0, x24y22=0.9)
    before = image.clone(), m.clone()
    proposed = proposals.propose(image, m)
    boxes = proposals.selective_search(image)[0].tolist()
    for x, y in ((9, 9), (24, 22)):
        assert next(b for b in boxes if b[0] <= x < b[2] and b[1] <= y < b[3]) in proposed.tolist()
    assert torch.equal(image, before[0]) and torch.equal(m, before[1])
    assert proposals.propose(image).tolist() == boxes[:1]


# -- overlap and comparison -------------------------------------------------------------------------------------------------


def test_iou_by_counting_pixels():
    boxes = torch.tensor([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [1, 1, 3, 2]])

    def pixels(box):
        return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))

    for a, row in zip(boxes.tolist(), proposals.iou(boxes, boxes).tolist()):
        for b, got in zip(boxes.tolist(), row):
            assert got == pytest.approx(len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)))


def test_best_overlap_by_hand():
    true = torch.tensor([[0, 0, 4, 4], [10, 10, 14, 14]])
    proposed = torch.tensor([[2, 2, 6, 6], [0, 0, 4, 8], [20, 20, 22, 22]])
    assert proposals.best_overlap(proposed, true) == pytest.approx((16 / 32 + 0) / 2)
    assert proposals.best_overlap(true, true) == 1
    assert proposals.best_overlap(proposed[:0], true) == 0
    assert math.isnan(proposals.best_overlap(proposed, true[:0]))


def test_the_comparison_by_hand(candidates):
    one = sample((3, 20, 2, 30, 12), (5, 2, 2, 10, 10), name="one")
    none = sample((3, 20, 2, 30, 12), name="none")
    maps = torch.stack([map_with(x25y5=1.0), torch.zeros(SIZE, SIZE)])
    candidates([2, 2, 10, 10], [20, 2, 30, 12], [8, 8, 24, 24], WHOLE)
    got = proposals.compare([one, none], maps)
    assert list(got.columns) == ["image_id", "method", "best overlap", "proposals", "whole"]
    assert got["image_id"].tolist() == ["one"] * 3 + ["none"] * 3
    table = got.set_index(["image_id", "method"])
    assert table.loc[("one", proposals.PEAKS)].tolist() == [1, 1, 0]
    assert table.loc[("one", proposals.RANKED)].tolist() == [0, 1, 0]
    central = table.loc[("one", proposals.CENTRAL)]
    inter = (24 - 20) * (12 - 8)  # of [8,8,24,24] with the object; the whole image is the other that contains the centre
    possible = {0: pytest.approx(inter / (100 + 256 - inter)), 1: pytest.approx(100 / 1024)}
    assert central["best overlap"] == possible[central["whole"]] and central["proposals"] == 1
    assert table.loc["none"]["best overlap"].tolist() == [0, 0, 0] and not table.loc["none"]["proposals"].any()
    other = proposals.compare([one], maps[:1], labels=[5]).set_index("method")
    assert other["best overlap"][[proposals.PEAKS, proposals.RANKED]].tolist() == [0, 1]


def test_every_way_gets_the_same_number_of_proposals_where_there_are_as_many(candidates):
    image = sample((0, 0, 0, 8, 8), image=torch.zeros(3, SIZE, SIZE))
    m = map_with(x5y5=1.0, x25y5=0.9, x5y28=0.8)[None]
    candidates([2, 2, 10, 10], [4, 4, 20, 20], [20, 2, 30, 12], [1, 1, 25, 25], [0, 20, 32, 32], WHOLE)
    got = proposals.compare([image], m).set_index("method")["proposals"]
    assert got[proposals.PEAKS] == got[proposals.RANKED] == got[proposals.CENTRAL] == 3
    candidates([2, 2, 10, 10], [20, 2, 30, 12], [0, 20, 32, 32], WHOLE)
    assert proposals.compare([image], m).set_index("method")["proposals"][proposals.CENTRAL] == 1


def test_the_comparison_on_drawn_scenes_repeats_itself():
    data = xr.load_data("mini-scenes", limit=3)
    samples = [data[i] for i in range(3)]
    maps = torch.stack([s.truth().float() for s in samples])  # the object itself; smoothed, so that it has a peak
    maps = torch.nn.functional.avg_pool2d(maps[:, None], 15, stride=1, padding=7)[:, 0]
    first, again = (proposals.compare(samples, maps, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert first["best overlap"].between(0, 1).all() and len(first) == 9
    alone = proposals.compare(samples[1:2], maps[1:2], seed=3)  # a row depends on its own image alone
    pd.testing.assert_frame_equal(alone, first[3:6].reset_index(drop=True))


# -- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, said",
    [
        (torch.zeros(1, 3, 8, 8), r"\[1, 3, 8, 8\]"),
        (torch.zeros(1, 8, 8), r"\[1, 8, 8\]"),
        (torch.full((3, 8, 8), torch.nan), "NaN or infinity"),
        ("photo.jpg", "str"),
    ],
)
def test_images_that_selective_search_cannot_take(image, said):
    with pytest.raises(ValueError, match=said):
        proposals.selective_search(image)


def test_maps_that_have_no_peaks_to_speak_of(candidates):
    with pytest.raises(ValueError, match=r"\[B,H,W\].*\[8, 8\]"):
        proposals.peaks(torch.zeros(8, 8))
    with pytest.raises(ValueError, match="NaN or infinity"):
        proposals.peaks(torch.full((1, 8, 8), torch.inf))
    with pytest.raises(ValueError, match=r"size of the image, \[32, 32\]; got \[8, 8\]"):
        proposals.propose(torch.zeros(3, SIZE, SIZE), torch.zeros(8, 8))
    with pytest.raises(ValueError, match="1 samples need as many"):
        proposals.compare([sample((0, 1, 1, 2, 2))], torch.zeros(2, SIZE, SIZE))


def test_without_opencvs_extra_modules_the_error_says_how_to_mend_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2.ximgproc", None)
    with pytest.raises(ModuleNotFoundError, match="--force-reinstall --no-deps opencv-contrib-python-headless"):
        proposals.selective_search(torch.zeros(3, 8, 8))


def test_the_lock_holds_one_opencv_and_is_installed_as_it_is():
    root = Path(__file__).parents[2]
    assert re.findall(r"^opencv[\w-]*", (root / "requirements.lock").read_text(), re.M) == ["opencv-contrib-python-headless"]
    installs = [line for line in (root / "Makefile").read_text().splitlines() if "-r requirements.lock" in line]
    assert len(installs) == 2 and all("--no-deps" in line for line in installs)

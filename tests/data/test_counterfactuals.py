"""The same bird with other shapes of its parts: everything else stays, to the pixel."""

import pickle

import numpy as np
import pytest
import torch

from xai_repro.data import birds, denormalize, load_data
from xai_repro.data.canvas import Canvas, grain, SUPERSAMPLING
from xai_repro.data.counterfactuals import Counterfactuals
from xai_repro.errors import UnknownName

DATA = load_data("mini-birds", "val")
PARTS = list(birds.SHAPES)


def drawn(number, change):
    """(pixels, tags) of picture `number` by the plain way: the drawer with its table of species altered."""
    whole = birds.species_parts
    birds.species_parts = lambda label: whole(label) | change
    try:
        return DATA._draw(number)[:2]
    finally:
        birds.species_parts = whole


def grainless(monkeypatch):
    monkeypatch.setattr(birds, "grain", lambda rng, pixels, strength: pixels)


def test_what_is_drawn_is_what_another_species_table_would_draw():
    for number in range(6):
        found = DATA.counterfactuals(number)
        changes = [*found.swaps(), {"wing": found.shapes["wing"][1], "legs": found.shapes["legs"][3]}, {}]
        for change, pixels in zip(changes, found.draw(changes)):
            assert np.array_equal(pixels, drawn(number, change)[0])


def test_nothing_changed_is_the_picture_itself():
    for number in (0, 7, 40):
        sample = DATA[number]
        own = {part: shapes[0] for part, shapes in sample.counterfactuals.shapes.items()}
        assert torch.equal(sample.counterfactuals.images([{}, own]), sample.image.expand(2, -1, -1, -1))
        assert own == birds.species_parts(sample.labels[0])


@pytest.mark.parametrize("noise", [True, False], ids=["with its grain", "without grain"])
def test_pixels_away_from_the_part_are_identical(monkeypatch, noise):
    if not noise:
        grainless(monkeypatch)
    touched = []  # all tags of every pixel, at the size at which it is drawn
    finish = Canvas.finish
    monkeypatch.setattr(Canvas, "finish", lambda canvas: touched.append(np.asarray(canvas.tags)) or finish(canvas))
    differing = 0
    for number in range(12):
        found = DATA.counterfactuals(number)
        for change in found.swaps():
            touched.clear()
            (before, tags), (after, other) = drawn(number, {}), drawn(number, change)
            tag = birds._tag(next(iter(change)))
            part = sum(np.asarray(one == tag) for one in touched).reshape(96, SUPERSAMPLING, 96, SUPERSAMPLING).any((1, 3))
            assert not ((before != after).any(2) & ~part).any() and not ((tags != other) & ~part).any()
            differing += (before != after).any(2).sum()
    assert differing > 10000


def test_a_shape_draws_no_random_number():
    for number in range(4):
        found, left = DATA.counterfactuals(number), set()
        for change in [{}, *found.swaps()]:
            left.add(state_after(number, change))
        assert len(left) == 1


def state_after(number, change):
    """The state of the generator before the grain: (strength, first noise)."""
    kept = []
    whole = birds.grain
    birds.grain = lambda rng, pixels, strength: kept.append((strength, rng.random())) or grain(rng, pixels, strength)
    try:
        list(birds.variants(DATA._generator(number), [change]))
    finally:
        birds.grain = whole
    return kept[0]


def test_each_swap_is_drawn_anew_and_again_the_same():
    found = DATA[3].counterfactuals
    swaps = found.swaps()
    assert len(swaps) == 15 and [next(iter(swap)) for swap in swaps] == [part for part in PARTS for _ in range(3)]
    images = found.images(swaps)
    assert images.shape == (15, 3, 96, 96) and images.dtype == torch.float32
    assert torch.equal(images[4], found.images([swaps[4]])[0])  # whatever else is drawn with it
    assert torch.equal(images, pickle.loads(pickle.dumps(load_data("mini-birds", "val", limit=9)[2:]))[1].counterfactuals.images(swaps))
    assert len({image.numpy().tobytes() for image in denormalize(images)}) == 15


def test_data_without_counterfactuals():
    assert load_data("mini-scenes")[0].counterfactuals is None and load_data("mini-scenes").counterfactuals(0) is None


def test_errors_name_parts_and_shapes():
    found = DATA.counterfactuals(0)
    with pytest.raises(UnknownName, match="unknown part 'wings'; did you mean 'wing'"):
        found.images([{"wings": "raised"}])
    with pytest.raises(UnknownName, match="unknown shape of wing 'raise'; did you mean 'raised'"):
        found.images([{"wing": "raise"}])
    for changes in ({"wing": "raised"}, [], ["wing"], None):
        with pytest.raises(ValueError, match="changes are a list of"):
            found.images(changes)
    with pytest.raises(IndexError, match="no picture 5000"):
        DATA.counterfactuals(5000)
    assert Counterfactuals({"a": ("x", "y")}, None).swaps() == [{"a": "y"}]

"""What a network sees of a photograph: the pixels of torchvision's own transforms, and boxes and masks where the painted objects are."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.models import ResNet50_Weights
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from xai_repro.data import MEAN, Sample, STD, View
from xai_repro.errors import UnknownName

GROUND, PAINT = (10, 40, 90), (250, 200, 30)
# What a view is made of, without its interpolation, and (width, height) of a photograph.
GEOMETRIES = {
    "landscape": ((32, 28), (61, 40)), "portrait": ((32, 28), (40, 61)), "odd remainders": ((33, 28), (47, 35)), "ImageNet's": ((256, 224), (500, 375)),
    "squash": (((24, 37), None), (50, 41)), "squash and cut": (((24, 37), (20, 30)), (50, 41)), "shorter side alone, as TorchRay": ((28, None), (71, 45)),
    "more than there is": ((None, 65), (50, 41)), "more in one direction": ((None, (30, 65)), (50, 41)), "enlarged": ((96, 80), (30, 23)), "halved": ((20, None), (40, 60)),
    "as it is": ((None, None), (33, 20)), "cut alone": ((None, (11, 16)), (33, 20)),
}  # fmt: skip


def painted(size, *boxes):
    """A photograph with rectangles (x0, y0, x1, y1), half-open, in a colour of their own, and where they are: bool [H,W]."""
    photo, mask = Image.new("RGB", size, GROUND), np.zeros(size[::-1], bool)
    for x0, y0, x1, y1 in boxes:
        ImageDraw.Draw(photo).rectangle((x0, y0, x1 - 1, y1 - 1), fill=PAINT)
        mask[y0:y1, x0:x1] = True
    return photo, mask


def rectangles(width, height, count=25):
    """Rectangles of some size, anywhere, and those that touch the edges."""
    rng = np.random.default_rng(0)
    found = [(0, 0, width, height), (0, 0, width // 2, height // 3), (width // 2, height // 3, width, height)]
    for _ in range(count):
        (x0, x1), (y0, y1) = (sorted(rng.choice(side + 1, 2, replace=False).tolist()) for side in (width, height))
        found += [(x0, y0, x1, y1)] if min(x1 - x0, y1 - y0) > 5 else []
    return found


def colour_of(image, view, colour):
    """Which pixels of the network's image have a colour: bool [H,W]."""
    return ((view.colours(image) * 255).round() == torch.tensor(colour)[:, None, None]).all(0)


def resized(view, width, height):
    """(width, height) after the resize, and how many pixels the crop takes from its left and top, as torchvision documents them."""
    if isinstance(view.resize, tuple):
        wide, high = view.resize[::-1]
    elif view.resize is None:
        wide, high = width, height
    else:
        wide, high = (view.resize, int(view.resize * height / width)) if width <= height else (int(view.resize * width / height), view.resize)
    tall, broad = (high, wide) if view.crop is None else view.crop if isinstance(view.crop, tuple) else (view.crop, view.crop)
    left, top = (int(round((whole - part) / 2.0)) if whole >= part else -((part - whole) // 2) for whole, part in ((wide, broad), (high, tall)))
    return wide, high, left, top


def inside(view, size, box):
    """Whether the middle of a pixel of the network's image lies in a box of the photograph, in float64, and whether it lies on the edge between two of its pixels, where
    rounding decides: bool [H,W] each."""
    wide, high, left, top = resized(view, *size)
    frame = view.frame(*size)
    x, y = ((np.arange(frame.width) + 0.5 + left) * size[0] / wide), ((np.arange(frame.height) + 0.5 + top) * size[1] / high)
    edge_x, edge_y = (np.abs(axis - axis.round()) < 1e-9 for axis in (x, y))
    return ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2])), edge_y[:, None] | edge_x


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_boxes_and_masks_lie_where_the_paint_is(geometry):
    (resize, crop), size = GEOMETRIES[geometry]
    view = View(resize, crop, "nearest")
    frame, seen, undecided = view.frame(*size), 0, 0
    for box in rectangles(*size):
        photo, mask = painted(size, box)
        image = view(photo)
        paint = colour_of(image, view, PAINT)
        assert image.shape == (3, frame.height, frame.width)
        expected, edge = inside(view, size, box)
        edge &= geometry != "halved"  # all of its middles lie on edges, and none is rounded
        undecided += edge.mean()
        assert not ((frame.mask(mask) != paint).numpy() & ~edge).any() and not ((expected != paint.numpy()) & ~edge).any(), f"{box} of {geometry}"
        boxes = frame.boxes([(7, *box)])
        assert boxes.dtype == torch.int64 and len(boxes) == paint.any() and set(boxes[:, 0].tolist()) <= {7}
        filled = torch.zeros_like(paint)
        for _, x0, y0, x1, y1 in boxes.tolist():
            filled[y0:y1, x0:x1] = True
        assert not ((filled != paint).numpy() & ~edge).any(), f"{box} of {geometry}"
        seen += bool(paint.any())
    assert seen > 5 and undecided < 0.1 * seen


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_smooth_interpolation_moves_nothing(geometry, interpolation):
    """The middle of what is painted stays in the middle of its box, to a tenth of a pixel; what is cut off is left aside."""
    (resize, crop), size = GEOMETRIES[geometry]
    view = View(resize, crop, interpolation)
    frame = view.frame(*size)
    box = (size[0] // 2 - 6, size[1] // 2 - 4, size[0] // 2 + 3, size[1] // 2 + 5)
    image = view.colours(view(painted(size, box)[0]))[0]
    weight = ((image - GROUND[0] / 255) * (image > 0)).numpy()  # without the black border
    middle = [(weight * (axis + 0.5)).sum() / weight.sum() for axis in (np.arange(frame.width), np.arange(frame.height)[:, None])]
    expected = (box[0] + box[2]) / 2 * frame.across - frame.left, (box[1] + box[3]) / 2 * frame.down - frame.top
    assert middle == pytest.approx(expected, abs=0.1)


def test_a_mask_of_labels_has_a_value_where_there_is_no_photograph():
    (resize, crop), size = GEOMETRIES["more in one direction"]
    view = View(resize, crop, "nearest")
    found = view.frame(*size).mask(np.full(size[::-1], 3), outside=-1)
    black = colour_of(view(painted(size)[0]), view, (0, 0, 0))
    assert torch.equal(found == -1, black) and torch.equal(found == 3, ~black) and black.sum() == 15 * 30
    assert not view.frame(*size).mask(np.ones(size[::-1], bool))[black].any()


def test_small_boxes_keep_a_pixel_and_those_cut_off_are_left_out():
    frame = View(20, 16).frame(80, 80)  # a quarter of the size, two pixels cut on each side
    rows = [(1, 40, 40, 41, 41), (2, 0, 0, 8, 80), (3, 72, 30, 80, 40), (4, 0, 30, 9, 40), (5, 71.9, 71.9, 80, 80), (6, 41.5, 40, 42.6, 48), (7, 30, 30, 30, 40)]
    assert frame.boxes(rows).tolist() == [[1, 8, 8, 9, 9], [4, 0, 5, 1, 8], [5, 15, 15, 16, 16], [6, 8, 8, 9, 10]]
    assert frame.boxes([]).shape == (0, 5) and frame.boxes([]).dtype == torch.int64 and frame.scale == (0.25, 0.25)


# -- torchvision's pixels ---------------------------------------------------------------------------------------------

SIZES = [(500, 375), (375, 500), (120, 90), (224, 224), (256, 256), (700, 230), (301, 257)]


def noise(size):
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_those_of_torchvision(size):
    photo, normal = noise(size), [ToTensor(), Normalize(MEAN, STD)]
    assert torch.equal(View()(photo), Compose([Resize(256), CenterCrop(224), *normal])(photo))
    assert torch.equal(View()(photo), ResNet50_Weights.IMAGENET1K_V1.transforms()(photo))
    assert torch.equal(View(232)(photo), ResNet50_Weights.IMAGENET1K_V2.transforms()(photo))
    assert torch.equal(View((224, 200), None, "bicubic")(photo), Compose([Resize((224, 200), InterpolationMode.BICUBIC), *normal])(photo))
    caffe = View(224, None, mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)
    assert torch.equal(caffe(photo), Compose([Resize(224), ToTensor(), Normalize(caffe.mean, caffe.std)])(photo))
    assert torch.equal(View(None, (300, 310))(photo), Compose([CenterCrop((300, 310)), *normal])(photo))


@pytest.mark.parametrize("seed", range(40))
def test_the_frame_has_the_size_of_the_image(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(5, 60, 2).tolist())
    for resize in (None, int(rng.integers(5, 60)), tuple(rng.integers(5, 60, 2).tolist())):
        for crop in (None, int(rng.integers(5, 60)), tuple(rng.integers(5, 60, 2).tolist())):
            view = View(resize, crop, "nearest")
            frame, image = view.frame(*size), view(Image.new("RGB", size, PAINT))
            assert image.shape == (3, frame.height, frame.width)
            assert torch.equal(frame.mask(np.ones(size[::-1], bool)), colour_of(image, view, PAINT))


def test_colours_are_those_of_the_photograph():
    view = View(None, None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    photo = noise((9, 7))
    assert torch.allclose(view(photo), (ToTensor()(photo) - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.25, 2.0])[:, None, None])
    batch = view(photo)[None].double().requires_grad_()
    assert torch.allclose(view.colours(batch)[0].float(), ToTensor()(photo), atol=1e-6) and view.colours(batch).dtype == torch.float64


@pytest.mark.parametrize("wrong, said", [
    ({"resize": 0}, "resize of a view is 0; at least 1"), ({"resize": 2.5}, "resize of a view"), ({"crop": (224, 0)}, "crop of a view is 0"), ({"crop": (1, 2, 3)}, "crop of a view"),
    ({"crop": True}, "crop of a view"), ({"resize": 10**6}, "at most 10000"), ({"mean": (0.5, 0.5)}, "mean of a view is .*three numbers"), ({"std": 0.5}, "std of a view is 0.5; three"),
])  # fmt: skip
def test_views_that_make_no_sense(wrong, said):
    with pytest.raises(ValueError, match=said):
        View(**wrong)
    with pytest.raises(UnknownName, match="unknown interpolation 'bilinar'; did you mean 'bilinear'"):
        View(interpolation="bilinar")


# -- samples made of photographs --------------------------------------------------------------------------------------


def sample(mask, scale=(1.0, 1.0), **facts):
    mask = torch.as_tensor(mask)
    return Sample(torch.zeros(3, *mask.shape), (2, 5), regions={2: mask}, scale=scale, **facts)


def dot(height, width, row, column):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[row, column] = True
    return mask


def test_near_is_less_than_fifteen_pixels():
    near = sample(dot(40, 50, 20, 20)).near(2)
    for row, column, expected in [(20, 34, True), (20, 35, False), (6, 20, True), (5, 20, False), (29, 32, False), (28, 32, True), (32, 29, False), (20, 20, True)]:
        assert near[row, column] == expected, (row, column)  # 9 and 12 are 15 away
    rows, columns = np.mgrid[:40, :50]
    assert np.array_equal(near, (rows - 20) ** 2 + (columns - 20) ** 2 < 225)
    assert not sample(torch.zeros(4, 4, dtype=torch.bool)).near(2).any() and not sample(dot(4, 4, 1, 1)).near(5).any()
    assert sample(dot(4, 9, 1, 1)).near(2, pixels=1).sum() == 1


def test_near_counts_pixels_of_the_photograph():
    one = sample(dot(3, 5, 1, 2), (1 / 14.99, 1 / 15)).near(2)  # a step to the side is 14.99 of its pixels, one down is 15
    assert one.int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    across, down = View((60, 20), None).frame(100, 90).scale
    near = sample(dot(60, 20, 30, 10), (across, down)).near(2)
    rows, columns = np.mgrid[:60, :20]
    assert np.array_equal(near, ((rows - 30) * 90 / 60) ** 2 + ((columns - 10) * 100 / 20) ** 2 < 225)


def test_difficult_is_what_the_whole_photograph_says():
    boxes = torch.tensor([[2, 0, 0, 2, 2], [5, 0, 0, 10, 10]])
    seen = sample(torch.zeros(10, 10, dtype=torch.bool), boxes=boxes)
    assert seen.is_difficult(2) and not seen.is_difficult(5) and seen.difficult
    said = sample(torch.zeros(10, 10, dtype=torch.bool), boxes=boxes, hard=frozenset({5}))
    assert said.is_difficult(5) and not said.is_difficult(2) and not said.is_difficult() and said.difficult
    assert not sample(torch.zeros(10, 10, dtype=torch.bool), boxes=boxes, hard=frozenset()).difficult


def test_truth_is_that_of_regions_then_of_the_mask_and_near_knows_boxes_too():
    boxes, mask, region = torch.tensor([[2, 0, 0, 2, 2]]), torch.full((4, 4), -1), dot(4, 4, 3, 3)
    alone = Sample(torch.zeros(3, 4, 4), (2,), boxes)
    assert not alone.truth().any() and torch.equal(alone.near(pixels=1), alone.box_truth()) and alone.box_truth()[:2, :2].all()
    mask[0, 0] = 2
    marked = Sample(torch.zeros(3, 4, 4), (2,), boxes, mask)
    assert marked.truth().sum() == marked.near(pixels=1).sum() == 1
    both = Sample(torch.zeros(3, 4, 4), (2,), boxes, mask, regions={2: region, 7: ~region})
    assert torch.equal(both.truth(), region) and torch.equal(both.truth(7), ~region) and not both.truth(1).any()

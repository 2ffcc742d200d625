"""The embedded data: the same everywhere, exactly annotated, and fair."""

import pickle
from hashlib import sha256
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from xai_repro.data import birds, denormalize, load_data, Sample, View
from xai_repro.data.drawn import DRAWERS
from xai_repro.data.canvas import SUPERSAMPLING, Canvas, pose
from xai_repro.errors import UnknownName

NAMES = list(DRAWERS)


def digest(name, numbers=range(6)):
    sums = sha256()
    for split in ("train", "val", "test"):
        data = load_data(name, split)
        for i in numbers:
            pixels, _, labels = data.pixels(i)
            sums.update(pixels.tobytes() + bytes(labels))
    return sums.hexdigest()[:16]


@pytest.mark.parametrize("name, expected", [("mini-birds", "755363e6936e9e6b"), ("mini-scenes", "6a06c907ce213752")])
def test_pictures_are_the_same_everywhere(name, expected):
    assert digest(name) == expected, "the drawing changed: raise DRAWING in drawn.py, retrain, and renew this checksum"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_depends_on_its_number_alone(name):
    data = load_data(name)
    late = data[7].image
    data[3]
    assert torch.equal(load_data(name, limit=8)[7].image, late)
    assert torch.equal(data[5:9][2].image, late)
    assert not torch.equal(load_data(name, "val")[7].image, late)


@pytest.mark.parametrize("name", NAMES)
def test_sample_agrees_with_its_picture(name):
    data = load_data(name, "val")
    sample, (pixels, objects, labels) = data[2], data.pixels(2)
    assert sample.image.shape == (3, 96, 96) and sample.image.dtype == torch.float32
    assert np.array_equal((denormalize(sample.image) * 255).round().byte().permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(objects, (sample.mask >= 0).numpy())
    assert sample.labels == labels and sample.id == f"{name}/val/2"


@pytest.mark.parametrize("name", NAMES)
def test_boxes_bound_masks_tightly(name):
    for sample in load_data(name, limit=60):
        assert sample.boxes.dtype == torch.int64 and sample.labels == tuple(sorted(set(sample.boxes[:, 0].tolist())))
        for label in sample.labels:
            rows, columns = sample.truth(label).any(1).nonzero(), sample.truth(label).any(0).nonzero()
            boxes = sample.boxes[sample.boxes[:, 0] == label, 1:]
            assert boxes[:, :2].amin(0).tolist() == [columns.min(), rows.min()]
            assert boxes[:, 2:].amax(0).tolist() == [columns.max() + 1, rows.max() + 1]
            assert (sample.box_truth(label) | ~sample.truth(label)).all()
        assert set(sample.mask.unique().tolist()) == {-1, *sample.labels}


def test_parts_make_up_the_bird():
    for sample in load_data("mini-birds", limit=60):
        assert torch.equal(sum(part.int() for part in sample.parts.values()), sample.truth().int())
        assert {"body", "head", "wing"} <= set(sample.parts) <= set(birds.PARTS)


def flat_bird(seed, label=6):
    canvas = Canvas(Image.new("RGB", (96 * SUPERSAMPLING,) * 2, (130, 120, 110)))
    birds.draw_bird(np.random.default_rng(seed), canvas, birds.species_parts(label), pose(16, 0.2, True, 50 + 45j), 16)
    return canvas.finish()


def test_mask_is_what_was_drawn():
    pixels, tags = flat_bird(0)
    drawn = (pixels != (130, 120, 110)).any(2)
    assert drawn[tags > 0].all()
    halo = drawn & (tags == 0)  # pixels less than half covered, at the rim only
    near = torch.nn.functional.max_pool2d(torch.from_numpy(tags > 0)[None].float(), 3, 1, 1)[0].bool().numpy()
    assert near[halo].mean() > 0.95 and halo.sum() < 0.35 * (tags > 0).sum()


def test_species_is_told_by_shape_not_colour():
    (one, tags), (other, same_tags) = flat_bird(1), flat_bird(2)
    assert np.array_equal(tags, same_tags) and not np.array_equal(one, other)


def test_no_single_part_tells_the_species_and_any_two_do():
    words = [tuple(birds.species_parts(label).values()) for label in range(len(birds.CLASSES))]
    assert all(sum(a != b for a, b in zip(one, other)) >= 4 for one, other in combinations(words, 2))
    for part in range(5):
        shapes = [word[part] for word in words]
        assert all(shapes.count(shape) == 4 for shape in shapes)


def test_objects_are_modest_and_off_centre():
    samples = list(load_data("mini-birds", limit=200))
    areas = torch.stack([sample.truth().float().mean() for sample in samples])
    assert 0.11 < areas.median() < 0.22
    assert torch.stack([sample.truth()[48, 48] for sample in samples]).float().mean() < 0.4


def test_scenes_hold_easy_and_difficult_images():
    difficult = [sample.difficult for sample in load_data("mini-scenes", limit=100)]
    assert 0.3 < np.mean(difficult) < 0.9
    assert not any(sample.difficult for sample in load_data("mini-birds", limit=5))


def scene(*boxes):
    labels = tuple(sorted({box[0] for box in boxes}))
    return Sample(torch.zeros(3, 10, 10), labels, torch.tensor(boxes), torch.full((10, 10), -1))


def test_difficult_rule():
    small, large = (0, 0, 0, 5, 4), (1, 0, 0, 5, 5)
    both = scene(small, large)
    assert both.is_difficult(0) and not both.is_difficult(1) and both.difficult  # 20 and 25 of 100 pixels
    assert not scene(small).difficult  # no other class
    assert not scene(small, (0, 5, 5, 10, 6), large).is_difficult(0)  # areas of a class add up
    assert both.box_truth(0).sum() == 20 and both.box_truth().sum() == 20


def test_lazy_sequence():
    data = load_data("mini-birds", limit=20)
    assert len(data) == 20 and len(data[5:9]) == 4 and len(data[:100]) == 20
    assert data[-1].id == "mini-birds/test/19" and [s.id for s in data[18:]] == ["mini-birds/test/18", "mini-birds/test/19"]
    assert data.fingerprint == load_data("mini-birds").fingerprint != load_data("mini-birds", "val").fingerprint
    assert data[:7].fingerprint == data[::2][:1].fingerprint == data.fingerprint  # the first so many
    assert len({data.fingerprint, data[5:9].fingerprint, data[6:10].fingerprint, data[5:10].fingerprint, data[::2].fingerprint}) == 5
    assert len(data.classes) == 16 and not data.multi_label and load_data("mini-scenes").multi_label
    with pytest.raises(IndexError):
        data[20]


def test_errors_name_what_is_possible():
    with pytest.raises(UnknownName, match="did you mean 'mini-birds'"):
        load_data("mini-bird")
    with pytest.raises(FileNotFoundError, match="voc2007: no .*python data_scripts/fetch_voc2007.py"):
        load_data("voc2007", root="nowhere")
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        load_data("mini-birds", split="tets")
    with pytest.raises(TypeError, match="takes no root, transform"):
        load_data("mini-birds", root="somewhere", transform=View())


@pytest.mark.parametrize("name", [["mini-birds"], None, 3, True, b"mini-birds", {}, np.array(["mini-birds", "x"])], ids=repr)
def test_names_of_other_types_are_unknown(name):
    with pytest.raises(UnknownName, match="unknown data set"):
        load_data(name)
    with pytest.raises(UnknownName, match="unknown split"):
        load_data("mini-birds", name)


@pytest.mark.parametrize("limit", [0, -3, True, False, 1.0, "5", [5], np.float64(5), np.bool_(True), float("inf")], ids=repr)
def test_limits_that_are_no_number_of_images(limit):
    with pytest.raises(ValueError, match="limit is .*at least 1"):
        load_data("mini-birds", limit=limit)


def test_limits_of_any_whole_number():
    for limit in (5, np.int64(5), np.uint8(5)):
        assert len(load_data("mini-birds", limit=limit)) == 5
    assert len(load_data("mini-birds", limit=10**6)) == len(load_data("mini-birds")) == 2000


def test_indices_that_name_no_picture():
    data = load_data("mini-birds", limit=20)
    for ask in (data.__getitem__, data.pixels):
        for index in (20, -21, 10**30):
            with pytest.raises(IndexError, match=f"no picture {index} in mini-birds, split test: 20 images"):
                ask(index)
        for index in ("0", 1.0, None, [0], (0, 1)):
            with pytest.raises(TypeError, match="a whole number asks for a picture"):
                ask(index)
    assert data[np.int64(3)].id == data[torch.tensor(3)].id == "mini-birds/test/3" and len(list(data)) == 20


# -- Other processes, which are sent the data set ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_survives_being_sent(name):
    data = load_data(name, "val", limit=9)[2:7]
    again = pickle.loads(pickle.dumps(data))
    assert len(again) == 5 and repr(again) == repr(data) and again.fingerprint == data.fingerprint
    assert again.classes == data.classes and again[1].id == f"{name}/val/3" and torch.equal(again[1].image, data[1].image)


def test_workers_that_are_spawned_draw_the_same():
    data = load_data("mini-birds", limit=8)
    loader = DataLoader(data, 2, collate_fn=list, num_workers=2, multiprocessing_context="spawn")
    drawn = [sample for bundle in loader for sample in bundle]
    assert [sample.id for sample in drawn] == [sample.id for sample in data]
    assert all(torch.equal(one.image, other.image) and one.parts.keys() == other.parts.keys() for one, other in zip(drawn, data))

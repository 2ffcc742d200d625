"""Readers of real data sets on small folders of the same form: what they read, exactly, and what they refuse, by name."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from toy_trees import COCO_IDS, TREES, VOTES, gtsegs_mask, imagenet_by_folders, pixels, python2, saved, tree, written

from xai_repro.data import View, data_names, load_data
from xai_repro.data.photographs import hard_labels, mixed
from xai_repro.data.readers import READERS
from xai_repro.errors import UnknownName

WHOLE = View(resize=None, crop=None)  # a photograph as it is


@pytest.fixture
def opened(tmp_path):
    """Function that fills the folder of a data set and opens it, unless it is there already."""
    def load(name, split="test", transform=WHOLE):
        root = tmp_path / name
        return load_data(name, split, root if root.exists() else tree(name, tmp_path), transform=transform)

    return load


def records(data):
    return [data.reader.record(number) for number in range(len(data))]


# -- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_every_photograph_is_a_sample(name, opened):
    data = opened(name)
    samples = list(data)
    assert len(samples) == len(data) > 1 and data.multi_label == (name in ("voc2007", "coco2014")) and len(set(data.classes)) > 1
    assert len({sample.id for sample in samples}) == len(samples) and all(sample.id.startswith(f"{name}/test/") for sample in samples)
    for number, sample in enumerate(samples):
        photo = data.photo(number)
        assert photo.mode == "RGB" and sample.image.shape == (3, photo.height, photo.width) and sample.image.dtype == torch.float32
        assert sample.labels == tuple(sorted(set(sample.labels))) and all(type(label) is int and label < len(data.classes) for label in sample.labels)
        assert all(region.shape == sample.image.shape[1:] and region.dtype == torch.bool for region in sample.regions.values())
    assert opened(name, transform=None)[0].image.shape == (3, 224, 224) and len(data[:1]) == 1 and data[1:][0].id == samples[1].id


def test_the_real_data_sets_are_listed_in_order():
    assert list(READERS) == data_names()[2:] and list(READERS)[:10] == [
        "imagenet", "imagenet-samples", "voc2007", "coco2014", "cub", "ucmerced", "stl10", "cifar100", "catsdogs", "imagenet-seg",
    ]  # fmt: skip


def test_imagenet_in_one_folder(opened):
    data = opened("imagenet", "val")
    found = records(data)
    assert [record.labels for record in found] == [(3,), (0,), (999,), (0,)] and data.classes[3] == "tiger shark"
    assert found[0].boxes == [(3, 5, 10, 25, 30), (3, 0, 0, 40, 30)]  # the file speaks of twice as many pixels
    assert found[1].boxes == [(0, 5, 6, 7, 8)] and found[0].name == "ILSVRC2012_val_00000001" and all(record.hard == frozenset() for record in found)
    assert data[0].box_truth().all() and data[1].box_truth().sum() == 4 and not data[1].truth().any()


def test_imagenet_by_folders(tmp_path):
    data = load_data("imagenet", "val", imagenet_by_folders(tmp_path), transform=WHOLE)
    shark, tench = records(data)
    assert (tench.labels, tench.boxes, tench.hard, tench.photo().size) == ((0,), [], None, (30, 40))
    assert (shark.labels, shark.boxes, shark.hard, shark.name) == ((3,), [(3, 4, 5, 20, 25)], frozenset(), "ILSVRC2012_val_00000007")
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    assert len(load_data("imagenet", "val", tmp_path / "elsewhere")) == 2


def test_imagenet_samples_may_be_missing(opened):
    found = records(opened("imagenet-samples"))
    assert sorted((record.labels, record.name[10:]) for record in found) == [((0,), "tench"), ((3,), "tiger_shark"), ((999,), "toilet_tissue")]
    assert [record.name for record in found] == [record.name for record in records(opened("imagenet-samples"))] == mixed(record.name for record in found)


def test_voc(opened):
    data = opened("voc2007")
    many, alone, quarter, difficult = records(data)
    assert len(data.classes) == 20 and [data.classes[label] for label in (0, 7, 11, 14, 19)] == ["aeroplane", "cat", "dog", "person", "tvmonitor"]
    assert many.boxes == [(14, 0, 0, 40, 30), (11, 7, 2, 20, 12), (11, 29, 4, 34, 9), (7, 1, 1, 5, 6)]
    assert many.labels == (11, 14) and many.hard >= {11} and 14 not in many.hard  # the cat is not explained: PASCAL calls it difficult
    assert (alone.labels, alone.boxes, alone.hard) == ((0,), [(0, 2, 3, 10, 10)], frozenset())
    assert quarter.labels == (17,) and 17 not in quarter.hard  # 20 x 15 of 40 x 30 pixels is no less than a quarter
    assert difficult.labels == () and difficult.boxes == [(4, 4, 4, 9, 9)]
    assert data[0].is_difficult(11) and data[0].difficult and not data[1].difficult and not data[2].difficult and not data[3].difficult
    assert data[0].box_truth(7).sum() == 20 and data[0].box_truth(11).sum() == 130 + 25
    assert [record.name for split in ("train", "val") for record in records(opened("voc2007", split))] == ["000005", "000002"]


def test_a_difficult_object_of_pascal_makes_the_other_class_difficult(opened, tmp_path):
    opened("voc2007")
    file = tmp_path / "voc2007" / "VOCdevkit" / "VOC2007" / "Annotations" / "000003.xml"
    written(file, file.read_text().replace("<xmax>20<", "<xmax>19<"))
    assert opened("voc2007")[2].is_difficult(17)
    written(file, file.read_text().replace("chair", "sofa"))
    assert not opened("voc2007")[2].is_difficult(17)  # no other class


@pytest.mark.parametrize("below", ["VOCdevkit", "VOCdevkit/VOC2007"])
def test_voc_may_lie_less_deep(below, opened, tmp_path):
    opened("voc2007")
    assert len(load_data("voc2007", root=tmp_path / "voc2007" / below)) == 4


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((30, 40), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_coco(opened):
    data = opened("coco2014")
    grey, two = records(data)  # 5 has no object
    assert len(data.classes) == 80 == len(COCO_IDS) and data.classes[11] == "thing 13" and data.classes[79] == "thing 90"
    assert [record.name for record in (grey, two)] == ["COCO_val2014_000000000003", "COCO_val2014_000000000009"]
    assert grey.labels == (0,) and grey.boxes == [(0, 5, 0, 40, 20)] and grey.hard == frozenset()
    assert np.array_equal(grey.regions()[0], rectangle(5, 10, 9, 20) | rectangle(39, 0, 40, 1))
    assert two.labels == (11, 79) and two.boxes == [(11, 2, 3, 24.5, 28), (79, 8, 5, 20, 11), (11, 30, 1, 32, 3)]
    outlines = rectangle(2, 3, 10, 9) | rectangle(20, 20, 24, 28) | rectangle(30, 1, 32, 3)
    assert np.array_equal(two.regions()[11], outlines) and np.array_equal(two.regions()[79], rectangle(8, 5, 20, 11))
    assert two.hard == {79}  # 562.5 + 4 pixels are more than 300, 72 are less
    sample = data[1]
    assert np.array_equal(sample.truth(11), outlines) and sample.truth(79)[7, 9] and sample.truth(11)[7, 9] and not sample.truth(5).any()
    assert sample.is_difficult(79) and not sample.is_difficult(11)
    assert len(opened("coco2014", "train")) == 1 and opened("coco2014", "val")[1].boxes.tolist() == sample.boxes.tolist()


def test_runs_of_coco_may_be_packed(opened, tmp_path):
    coding, mask = pytest.importorskip("pycocotools.mask"), rectangle(3, 4, 17, 9)
    opened("coco2014")
    file = tmp_path / "coco2014" / "annotations" / "instances_val2014.json"
    packed = coding.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    start = file.read_text().index('{"counts"')
    end = file.read_text().index("}", start)
    written(file, file.read_text()[:start] + f'{{"counts": "{packed}", "size": [30, 40]'.replace("\\", "\\\\") + file.read_text()[end:])
    assert np.array_equal(opened("coco2014").reader.record(0).regions()[0], mask)


def test_cub(opened, tmp_path):
    data = opened("cub")
    albatross, sooty = sorted(records(data), key=lambda record: record.labels)
    assert data.classes == ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")
    assert (albatross.labels, albatross.boxes, albatross.name) == ((0,), [(0, 6, 2, 18, 22)], "Bird_1_77") and albatross.hard == frozenset()
    assert (sooty.labels, sooty.boxes) == ((2,), [(2, 0, 0, 40, 30)])
    assert np.array_equal(albatross.regions()[0], np.tile(np.repeat(np.array(VOTES) >= 127.5, 5), (30, 1)))
    first = [record.labels for record in records(data)].index((0,))  # the order is drawn
    assert data[first].truth().sum() == 20 * 30 and data[first].box_truth().sum() == 12 * 20
    assert [record.labels for record in records(opened("cub", "train"))] == [(1,)]
    (tmp_path / "cub" / "segmentations").rename(tmp_path / "cub" / "CUB_200_2011" / "segmentations")
    assert opened("cub")[first].truth().sum() == 20 * 30
    (tmp_path / "cub" / "CUB_200_2011" / "segmentations").rename(tmp_path / "elsewhere")
    assert opened("cub")[first].box_truth().sum() == 12 * 20 and not opened("cub")[first].regions


def test_ucmerced(opened):
    data = opened("ucmerced")
    assert len(data.classes) == 21 and len(data) == 22
    found = [(record.name, record.labels) for record in records(data)]
    assert sorted(found)[2:5] == [("baseballdiamond00", (2,)), ("beach00", (3,)), ("beach01", (3,))] and found != sorted(found)  # so that the first so many are of all kinds
    assert found == [(record.name, record.labels) for record in records(opened("ucmerced"))]
    assert np.array_equal(data.photo([name for name, _ in found].index("agricultural00")), pixels(25, 24))  # TIFF loses nothing


def test_catsdogs(opened):
    data = opened("catsdogs")
    assert data.classes == ("Cat", "Dog")
    assert sorted(((record.name, record.labels) for record in records(data)), key=lambda one: (one[1], int(one[0][4:]))) == [("Cat/0", (0,)), ("Cat/2", (0,)), ("Cat/10", (0,)), ("Dog/1", (1,)), ("Dog/3", (1,))]


@pytest.mark.parametrize("name, side, labels", [("stl10", 96, [9, 0, 4]), ("cifar100", 32, [99, 0, 7])])
def test_arrays(name, side, labels, opened):
    for split in ("test", "train"):
        data = opened(name, split)
        for number, label in enumerate(labels):
            assert data[number].labels == (label,) and np.array_equal(data.photo(number), pixels(side, side, number))
    assert data.classes[0] == {"stl10": "animal 0", "cifar100": "fine 0"}[name] and data[2].id == f"{name}/train/2"


def test_imagenet_segmentation(opened):
    data = opened("imagenet-seg")
    assert len(data.classes) == 1000 and len(data) == 2
    for number, (width, height) in enumerate([(7, 5), (4, 6)]):
        assert np.array_equal(data.photo(number), pixels(width, height, number))
        sample = data[number]
        assert sample.labels == () and list(sample.regions) == [-1] and np.array_equal(sample.truth(-1), gtsegs_mask(width, height))


# -- what is refused --------------------------------------------------------------------------------------------------

VOC, CUB = "VOCdevkit/VOC2007", "CUB_200_2011"
FILES = {
    "imagenet": ["val/ILSVRC2012_val_00000002.JPEG", "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml"],
    "imagenet-samples": ["n01440764_tench.JPEG"],
    "voc2007": [f"{VOC}/JPEGImages/000002.jpg", f"{VOC}/Annotations/000002.xml", f"{VOC}/ImageSets/Main/test.txt"],
    "coco2014": ["val2014/COCO_val2014_000000000003.jpg", "annotations/instances_val2014.json"],
    "cub": [
        f"{CUB}/images/001.Black_footed_Albatross/Bird_1_77.jpg", "segmentations/003.Sooty_Albatross/Bird_3_77.png", f"{CUB}/images.txt", f"{CUB}/classes.txt",
        f"{CUB}/train_test_split.txt", f"{CUB}/bounding_boxes.txt",
    ],
    "ucmerced": ["UCMerced_LandUse/Images/beach/beach01.tif"],
    "stl10": ["stl10_binary/test_X.bin", "stl10_binary/test_y.bin", "stl10_binary/class_names.txt"],
    "cifar100": ["cifar-100-python/test", "cifar-100-python/meta"],
    "catsdogs": ["PetImages/Cat/10.jpg"],
    "imagenet-seg": ["gtsegs_ijcv.mat"],
}  # fmt: skip
GARBAGE = b"\xff\xfe\x00 is nothing of the kind " * 7
EVERY = [(name, file) for name, files in FILES.items() for file in files]


def shortened(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def read(name, root):
    data = load_data(name, root=root)
    return [data[number] for number in range(len(data))], data.fingerprint_of(0, len(data))


def test_every_reader_has_its_files():
    assert FILES.keys() == TREES.keys() == READERS.keys() - {"free-photographs"}


@pytest.mark.parametrize("name, file", EVERY)
def test_a_damaged_file_is_named(name, file, tmp_path):
    path = tree(name, tmp_path) / file
    damages = [shortened] if path.suffix not in (".txt",) else []
    damages += [lambda path: path.write_bytes(GARBAGE)] if name != "catsdogs" else []  # there it would be left out
    whole = path.read_bytes()
    for damage in [*damages, lambda path: path.write_bytes(b"")] if name != "catsdogs" else damages:
        path.write_bytes(whole)
        damage(path)
        with pytest.raises(ValueError, match=path.name):
            read(name, tmp_path / name)


FOUND_BY_LOOKING = {"imagenet/val/ILSVRC2012_val_00000002.JPEG", "imagenet-samples/n01440764_tench.JPEG", "ucmerced/UCMerced_LandUse/Images/beach/beach01.tif", "catsdogs/PetImages/Cat/10.jpg"}


@pytest.mark.parametrize("name, file", [one for one in EVERY if "/".join(one) not in FOUND_BY_LOOKING] + [("ucmerced", "UCMerced_LandUse/Images/river"), ("catsdogs", "PetImages/Dog")])
def test_a_missing_file_is_named(name, file, tmp_path):
    path = tree(name, tmp_path) / file
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=path.name):
        read(name, tmp_path / name)


@pytest.mark.parametrize("name", TREES)
def test_a_folder_that_is_not_there(name, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=rf"{name}: no .*nowhere.*fetch_{name.replace('-', '_')}.py"):
        load_data(name, root=tmp_path / "nowhere")
    monkeypatch.setenv("XAI_REPRO_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=f"data.{name}"):
        load_data(name)
    with pytest.raises((FileNotFoundError, ValueError), match=name):
        (tmp_path / "data" / name).mkdir(parents=True)
        load_data(name)


@pytest.mark.parametrize("name", TREES)
def test_splits_that_are_not_there(name, opened):
    for split in ("tets", None, 3, ["test"]):
        with pytest.raises(UnknownName, match=f"unknown split of {name}"):
            opened(name, split)


@pytest.mark.parametrize("name, package", [("coco2014", "pycocotools"), ("imagenet-seg", "h5py")])
def test_packages_that_only_one_needs(name, package, opened, monkeypatch):
    opened(name)
    monkeypatch.setitem(sys.modules, package, None)
    for module in [module for module in sys.modules if module.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ModuleNotFoundError, match=rf"{name} is read with {package}.*pip install 'xai-repro\[data\]'"):
        opened(name)


@pytest.mark.parametrize("old, new, said", [
    ("aeroplane", "aeroplan", "did you mean 'aeroplane'"), ("<xmax>10<", "<xmax>2<", "an empty box of aeroplane"), ("<xmin>3<", "<xmin>x<", "000002.xml is not a VOC annotation"),
    ("<object>", "<thing>", "000002.xml is not a VOC annotation"), ("difficult", "dificult", None),
])  # fmt: skip
def test_annotations_of_voc_that_make_no_sense(old, new, said, opened, tmp_path):
    opened("voc2007")
    file = tmp_path / "voc2007" / VOC / "Annotations" / "000002.xml"
    written(file, file.read_text().replace(old, new).replace("</object>", "</thing>" if new == "<thing>" else "</object>"))
    if said is None:
        assert opened("voc2007")[1].labels == (0,)  # an object without the flag is an easy one
    else:
        with pytest.raises(ValueError, match=said):
            opened("voc2007")[1]


def test_labels_out_of_range_are_refused(opened, tmp_path):
    for name, file in (("stl10", "stl10_binary/test_y.bin"), ("cifar100", "cifar-100-python/test")):
        opened(name)
        path = tmp_path / name / file
        for label in (0, 11) if name == "stl10" else (-1, 100):
            if name == "stl10":
                written(path, bytes([1, label, 1]))
            else:
                python2(path, {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [label]})
            with pytest.raises(ValueError, match=f"{path.name} holds the label {label - (name == 'stl10')}; labels from 0 to"):
                opened(name)


class Evil:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def test_a_pickle_of_cifar_runs_nothing(opened, tmp_path):
    opened("cifar100")
    path, made = tmp_path / "cifar100" / "cifar-100-python" / "test", tmp_path / "made"
    for evil in (Evil(os.mkdir, str(made)), Evil(open, str(made), "w"), Evil(eval, f"__import__('os').mkdir({str(made)!r})"), Evil(np.load, str(made))):
        for protocol in (0, 2, 4):
            written(path, pickle.dumps({"data": evil, "fine_labels": [1]}, protocol))
            with pytest.raises(ValueError, match="test is not a file of CIFAR-100: UnpicklingError: .* is asked for, which is no part of an array"):
                opened("cifar100")
    assert not made.exists()


def test_a_mask_of_another_size_is_refused(opened, tmp_path):
    opened("cub")
    saved(tmp_path / "cub" / "segmentations" / "001.Black_footed_Albatross" / "Bird_1_77.png", 30, 40, "L", "PNG")
    with pytest.raises(ValueError, match="cub/test/Bird_1_77: .*40 x 30 pixels.*30 x 40"):
        opened("cub")[0]


# -- fingerprints -----------------------------------------------------------------------------------------------------

CHANGES = [
    ("imagenet", "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", b"<xmin>10<", b"<xmin>11<"),
    ("voc2007", f"{VOC}/Annotations/000001.xml", b"<xmin>8<", b"<xmin>9<"), ("voc2007", f"{VOC}/Annotations/000001.xml", b"<difficult>0<", b"<difficult>1<"),
    ("coco2014", "annotations/instances_val2014.json", b"[30, 1, 32, 1,", b"[30, 1, 33, 1,"), ("coco2014", "annotations/instances_val2014.json", b'"thing 1"', b'"thing x"'),
    ("cub", f"{CUB}/bounding_boxes.txt", b"6.0", b"7.0"), ("stl10", "stl10_binary/test_y.bin", b"\n", b"\t"), ("stl10", "stl10_binary/class_names.txt", b"animal 9", b"animal x"),
    ("cifar100", "cifar-100-python/test", b"KcK\0K\x07", b"KbK\0K\x07"),
]  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_fingerprints_are_those_of_the_photographs_and_the_view(name, opened):
    data = opened(name)
    found = data.fingerprint_of(0, 2)
    assert found == opened(name).fingerprint_of(0, 2)
    others = [data.fingerprint_of(0, 1), data.fingerprint_of(1, 2), opened(name, transform=None).fingerprint_of(0, 2), opened(name, transform=View(30, 20)).fingerprint_of(0, 2)]
    assert len({found, *others}) == 5


@pytest.mark.parametrize("name, file, old, new", CHANGES)
def test_a_changed_annotation_changes_the_fingerprint(name, file, old, new, opened, tmp_path):
    before, path = opened(name).fingerprint_of(0, 2), tmp_path / name / file
    assert old in path.read_bytes()
    written(path, path.read_bytes().replace(old, new))
    assert opened(name).fingerprint_of(0, 2) != before


def test_a_changed_mask_changes_the_fingerprint(opened, tmp_path):
    before, path = opened("cub").fingerprint_of(0, 1), tmp_path / "cub" / "segmentations" / "001.Black_footed_Albatross" / "Bird_1_77.png"
    Image.fromarray(np.full((30, 40), 255, np.uint8)).save(path)
    assert opened("cub").fingerprint_of(0, 1) != before
    h5py = pytest.importorskip("h5py")
    before = opened("imagenet-seg").fingerprint_of(0, 2)
    with h5py.File(tmp_path / "imagenet-seg" / "gtsegs_ijcv.mat", "r+") as file:
        file["#refs#/m1"][0, 0] = 1 - file["#refs#/m1"][0, 0]
    assert opened("imagenet-seg").fingerprint_of(0, 2) != before


def test_hard_labels():
    boxes = [(0, 0, 0, 5, 4), (1, 0, 0, 5, 5)]
    assert hard_labels(boxes, (0, 1), 10, 10) == {0}  # 20 and 25 of 100 pixels
    assert hard_labels(boxes[:1], (0,), 10, 10) == frozenset() and hard_labels(boxes[:1], (0, 1), 10, 10) == {0, 1}
    assert hard_labels([*boxes, (0, 5, 5, 10, 6)], (0, 1), 10, 10) == frozenset()  # boxes of a class add up

"""Small folders as the real data sets lie on the disk, with what is awkward in them. Each function fills a folder and returns it."""

import json
import pickle
import struct
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from xai_repro.data.readers.folders import LAND_USES

COCO_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def pixels(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path, width, height, mode="RGB", kind="JPEG"):
    """An image file of any mode, whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(width, height)).convert(mode).save(path, kind)
    return path


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def xml(width, height, objects):
    """A file of PASCAL's form. objects: (name, xmin, ymin, xmax, ymax) and, in VOC, its flag `difficult` and further text."""
    found = [f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
    for name, x0, y0, x1, y1, *more in objects:
        flag, inner = f"<difficult>{more[0]}</difficult>" if more else "", "".join(more[1:])
        box = f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        found.append(f"<object><name>{escape(name)}</name>{flag}{box}{inner}</object>")
    return "".join(found) + "</annotation>"


# -- ImageNet ---------------------------------------------------------------------------------------------------------


def imagenet_samples(root):
    """Photographs of three of the thousand classes, and what else lies in the folder."""
    for name in ("n01491361_tiger_shark", "n01440764_tench", "n15075141_toilet_tissue"):
        saved(root / f"{name}.JPEG", 40, 30)
    saved(root / "montage.png", 9, 9, kind="PNG")
    written(root / "README.md", "n01440764_tench.JPEG is a fish")
    return root


def imagenet(root):
    """The validation images in one folder: one whose annotation states twice its size, one in CMYK and one that is a PNG."""
    kinds = [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "JPEG")]
    objects = [("n01491361", 10, 20, 50, 60), ("n01491361", 0, 0, 80, 60)], [("n01440764", 5, 6, 7, 8)], [("n15075141", 1, 2, 3, 4)], [("n01440764", 0, 0, 40, 30)]
    for number, ((mode, kind), boxes) in enumerate(zip(kinds, objects), start=1):
        name = f"ILSVRC2012_val_{number:08}"
        saved(root / "val" / f"{name}.JPEG", 40, 30, mode, kind)
        written(root / "Annotations" / "CLS-LOC" / "val" / f"{name}.xml", xml(*((80, 60) if number == 1 else (40, 30)), boxes))
    return root


def imagenet_by_folders(root):
    """The same in a folder for each class, with a file of boxes for one of two images."""
    saved(root / "val" / "n01491361" / "ILSVRC2012_val_00000007.JPEG", 40, 30)
    saved(root / "val" / "n01440764" / "ILSVRC2012_val_00000009.JPEG", 30, 40)
    written(root / "Annotations" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000007.xml", xml(40, 30, [("n01491361", 4, 5, 20, 25)]))
    return root


# -- boxes and pixels -------------------------------------------------------------------------------------------------


def voc(root):
    """1: a small dog, a person with an annotated head, a cat that PASCAL calls difficult. 2: one object alone. 3: a sofa of exactly a quarter beside a
    difficult chair. 4: nothing but difficult ones."""
    head = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></part>"
    objects = {
        "000001": [("person", 1, 1, 40, 30, 0, head), ("dog", 8, 3, 20, 12, 0), ("dog", 30, 5, 34, 9, 1), ("cat", 2, 2, 5, 6, 1)],
        "000002": [("aeroplane", 3, 4, 10, 10, 0)],
        "000003": [("sofa", 1, 1, 20, 15, 0), ("chair", 5, 5, 9, 9, 1)],
        "000004": [("bottle", 5, 5, 9, 9, 1)],
        "000005": [("tvmonitor", 5, 5, 9, 9, 0)],
    }
    base = root / "VOCdevkit" / "VOC2007"
    for name, found in objects.items():
        saved(base / "JPEGImages" / f"{name}.jpg", 40, 30)
        written(base / "Annotations" / f"{name}.xml", xml(40, 30, found))
    for split, names in {"test": ["000001", "000002", "000003", "000004"], "train": ["000005"], "val": ["000002"]}.items():
        written(base / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names) + "\n")
    return root


def runs(mask):
    """Lengths of the runs of a mask in COCO's order, column by column, beginning with those of zeros."""
    flat, found, value = mask.T.reshape(-1).tolist(), [0], False
    for one in flat:
        if one != value:
            found, value = [*found, 0], one
        found[-1] += 1
    return {"counts": found, "size": list(mask.shape)}


def coco(root):
    """9: two outlines of one object and one of another that shares pixels. 3: grey, a crowd. 5: no object. They stand in no order."""
    crowd = np.zeros((30, 40), bool)
    crowd[10:20, 5:9] = crowd[0, 39] = True
    ring = [[2, 3, 10, 3, 10, 9, 2, 9], [20, 20, 24, 20, 24, 28, 20, 28]]
    objects = [
        (1, 9, 13, [2, 3, 22.5, 25], ring, 0), (2, 9, 90, [8, 5, 12, 6], [[8, 5, 20, 5, 20, 11, 8, 11]], 0),
        (3, 3, 1, [5, 0, 35, 20], runs(crowd), 1), (4, 9, 13, [30, 1, 2, 2], [[30, 1, 32, 1, 32, 3, 30, 3]], 0),
    ]  # fmt: skip
    for part in ("val2014", "train2014"):
        images = [{"id": number, "file_name": f"COCO_{part}_{number:012}.jpg", "width": 40, "height": 30} for number in (9, 5, 3)]
        for image in images:
            saved(root / part / image["file_name"], 40, 30, "L" if image["id"] == 3 else "RGB")
        keys = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd")
        tree = {
            "images": images, "annotations": [dict(zip(keys, values)) for values in (objects if part == "val2014" else objects[2:3])],
            "categories": [{"id": number, "name": f"thing {number}"} for number in reversed(COCO_IDS)],
        }  # fmt: skip
        written(root / "annotations" / f"instances_{part}.json", json.dumps(tree))
    return root


VOTES = (0, 51, 102, 127, 128, 153, 204, 255)  # the columns of CUB's segmentation, five pixels each


def cub(root):
    base, folders = root / "CUB_200_2011", ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    birds = [("1", 0, "0", "6.0 2.0 12.0 20.0"), ("2", 1, "1", "1.0 1.0 30.0 20.0"), ("3", 2, "0", "0.0 0.0 40.0 30.0")]
    names = {number: f"{folders[label]}/Bird_{number}_77.jpg" for number, label, _, _ in birds}
    for name in names.values():
        saved(base / "images" / name, 40, 30)
        votes = np.repeat(np.tile(np.uint8(VOTES), (30, 1)), 5, 1)
        path = (root / "segmentations" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(votes).save(path)
    written(base / "classes.txt", "".join(f"{number} {folder}\n" for number, folder in enumerate(folders, start=1)))
    written(base / "images.txt", "".join(f"{number} {name}\n" for number, name in names.items()))
    written(base / "train_test_split.txt", "".join(f"{number} {train}\n" for number, _, train, _ in birds))
    written(base / "bounding_boxes.txt", "".join(f"{number} {box}\n" for number, _, _, box in birds))
    return root


def gtsegs(root):
    """Two photographs, 7 x 5 and 4 x 6, and their masks, as MATLAB writes them: axes reversed, cells as references."""
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "gtsegs_ijcv.mat", "w") as file:
        references = {kind: file.create_dataset(f"value/{kind}", (2, 1), h5py.ref_dtype) for kind in ("img", "gt")}
        for number, (width, height) in enumerate([(7, 5), (4, 6)]):
            image = file.create_dataset(f"#refs#/i{number}", data=pixels(width, height, number).transpose(2, 1, 0))
            mask = file.create_dataset(f"#refs#/m{number}", data=gtsegs_mask(width, height).astype(np.uint8).T)
            cell = file.create_dataset(f"#refs#/c{number}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = mask.ref
            references["img"][number, 0], references["gt"][number, 0] = image.ref, cell.ref
    return root


def gtsegs_mask(width, height):
    return np.arange(width) + 2 * np.arange(height)[:, None] < 6


# -- labels alone -----------------------------------------------------------------------------------------------------


def ucmerced(root):
    for name in LAND_USES:
        saved(root / "UCMerced_LandUse" / "Images" / name / f"{name}00.tif", 25, 24, kind="TIFF")
    saved(root / "UCMerced_LandUse" / "Images" / "beach" / "beach01.tif", 25, 24, kind="TIFF")
    return root


def petimages(root):
    """Cats 0, 2, 10 and 666, of which the last is empty, and a dog; another file says JFIF late, one too late, and one never."""
    base = root / "PetImages"
    for name in ("Cat/0.jpg", "Cat/10.jpg", "Cat/2.jpg", "Dog/1.jpg"):
        saved(base / name, 40, 30)
    whole = (base / "Dog" / "1.jpg").read_bytes()
    for number, remark in ((3, 300), (4, 600)):  # bytes of a comment that stands before the JFIF
        written(base / "Dog" / f"{number}.jpg", whole[:2] + b"\xff\xfe" + struct.pack(">H", remark + 2) + b" " * remark + whole[2:])
    saved(base / "Dog" / "11702.jpg", 40, 30, kind="BMP")
    written(base / "Cat" / "666.jpg", b"")
    written(base / "Cat" / "Thumbs.db", b"JFIF")
    return root


def stl10(root):
    """Photographs of three classes, 9, 0 and 4 as the library counts them; `pixels(96, 96, number)` is what they show."""
    base = root / "stl10_binary"
    written(base / "class_names.txt", "\n".join(f"animal {label}" for label in range(10)) + "\n")
    for split in ("train", "test"):
        written(base / f"{split}_X.bin", b"".join(pixels(96, 96, number).transpose(2, 1, 0).tobytes() for number in range(3)))
        written(base / f"{split}_y.bin", bytes([10, 1, 5]))
    return root


class AsPython2(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its strings, which is how CIFAR's files are."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        AsPython2(file, 2).dump(value)
    return written(path, path.read_bytes().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))


def cifar100(root):
    """Photographs of the labels 99, 0 and 7; `pixels(32, 32, number)` is what they show."""
    base = root / "cifar-100-python"
    python2(base / "meta", {"fine_label_names": [f"fine {label}" for label in range(100)], "coarse_label_names": [f"coarse {label}" for label in range(20)]})
    data = np.stack([pixels(32, 32, number).transpose(2, 0, 1).reshape(-1) for number in range(3)])
    for split in ("train", "test"):
        python2(base / split, {"data": data, "fine_labels": [99, 0, 7], "coarse_labels": [1, 2, 3], "filenames": ["a", "b", "c"], "batch_label": split})
    return root


TREES = {
    "imagenet": imagenet, "imagenet-samples": imagenet_samples, "voc2007": voc, "coco2014": coco, "cub": cub, "ucmerced": ucmerced, "stl10": stl10, "cifar100": cifar100,
    "catsdogs": petimages, "imagenet-seg": gtsegs,
}  # fmt: skip


def tree(name, folder):
    """The folder of a data set, filled."""
    return TREES[name](Path(folder) / name)


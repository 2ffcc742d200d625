"""ImageNet: the validation images with their boxes, and one photograph of each class."""

import re
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree

from xai_repro.data.photographs import existing, mixed, Record, split_of
from xai_repro.data.readers.pictures import picture, pictures
from xai_repro.errors import short

VAL = "ILSVRC2012_val_00000001"  # what the validation images are called


@cache
def synsets():
    """WordNet's number of each class, in the order of the labels: n01440764 is 0."""
    return tuple(files("xai_repro.data.readers").joinpath("synsets.txt").read_text().split())


@cache
def class_names():
    """torchvision's names of the classes, which some share: 'crane' is a bird and a machine."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def label_of(synset, file):
    if synset not in synsets():
        raise ValueError(f"{file} is of class {short(synset)}, which is none of ImageNet's {len(synsets())}")
    return synsets().index(synset)


class Samples:
    """One photograph of each class, `nXXXXXXXX_name.JPEG` in one folder; the label is in the name, so that some may be missing."""

    multi_label = False

    def __init__(self, root, split):
        split_of("imagenet-samples", split, ["test"])
        found = pictures(existing(root, "imagenet-samples"))
        self.paths = mixed([path for path in found if re.match(r"n\d{8}_", path.name)], lambda path: path.stem)
        self.classes = class_names()
        if not self.paths:
            raise ValueError(f"imagenet-samples: no nXXXXXXXX_name.JPEG in {root}")

    def __len__(self):
        return len(self.paths)

    def record(self, number):
        path = self.paths[number]
        return Record(lambda: picture(path), path.read_bytes, (label_of(path.name[:9], path),), path.stem)


class Validation:
    """The 50,000 validation images, in one folder or in one for each class, with the CLS-LOC boxes where they are.

    root holds `val/` (or the images themselves) and `Annotations/CLS-LOC/val/NAME.xml`. Of images in one folder the class is in these files. Edges of boxes are taken as
    they stand, 0 being the left and upper edge of the image, and are scaled where a file states another size than the image has.
    """

    multi_label = False

    def __init__(self, root, split):
        split_of("imagenet", split, ["val", "test"])
        root = existing(root, "imagenet")
        images = root / "val" if (root / "val").is_dir() else root
        self.boxes = root / "Annotations" / "CLS-LOC" / "val"
        folders = [folder for folder in sorted(images.iterdir()) if re.fullmatch(r"n\d{8}", folder.name)]
        self.paths = sorted((path for folder in folders or [images] for path in pictures(folder)), key=lambda path: path.name)  # theirs is no order of classes
        self.sorted_by_class, self.classes = bool(folders), class_names()
        if not self.paths:
            raise ValueError(f"imagenet: no images in {images}, neither {VAL}.JPEG and so on nor folders nXXXXXXXX")
        if not folders and not self.boxes.is_dir():
            raise FileNotFoundError(f"imagenet: the images in {images} are not sorted into folders by class, and there is no {self.boxes}, which would name their classes")

    def __len__(self):
        return len(self.paths)

    def record(self, number):
        path = self.paths[number]
        file = self.boxes / f"{path.stem}.xml"
        has_boxes = not self.sorted_by_class or file.exists()
        rows, synset = _boxes(file, path) if has_boxes else ([], None)
        label = label_of(path.parent.name if self.sorted_by_class else synset, path)
        hard = frozenset() if has_boxes else None

        def content():
            return path.read_bytes() + (file.read_bytes() if has_boxes else b"")

        return Record(lambda: picture(path), content, (label,), path.stem, rows, hard=hard)


def _boxes(file, path):
    """Boxes of a CLS-LOC file in pixels of the image, and the synset of the first."""
    try:
        tree = ElementTree.parse(file).getroot()
        stated = [float(tree.find("size").find(side).text) for side in ("width", "height")]
        objects = [(one.find("name").text, *(float(one.find("bndbox").find(edge).text) for edge in ("xmin", "ymin", "xmax", "ymax"))) for one in tree.iter("object")]
    except (ElementTree.ParseError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is no CLS-LOC annotation: {short(str(error))}") from error
    if not objects:
        raise ValueError(f"{file} names no object")
    across, down = (true / said if said else 1.0 for true, said in zip(picture(path).size, stated))
    rows = [(label_of(name, file), x0 * across, y0 * down, x1 * across, y1 * down) for name, x0, y0, x1, y1 in objects]
    return rows, objects[0][0]

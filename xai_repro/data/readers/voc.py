"""PASCAL VOC 2007: photographs with boxes of objects of 20 classes."""

from xml.etree import ElementTree

from xai_repro.data.photographs import Record, existing, hard_labels, split_of
from xai_repro.data.readers.files import below, lines, reading
from xai_repro.data.readers.pictures import picture
from xai_repro.errors import unknown

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep",
    "sofa", "train", "tvmonitor",
)  # fmt: skip
EDGES = ("xmin", "ymin", "xmax", "ymax")


class Voc:
    """The photographs that `ImageSets/Main/SPLIT.txt` names, with the boxes of all their objects.

    A class of which every object carries PASCAL's own flag `difficult` is not explained, as TorchRay skips it: it is no label. Its boxes are kept, and it counts as
    another class that is present.
    """

    multi_label = True
    classes = CLASSES

    def __init__(self, root, split):
        split_of("voc2007", split, ["test", "train", "val"])
        self.root = below(existing(root, "voc2007"), "VOCdevkit/VOC2007", "VOC2007")
        self.names = lines(self.root / "ImageSets" / "Main" / f"{split}.txt", "voc2007")

    def __len__(self):
        return len(self.names)

    def record(self, number):
        name = self.names[number]
        path, file = self.root / "JPEGImages" / f"{name}.jpg", existing(self.root / "Annotations" / f"{name}.xml", "voc2007")
        with reading(file, "a VOC annotation"):
            tree = ElementTree.parse(file).getroot()
            width, height = (int(tree.find("size").find(side).text) for side in ("width", "height"))
            rows, flags = zip(*(_object(one) for one in tree.iter("object")))
        labels = tuple(sorted({row[0] for row, flagged in zip(rows, flags) if not flagged}))
        hard = hard_labels(rows, {row[0] for row in rows}, width, height)
        return Record(lambda: picture(path), lambda: path.read_bytes() + file.read_bytes(), labels, name, list(rows), hard=hard)


def _object(tree):
    """The row (label, x0, y0, x1, y1) of an object, and whether it carries PASCAL's flag."""
    name = tree.find("name").text
    if name not in CLASSES:
        raise unknown("class of VOC", name, CLASSES)
    x0, y0, x1, y1 = (float(tree.find("bndbox").find(edge).text) for edge in EDGES)
    row = (CLASSES.index(name), x0 - 1, y0 - 1, x1, y1)  # the file counts pixels from 1, and its last ones belong to the box
    if not (row[1] < row[3] and row[2] < row[4]):
        raise ValueError(f"an empty box of {name}")
    return row, bool(int(tree.findtext("difficult", "0")))

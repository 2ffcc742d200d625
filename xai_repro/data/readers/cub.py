"""CUB-200-2011: one bird in each photograph, with its box and, where they were fetched, its pixels."""

import numpy as np

from xai_repro.data.photographs import existing, mixed, Record, split_of
from xai_repro.data.readers.files import below, lines, reading
from xai_repro.data.readers.pictures import picture
from xai_repro.errors import short

HALF = 128  # of 255: a pixel's grey level is the share of people who saw the bird there


class Cub:
    """The photographs of a split (`train_test_split.txt`), with the bird's box as it stands in `bounding_boxes.txt`.

    Where there is a folder `segmentations`, beside the lists or above them, the bird's pixels are those that at least half of the people marked.
    """

    multi_label = False

    def __init__(self, root, split):
        train = split_of("cub", split, ["test", "train"]) == "train"
        self.root = below(existing(root, "cub"), "CUB_200_2011")
        self.segmentations = next((folder / "segmentations" for folder in (self.root, root) if (folder / "segmentations").is_dir()), None)
        folders = list(_table(self.root / "classes.txt", str).values())
        self.classes = tuple(folder.split(".", 1)[-1].replace("_", " ") for folder in folders)
        paths = _table(self.root / "images.txt", lambda path: (path, folders.index(path.split("/")[0])))
        trained = _table(self.root / "train_test_split.txt", int, paths)
        boxes = _table(self.root / "bounding_boxes.txt", _box, paths)
        self.birds = mixed([(path, label, boxes[number]) for number, (path, label) in paths.items() if bool(trained[number]) == train], lambda bird: bird[0])

    def __len__(self):
        return len(self.birds)

    def record(self, number):
        name, label, box = self.birds[number]
        path = self.root / "images" / name
        marked = self.segmentations and existing((self.segmentations / name).with_suffix(".png"), "cub")

        def content():
            return path.read_bytes() + (marked.read_bytes() if marked else b"")

        def regions():
            return {label: np.asarray(picture(marked))[..., 0] >= HALF}

        return Record(lambda: picture(path), content, (label,), path.stem, [(label, *box)], regions if marked else None, frozenset())


def _table(file, value, numbers=()):
    """{number: value(words)} of a file with a number and words in each line. numbers: those that it has to hold."""
    listed = lines(file, "cub")
    with reading(file, "a list of CUB"):
        table = {number: value(*words) for number, *words in map(str.split, listed)}
        missing = [number for number in numbers if number not in table]
        if missing:
            raise ValueError(f"nothing is said of image {short(missing[0])}")
    return table


def _box(x, y, width, height):
    x, y = float(x), float(y)
    return x, y, x + float(width), y + float(height)

"""UC Merced's land use and Microsoft's cats and dogs: a folder of photographs for each class."""

import re

from xai_repro.data.photographs import existing, mixed, Record, split_of
from xai_repro.data.readers.files import below
from xai_repro.data.readers.pictures import picture, pictures

LAND_USES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest", "freeway", "golfcourse", "harbor", "intersection",
    "mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
BEGINNING = 512  # bytes: so many tensorflow-datasets sees, since a file in an archive gives them where ten are asked for


class UcMerced:
    """All aerial photographs, `Images/CLASS/CLASSNN.tif`, as the split "test": the data set has no others."""

    multi_label = False
    classes = LAND_USES

    def __init__(self, root, split):
        split_of("ucmerced", split, ["test"])
        images = below(existing(root, "ucmerced"), "UCMerced_LandUse/Images", "Images")
        self.paths = mixed([path for name in self.classes for path in _filled(images / name, "ucmerced", pictures)], lambda path: path.stem)

    def __len__(self):
        return len(self.paths)

    def record(self, number):
        path = self.paths[number]
        return _record(path, self.classes, path.stem)


class CatsDogs:
    """All photographs `PetImages/CLASS/N.jpg` as the split "test": the data set has no others.

    Files without "JFIF" at their beginning are left out as damaged, as tensorflow-datasets does, so that 23,262 of 25,000 remain.
    """

    multi_label = False
    classes = ("Cat", "Dog")

    def __init__(self, root, split):
        split_of("catsdogs", split, ["test"])
        images = below(existing(root, "catsdogs"), "PetImages")
        self.paths = mixed([path for name in self.classes for path in _filled(images / name, "catsdogs", _whole)], _numbered)

    def __len__(self):
        return len(self.paths)

    def record(self, number):
        path = self.paths[number]
        return _record(path, self.classes, _numbered(path))


def _numbered(path):
    return f"{path.parent.name}/{path.stem}"


def _record(path, classes, name):
    return Record(lambda: picture(path), path.read_bytes, (classes.index(path.parent.name),), name)


def _filled(folder, name, paths):
    """The paths that a function finds in a folder of a data set; a ValueError where it finds none."""
    found = paths(existing(folder, name))
    if not found:
        raise ValueError(f"{name}: no images in {folder}")
    return found


def _whole(folder):
    """The files N.jpg of a folder without the damaged ones."""
    return [path for path in folder.iterdir() if re.fullmatch(r"\d+\.jpg", path.name) and b"JFIF" in _beginning(path)]


def _beginning(path):
    with path.open("rb") as file:
        return file.read(BEGINNING)

"""A few photographs that anybody may use and show; they come with scikit-image."""

from pathlib import Path

import skimage.data

from xai_repro.data.photographs import existing, Record, split_of
from xai_repro.data.readers.imagenet import class_names
from xai_repro.data.readers.pictures import picture

FILES = ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "astronaut.png")


class Free:
    """Five photographs of scikit-image without labels: a cat, a cup of coffee, a motorcycle, a rocket and an astronaut. The classes are ImageNet's."""

    multi_label = False

    def __init__(self, root, split):
        split_of("free-photographs", split, ["test"])
        self.paths = [existing(Path(skimage.data.__file__).parent / name, "free-photographs") for name in FILES]
        self.classes = class_names()

    def __len__(self):
        return len(self.paths)

    def record(self, number):
        path = self.paths[number]
        return Record(lambda: picture(path), path.read_bytes, (), path.stem.removesuffix("_left"))

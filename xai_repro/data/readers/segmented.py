"""ImageNet-segmentation: photographs with the pixels of one object, in a file of MATLAB."""

import numpy as np
from PIL import Image

from xai_repro.data.photographs import Record, existing, split_of
from xai_repro.data.readers.files import needed, reading
from xai_repro.data.readers.imagenet import class_names

SOMETHING = -1  # what stands for the class of a region that nobody named: it is that of whatever class is explained


class ImagenetSeg:
    """The photographs of `gtsegs_ijcv.mat`. The explained class is the one that a network finds, since they have no label among ImageNet's 1,000 classes.

    The object's pixels are the region of the label -1: `sample.truth(-1)`.
    """

    multi_label = False

    def __init__(self, root, split):
        split_of("imagenet-seg", split, ["test"])
        needed("h5py", "imagenet-seg")  # said at once, rather than for each photograph
        self.path, self.classes = existing(existing(root, "imagenet-seg") / "gtsegs_ijcv.mat", "imagenet-seg"), class_names()
        self.count = self._read(lambda file: len(file["/value/img"]))

    def __len__(self):
        return self.count

    def record(self, number):
        def image():
            return self._read(lambda file: _image(file, number))

        def mask():
            return self._read(lambda file: _mask(file, number))

        return Record(lambda: Image.fromarray(image()), lambda: image().tobytes() + mask().tobytes(), (), str(number), regions=lambda: {SOMETHING: mask()})

    def _read(self, function):
        """What a function finds in the open file, which is not kept open: other processes could not share it."""
        with reading(self.path, "the file of ImageNet-segmentation"), needed("h5py", "imagenet-seg").File(self.path, "r") as file:
            return function(file)


def _image(file, number):
    """uint8 [H,W,3]; MATLAB writes the axes the other way round."""
    found = file[file["/value/img"][number, 0]][()]
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[0] != 3:
        raise ValueError(f"image {number} is {found.dtype} {list(found.shape)}; uint8 [3,W,H] is needed")
    return np.ascontiguousarray(found.transpose(2, 1, 0))


def _mask(file, number):
    """bool [H,W]; a reference leads to a reference."""
    found = file[file[file["/value/gt"][number, 0]][0, 0]][()]
    return np.ascontiguousarray(found.transpose(1, 0) > 0)

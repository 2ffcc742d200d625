"""STL-10 and CIFAR-100: small photographs in files of arrays."""

import pickle

import numpy as np
from PIL import Image

from xai_repro.data.photographs import Record, existing, split_of
from xai_repro.data.readers.files import below, lines, reading


class Stl10:
    """The 96 x 96 photographs of `SPLIT_X.bin`, which are read where they lie; a file holds them columns first, and counts classes from 1."""

    multi_label = False

    def __init__(self, root, split):
        split_of("stl10", split, ["test", "train"])
        folder = below(existing(root, "stl10"), "stl10_binary")
        images, marks = (existing(folder / f"{split}_{kind}.bin", "stl10") for kind in "Xy")
        self.classes = tuple(lines(folder / "class_names.txt", "stl10"))
        self.labels = _labels(marks, np.fromfile(marks, np.uint8).astype(int) - 1, self.classes)
        with reading(images, f"the {len(self.labels)} photographs of {marks.name}"):
            self.images = np.memmap(images, np.uint8, "r").reshape(len(self.labels), 3, 96, 96)

    def __len__(self):
        return len(self.labels)

    def record(self, number):
        return _record(self.images[number].transpose(2, 1, 0), self.labels[number], number)


class Cifar100:
    """The 32 x 32 photographs of the pickle `SPLIT`, with their fine labels."""

    multi_label = False

    def __init__(self, root, split):
        split_of("cifar100", split, ["test", "train"])
        folder = below(existing(root, "cifar100"), "cifar-100-python")
        meta, file = (existing(folder / name, "cifar100") for name in ("meta", split))
        with reading(meta, "a file of CIFAR-100"):
            self.classes = tuple(_unpickled(meta)["fine_label_names"])
        with reading(file, "a file of CIFAR-100"):
            found = _unpickled(file)
            self.images = np.asarray(found["data"], np.uint8).reshape(len(found["fine_labels"]), 3, 32, 32)
            labels = np.asarray(found["fine_labels"], int)
        self.labels = _labels(file, labels, self.classes)

    def __len__(self):
        return len(self.labels)

    def record(self, number):
        return _record(self.images[number].transpose(1, 2, 0), self.labels[number], number)


def _labels(file, labels, classes):
    """The labels, if all are among the classes."""
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if wrong.size or not labels.size:
        raise ValueError(f"{file} holds {'the label ' + str(wrong[0]) if wrong.size else 'no label'}; labels from 0 to {len(classes) - 1} are possible")
    return labels


def _record(pixels, label, number):
    """The Record of an array [H,W,3]."""
    label, pixels = int(label), np.ascontiguousarray(pixels)
    return Record(lambda: Image.fromarray(pixels), lambda: pixels.tobytes() + bytes([label]), (label,), str(number))


class _Arrays(pickle.Unpickler):
    """Builds numpy arrays and plain values, nothing else: a pickle may name any function to be called."""

    allowed = {("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0], ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is asked for, which is no part of an array")
        return self.allowed[module, name]


def _unpickled(file):
    with file.open("rb") as opened:
        return _Arrays(opened, encoding="latin1").load()  # as Python 2 wrote it

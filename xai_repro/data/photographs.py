"""Real data sets as lazy sequences of Sample: a reader knows the files, a View what the network sees of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from xai_repro.data.sample import Sample
from xai_repro.data.view import View
from xai_repro.errors import short, unknown, whole_number
from xai_repro.store.fetch import cache_dir


@dataclass(frozen=True)
class Record:
    """One photograph as a data set annotates it, in pixels of the photograph.

    photo: function () -> PIL image in RGB. content: function () -> bytes that tell this photograph and its annotation from any other.
    labels: the classes to be explained, ascending. boxes: rows (label, x0, y0, x1, y1), half-open. regions: function () -> {label: bool array [H,W]}, pixels of
    each class, None where nobody annotated them. name: unique in its split. hard: the labels that TorchRay's rule calls difficult, None where there are no boxes.
    """

    photo: object
    content: object
    labels: tuple[int, ...]
    name: str
    boxes: list = field(default_factory=list)
    regions: object = None
    hard: frozenset | None = None


def data_folder(name, root=None):
    """Where a real data set lies: `root`, or NAME in the folder XAI_REPRO_DATA, or in the one where the fetch scripts put it."""
    if root is not None:
        return Path(root)
    return Path(os.environ.get("XAI_REPRO_DATA") or cache_dir() / "data") / name


class Photos(Sequence):
    """A real data set; an item is a Sample, read when it is asked for, as `view` sees it.

    reader: has `classes`, `multi_label`, `len` and `record(i)`. view: a View; None: ImageNet's usual one, or that of the network which `evaluate` explains.
    """

    def __init__(self, name, split, reader, view=None, indices=None):
        if view is not None and not isinstance(view, View):
            raise ValueError(f"transform is {short(repr(view))}; an xr.View is needed, by which boxes and masks are moved with the image, such as xr.transform(model)")
        self.name, self.split, self.reader, self.view = name, split, reader, view
        self.classes, self.multi_label = reader.classes, reader.multi_label
        self._indices = range(len(reader)) if indices is None else indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        """Sample for an integer; for a slice, the data set of those photographs, still unread."""
        if isinstance(index, slice):
            return Photos(self.name, self.split, self.reader, self.view, self._indices[index])
        record, view = self.reader.record(self._indices[index]), self.view or View()
        photo = record.photo()
        frame = view.frame(*photo.size)
        masks = record.regions() if record.regions else {}
        for mask in masks.values():
            if mask.shape != photo.size[::-1]:
                raise ValueError(f"{self.name}/{self.split}/{record.name}: the photograph has {photo.width} x {photo.height} pixels, its mask {mask.shape[1]} x {mask.shape[0]}")
        regions = {label: frame.mask(mask) for label, mask in masks.items()}
        return Sample(
            image=view(photo), labels=record.labels, boxes=frame.boxes(record.boxes), id=f"{self.name}/{self.split}/{record.name}",
            regions=regions, scale=frame.scale, hard=record.hard,
        )  # fmt: skip

    def __repr__(self):
        return f"{self.name}, split {self.split}: {len(self)} photographs of {len(self.classes)} classes"

    def photo(self, index):
        """The photograph itself, a PIL image in RGB."""
        return self.reader.record(self._indices[index]).photo()

    def seen_by(self, view):
        """The same photographs as a View sees them, unless this one was opened with a view of its own."""
        return self if self.view else Photos(self.name, self.split, self.reader, view, self._indices)

    def fingerprint_of(self, start, stop):
        """Changes whenever one of these photographs, its annotation or the view does."""
        digest = sha256(f"{self.name}/{self.split}/{self.view or View()}/{self.classes}".encode())
        for index in range(start, stop):
            record = self.reader.record(self._indices[index])
            digest.update(record.content())
            digest.update(f"{record.name}/{record.labels}/{record.boxes}/{sorted(record.hard or [])}".encode())
        return digest.hexdigest()[:12]


def hard_labels(boxes, labels, width, height):
    """TorchRay's rule on the annotation: the labels whose boxes together cover less than a quarter of the photograph, where another class is present.

    boxes: rows (label, x0, y0, x1, y1), half-open; labels: all classes present. Boxes that overlap count twice, as there.
    """
    area = {label: 0.0 for label in labels}
    for label, x0, y0, x1, y1 in boxes:
        area[label] += (x1 - x0) * (y1 - y0)
    return frozenset(label for label in labels if 4 * area[label] < width * height and len(set(labels)) > 1)


def mixed(items, name=str):
    """Items in an order that their names draw, the same everywhere: of a data set sorted by class the first so many are then of all kinds."""
    return sorted(items, key=lambda item: sha256(name(item).encode()).digest())


def split_of(name, split, possible):
    """The split, if a data set has it; UnknownName otherwise."""
    if not isinstance(split, str) or split not in possible:
        raise unknown(f"split of {name}", split, possible)
    return split


def existing(path, name):
    """A file or folder of a data set; a FileNotFoundError that says how to get it."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{name}: no {path}. To get it: python data_scripts/fetch_{name.replace('-', '_')}.py; or say where it is: load_data('{name}', root=...)")
    return Path(path)


def limited(photos, limit):
    """The first so many photographs; all for None."""
    return photos if limit is None else photos[: whole_number("limit", limit)]

"""The embedded data sets: drawn from a seed, each picture by itself, the same on every machine."""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from zlib import crc32

import numpy as np
import torch

from xai_repro.data import birds, scenes
from xai_repro.data.counterfactuals import Counterfactuals
from xai_repro.data.sample import normalize, Sample
from xai_repro.errors import short, unknown, whole_number

DRAWING = 1  # to be raised whenever a pixel changes: it is part of the fingerprint that results carry
DRAWERS = {"mini-birds": birds, "mini-scenes": scenes}
SPLITS = {"train": 20000, "val": 1000, "test": 2000}


class Drawn(Sequence):
    """A data set that draws picture i when it is asked for.

    name, split: as given to load_data; classes: names in the order of the labels; multi_label: whether a picture can
    show several classes; fingerprint: changes whenever the pictures would.
    Raises UnknownName for a split other than train, val, test, ValueError for a limit that is no number of images.
    """

    def __init__(self, name, split="test", limit=None):
        if not isinstance(split, str) or split not in SPLITS:
            raise unknown("split", split, SPLITS)
        images = SPLITS[split] if limit is None else min(SPLITS[split], whole_number("limit", limit))
        self.name, self.split = name, split
        self.classes = self._drawer.CLASSES
        self.multi_label = name == "mini-scenes"
        self._indices = range(images)

    @property
    def fingerprint(self):
        """That of the whole split for the first so many of its pictures, another for any others."""
        others = "" if self._indices == range(len(self)) else f"/{self._indices}"
        return sha256(f"{self.name}/{self.split}/{DRAWING}{others}".encode()).hexdigest()[:12]

    @property
    def _drawer(self):
        """The module that draws: looked up each time, since a module cannot be sent to another process."""
        return DRAWERS[self.name]

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        """Sample for an integer; for a slice, the data set of those pictures, still undrawn."""
        if isinstance(index, slice):
            part = object.__new__(Drawn)
            try:
                part.__dict__.update(self.__dict__, _indices=self._indices[index])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{short(repr(index))} is no slice of {self!r}: {error}") from None
            return part
        number = self._number(index)
        pixels, tags, labels = self._draw(number)
        return _sample(pixels, tags, labels, self._drawer.PARTS, f"{self.name}/{self.split}/{number}", self._counterfactuals(number))

    def __repr__(self):
        return f"{self.name}, split {self.split}: {len(self)} images of {len(self.classes)} classes"

    def pixels(self, index):
        """A picture, where its objects are, and its labels, the quick way to many: (uint8 [H, W, 3], bool [H, W], labels)."""
        pixels, tags, labels = self._draw(self._number(index))
        return pixels, tags > 0, _seen(tags, labels)

    def counterfactuals(self, index):
        """The same picture with other shapes of the parts that decide; None for a data set whose parts have none."""
        return self._counterfactuals(self._number(index))

    def _counterfactuals(self, number):
        if not hasattr(self._drawer, "variants"):
            return None
        return Counterfactuals(self._drawer.shapes_of(self._generator(number)), partial(self._variants, number))

    def _variants(self, number, changes):
        return [pixels for pixels, _, _ in self._drawer.variants(self._generator(number), changes)]

    def _number(self, index):
        """The number within the split of the picture at an index, which may be any whole number that indexes a list."""
        try:
            return self._indices[index]
        except TypeError:
            raise TypeError(f"a whole number asks for a picture, a slice for several; given: {short(repr(index))}") from None
        except IndexError:
            raise IndexError(f"no picture {short(repr(index))} in {self!r}") from None

    def _draw(self, number):
        return self._drawer.draw(self._generator(number))

    def _generator(self, number):
        return np.random.default_rng(np.random.SeedSequence([crc32(self.name.encode()), list(SPLITS).index(self.split), number]))


def _seen(tags, labels):
    """Labels of the objects of which something is visible, ascending."""
    return tuple(sorted({labels[number - 1] for number in np.unique(tags // 16) if number}))


def _sample(pixels, tags, labels, parts, name, counterfactuals):
    objects = torch.from_numpy(tags // 16).long()
    lookup = torch.tensor((-1, *labels))
    boxes = [[label, *_box(objects == number)] for number, label in enumerate(labels, 1) if (objects == number).any()]
    letters = torch.from_numpy(tags % 16)
    masks = {part: letters == number for number, part in enumerate(parts, 1)}
    return Sample(
        image=normalize(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255),
        labels=_seen(tags, labels),
        boxes=torch.tensor(boxes),
        mask=lookup[objects],
        parts={part: mask for part, mask in masks.items() if mask.any()},
        id=name,
        counterfactuals=counterfactuals,
    )


def _box(mask):
    """The tight half-open box (x0, y0, x1, y1) around a mask."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

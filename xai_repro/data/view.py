"""What a network sees of a photograph: its resize, its crop and its colours, and where boxes and masks lie after them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from xai_repro.data.sample import denormalize, MEAN, STD
from xai_repro.errors import short, unknown, whole_number

WAYS = {mode.value: mode for mode in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.LANCZOS, InterpolationMode.NEAREST)}


@dataclass(frozen=True)
class View:
    """A callable PIL image -> float32 [3,H,W], as a network takes it.

    resize: the shorter side in pixels, or (height, width), which may squash; None: as it is. crop: the side, or (height, width), of the middle that is kept, with
    black around where the image is smaller; None: all of it. interpolation: "bilinear", "bicubic", "lanczos" or "nearest". mean, std: of the colours in [0,1].

    Raises ValueError for sizes and colours of a wrong kind, UnknownName for another interpolation.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] | None = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self):
        for name in ("resize", "crop"):
            value = getattr(self, name)
            for side in value if isinstance(value, tuple) and len(value) == 2 else [] if value is None else [value]:
                whole_number(f"{name} of a view", side, most=10_000)
        if self.interpolation not in WAYS:
            raise unknown("interpolation", self.interpolation, WAYS)
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not (isinstance(value, tuple) and len(value) == 3 and all(isinstance(one, (int, float)) for one in value)):
                raise ValueError(f"{name} of a view is {short(repr(value))}; three numbers are needed")

    def __call__(self, photo):
        if self.resize is not None:
            photo = T.resize(photo, self.resize, WAYS[self.interpolation])  # of PIL images always with antialias
        if self.crop is not None:
            photo = T.center_crop(photo, self.crop)
        return T.normalize(T.to_tensor(photo), self.mean, self.std)

    def colours(self, images):
        """What the network takes [...,3,H,W], brought back to colours in [0,1] for display."""
        return denormalize(images, self.mean, self.std)

    def frame(self, width, height):
        """Where a photograph of so many pixels lies in what the network sees: a `Frame`."""
        wide, high = width, height
        if isinstance(self.resize, tuple):
            high, wide = self.resize
        elif self.resize is not None:
            side = min(width, height)
            wide, high = (self.resize if one == side else int(self.resize * one / side) for one in (width, height))
        tall, broad = (high, wide) if self.crop is None else self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)
        return Frame(wide / width, high / height, *(_begin(whole, part) for whole, part in ((wide, broad), (high, tall))), broad, tall)


def _begin(whole, part):
    """Where a middle part begins, negative where it is larger than the whole: as torchvision cuts and pads."""
    return round((whole - part) / 2) if whole >= part else -((part - whole) // 2)


@dataclass(frozen=True)
class Frame:
    """A photograph's pixels (x, y) as those of the network's image: (x * across - left, y * down - top), width x height of them."""

    across: float
    down: float
    left: int
    top: int
    width: int
    height: int

    def boxes(self, boxes):
        """Rows (label, x0, y0, x1, y1), half-open, in pixels of the photograph, as int64 [N,5] in those of the network.

        A pixel belongs to a box if its middle lies in it; a box of which something is seen keeps at least one pixel, and one that is cut off is left out.
        """
        found = []
        for label, x0, y0, x1, y1 in boxes:
            columns = _cells(x0 * self.across - self.left, x1 * self.across - self.left, self.width)
            rows = _cells(y0 * self.down - self.top, y1 * self.down - self.top, self.height)
            if columns and rows:
                found.append([label, columns[0], rows[0], columns[1], rows[1]])
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 5)

    def mask(self, mask, outside=False):
        """Labels or truth of a photograph's pixels, array [H,W], at the middles of the network's pixels: tensor [height,width].

        outside: what is written where the network sees no photograph.
        """
        (rows, in_rows), (columns, in_columns) = self._sources
        high, wide = mask.shape
        found = np.asarray(mask)[rows.clip(0, high - 1)][:, columns.clip(0, wide - 1)]
        seen = (in_rows & (rows < high))[:, None] & (in_columns & (columns < wide))
        return torch.from_numpy(np.where(seen, found, outside))

    @cached_property
    def _sources(self):
        """Of every row, and of every column, which one of the photograph is at its middle, and whether it is one."""
        places = []
        for count, begin, scale in ((self.height, self.top, self.down), (self.width, self.left, self.across)):
            at = np.floor((np.arange(count) + begin + 0.5) / scale).astype(int)
            places.append((at, at >= 0))
        return places

    @property
    def scale(self):
        """Pixels of the network per pixel of the photograph: (across, down)."""
        return self.across, self.down


def _cells(begin, end, count):
    """First and last (exclusive) of the cells 0..count-1 whose middle lies in begin to end; the nearest one where there is none; None outside."""
    begin, end = max(begin, 0.0), min(end, float(count))
    if end <= begin:
        return None
    first, last = int(np.ceil(begin - 0.5)), int(np.ceil(end - 0.5))
    return (first, last) if last > first else (min(int(begin), count - 1), min(int(begin), count - 1) + 1)

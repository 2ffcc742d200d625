"""Data sets: the embedded ones are drawn, the real ones are read from disk."""

from xai_repro.data.drawn import DRAWERS, Drawn
from xai_repro.data.sample import MEAN, STD, denormalize, normalize, Sample
from xai_repro.errors import unknown, UnknownName

__all__ = ["MEAN", "STD", "Sample", "data_names", "denormalize", "load_data", "normalize"]

REAL = ("imagenet", "voc2007", "coco2014", "cub", "ucmerced", "stl10", "cifar100", "catsdogs", "imagenet-seg")


def data_names():
    """Names that load_data takes."""
    return list(DRAWERS)


def load_data(name, split="test", root=None, limit=None, **options):
    """Open a data set as a lazy sequence of Sample.

    split: "train", "val" or "test"; limit: only the first so many images; root: folder of a real data set (the
    embedded ones are drawn and need none).
    Raises UnknownName for a name or split that does not exist, ValueError for a limit that is no number of images,
    TypeError for an option the data set does not take.
    """
    if isinstance(name, str) and name in REAL:
        raise UnknownName(f"data set '{name}' is not yet available in this version; possible: {', '.join(data_names())}")
    if not isinstance(name, str) or name not in DRAWERS:
        raise unknown("data set", name, [*DRAWERS, *REAL])
    given = ["root"] * (root is not None) + list(options)
    if given:
        raise TypeError(f"'{name}' is drawn and takes no {', '.join(given)}; possible: split, limit")
    return Drawn(name, split, limit)

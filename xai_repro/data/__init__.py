"""Data sets: the embedded ones are drawn, the real ones are read from disk."""

from xai_repro.data.drawn import DRAWERS, Drawn
from xai_repro.data.photographs import data_folder, limited, Photos
from xai_repro.data.readers import READERS
from xai_repro.data.sample import MEAN, STD, denormalize, normalize, Sample
from xai_repro.data.view import View
from xai_repro.errors import unknown

__all__ = ["MEAN", "STD", "Photos", "Sample", "View", "data_names", "denormalize", "load_data", "normalize"]


def data_names():
    """Names that load_data takes: the embedded data sets, then the real ones."""
    return [*DRAWERS, *READERS]


def load_data(name, split="test", root=None, limit=None, transform=None, **options):
    """Open a data set as a lazy sequence of Sample.

    split: "train", "val" or "test", where a real data set has it. limit: only the first so many images. root: folder of a real data set; None: NAME in the folder that the
    environment variable XAI_REPRO_DATA names, or where `data_scripts/fetch_NAME.py` put it. transform: what a network sees of a real photograph, an `xr.View`; None: the view of
    the network that `evaluate` explains, elsewhere ImageNet's usual one, 224 pixels. The embedded ones are drawn and take neither.
    Raises UnknownName for a name or split that does not exist, ValueError for a limit that is no number of images and for files that are not as they should be,
    FileNotFoundError for what is not there, TypeError for an option the data set does not take.
    """
    if not isinstance(name, str) or name not in data_names():
        raise unknown("data set", name, data_names())
    if name in READERS and options:
        raise TypeError(f"'{name}' takes no {', '.join(options)}; possible: split, root, limit, transform")
    if name in READERS:
        return limited(Photos(name, split, READERS[name](data_folder(name, root), split), transform), limit)
    given = ["root"] * (root is not None) + ["transform"] * (transform is not None) + list(options)
    if given:
        raise TypeError(f"'{name}' is drawn and takes no {', '.join(given)}; possible: split, limit")
    return Drawn(name, split, limit)

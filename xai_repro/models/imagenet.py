"""torchvision's ImageNet weights in the folder of fetched files."""

from xai_repro.store.fetch import cached, doubt, not_fetched, source


def imagenet_file(name):
    """Path of torchvision's first ImageNet weights for a network, as they were fetched.

    Raises UnknownName for a network that does not exist, FileNotFoundError, which says how to get them, for weights that
    have not been fetched, ValueError for a file that has changed since.
    """
    path = cached(name)
    if path is None:
        raise not_fetched(name, *source(name)[:2])
    if wrong := doubt(path):
        raise ValueError(f"{path} {wrong}. To set it aside and then fetch it again: python data_scripts/fetch_weights.py {name}")
    return path

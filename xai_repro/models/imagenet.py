"""torchvision's ImageNet weights, read from the folder of fetched files."""

from safetensors.torch import load_file

from xai_repro.store.fetch import cache_dir, cached, source


def imagenet_state_dict(name):
    """State dict of torchvision's first ImageNet weights for a network.

    Raises UnknownName for a network that does not exist, FileNotFoundError, which says how to get them, for weights that
    have not been fetched.
    """
    path = cached(name)
    if path is None:
        url, file, _ = source(name)
        raise FileNotFoundError(
            f"no ImageNet weights of {name} in {cache_dir()}. To fetch them: python data_scripts/fetch_weights.py {name}. "
            f"By hand: put {url} as {file} into {cache_dir()} and run the same command."
        )
    return load_file(path)

"""Fetch one photograph of each class of ImageNet, verify and unpack them.

python data_scripts/fetch_imagenet_samples.py                  what is missing, about 0.1 GB
python data_scripts/fetch_imagenet_samples.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_imagenet_samples.py --root FOLDER    where it lies, if not where load_data("imagenet-samples") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch one photograph of each class of ImageNet and unpack them."""
    script("imagenet-samples", root, check)


if __name__ == "__main__":
    typer.run(main)

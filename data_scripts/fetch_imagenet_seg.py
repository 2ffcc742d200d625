"""Fetch the segmented images of ImageNet, one file. Nobody publishes a checksum of it: the one seen is said and kept.

python data_scripts/fetch_imagenet_seg.py                  the file, if it is missing
python data_scripts/fetch_imagenet_seg.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_imagenet_seg.py --root FOLDER    where it lies, if not where load_data("imagenet-seg") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch the segmented images of ImageNet; the checksum seen is said and kept."""
    script("imagenet-seg", root, check)


if __name__ == "__main__":
    typer.run(main)

"""Fetch the birds of CUB-200-2011 with boxes, parts and segmentations, verify and unpack them.

python data_scripts/fetch_cub.py                  what is missing, of 1.2 GB
python data_scripts/fetch_cub.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_cub.py --root FOLDER    where it lies, if not where load_data("cub") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch CUB-200-2011 and its segmentations, verify and unpack them."""
    script("cub", root, check)


if __name__ == "__main__":
    typer.run(main)

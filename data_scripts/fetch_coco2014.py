"""Fetch the images of COCO 2014 and their annotations, verify and unpack them.

python data_scripts/fetch_coco2014.py                  what is missing, of 20.4 GB
python data_scripts/fetch_coco2014.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_coco2014.py --root FOLDER    where it lies, if not where load_data("coco2014") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch COCO 2014, verify and unpack it."""
    script("coco2014", root, check)


if __name__ == "__main__":
    typer.run(main)

"""ImageNet's 50,000 validation images and their boxes: verify and unpack the archives that you get when you register.

python data_scripts/fetch_imagenet.py                  verify and unpack what is in the folder, or say where to get it
python data_scripts/fetch_imagenet.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_imagenet.py --root FOLDER    where it lies, if not where load_data("imagenet") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Verify and unpack ImageNet's validation images and boxes, which only who registers gets: it is said where."""
    script("imagenet", root, check)


if __name__ == "__main__":
    typer.run(main)

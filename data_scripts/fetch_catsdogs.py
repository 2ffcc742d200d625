"""Fetch Microsoft's photographs of cats and dogs, verify and unpack them.

python data_scripts/fetch_catsdogs.py                  what is missing, of 0.8 GB
python data_scripts/fetch_catsdogs.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_catsdogs.py --root FOLDER    where it lies, if not where load_data("catsdogs") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch Microsoft's photographs of cats and dogs, verify and unpack them."""
    script("catsdogs", root, check)


if __name__ == "__main__":
    typer.run(main)

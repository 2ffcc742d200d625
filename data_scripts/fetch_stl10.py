"""Fetch STL-10, verify and unpack it.

python data_scripts/fetch_stl10.py                  what is missing, of 2.6 GB
python data_scripts/fetch_stl10.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_stl10.py --root FOLDER    where it lies, if not where load_data("stl10") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch STL-10, verify and unpack it."""
    script("stl10", root, check)


if __name__ == "__main__":
    typer.run(main)

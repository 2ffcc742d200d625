"""Fetch the aerial images of UC Merced, verify and unpack them.

python data_scripts/fetch_ucmerced.py                  what is missing, of 0.3 GB
python data_scripts/fetch_ucmerced.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_ucmerced.py --root FOLDER    where it lies, if not where load_data("ucmerced") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch UC Merced's land use images, verify and unpack them."""
    script("ucmerced", root, check)


if __name__ == "__main__":
    typer.run(main)

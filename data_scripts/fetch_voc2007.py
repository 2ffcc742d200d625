"""Fetch PASCAL VOC 2007, verify and unpack it.

python data_scripts/fetch_voc2007.py                  what is missing, of 0.9 GB
python data_scripts/fetch_voc2007.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_voc2007.py --root FOLDER    where it lies, if not where load_data("voc2007") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch PASCAL VOC 2007, verify and unpack it."""
    script("voc2007", root, check)


if __name__ == "__main__":
    typer.run(main)

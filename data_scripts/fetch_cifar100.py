"""Fetch CIFAR-100, verify and unpack it.

python data_scripts/fetch_cifar100.py                  what is missing, of 0.2 GB
python data_scripts/fetch_cifar100.py --check          say what is there, verify it, and fetch nothing
python data_scripts/fetch_cifar100.py --root FOLDER    where it lies, if not where load_data("cifar100") looks
"""

import typer

from xai_repro.data.fetching import Check, Root, script


def main(root: Root = None, check: Check = False):
    """Fetch CIFAR-100, verify and unpack it."""
    script("cifar100", root, check)


if __name__ == "__main__":
    typer.run(main)

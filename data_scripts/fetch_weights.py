"""Fetch torchvision's ImageNet weights for the papers' networks, verify them, and put them where the library looks.

python data_scripts/fetch_weights.py                  all networks of the five papers
python data_scripts/fetch_weights.py vgg16 resnet50   only these
python data_scripts/fetch_weights.py --list           what is there
"""

import sys
from typing import Annotated, Optional

import typer

from xai_repro.errors import UnknownName
from xai_repro.store.fetch import NETWORKS, cache_dir, cached, fetch_weights, source


def main(
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...", help="torchvision's names.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say what is there and fetch nothing.")] = False,
):
    """Fetch, verify and convert ImageNet weights; an interrupted transfer goes on where it ended."""
    failed = False
    try:
        for name in names or NETWORKS:
            source(name)  # a wrong name is found before the first transfer
        for name in names or NETWORKS:
            if list_:
                print(f"{name:12} {cached(name) or 'not there'}")
                continue
            try:
                print(f"{name:12} {fetch_weights(name)}")
            except (OSError, ValueError) as error:
                failed = True
                print(f"{name:12} failed: {error}", file=sys.stderr)
    except UnknownName as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if list_:
        print(f"folder: {cache_dir()}")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

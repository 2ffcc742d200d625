"""What a notebook displays and a page takes up: a table or a figure, the file it was written to, and what is to be said of it."""

import re
from dataclasses import dataclass, field

from PIL import Image

POINT = 96 / 72  # pixels of a browser


@dataclass(frozen=True)
class Shown:
    """Content by MIME type, as a notebook displays it, with the file it is also in.

    about: what a page says of it, JSON-able: kind ("table" or "figure"), caption, alt (what a reader who does not see it is told),
    provenance. It travels in the metadata of the notebook's output, under "xai_repro".
    """

    content: dict
    path: str
    about: dict = field(default_factory=dict)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return dict(self.content), {"xai_repro": {"file": str(self.path), **self.about}}


def size(path):
    """Width and height of a saved figure in a browser's pixels."""
    if path.suffix == ".svg":
        head = path.read_text(encoding="utf-8")[:4000]
        return tuple(round(float(re.search(rf'<svg[^>]* {side}="([\d.]+)pt"', head)[1]) * POINT) for side in ("width", "height"))
    with Image.open(path) as picture:
        return picture.size

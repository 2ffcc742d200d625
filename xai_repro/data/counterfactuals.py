"""The same picture with other shapes of the parts that decide: what the explained object would look like as another."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from xai_repro.data.sample import normalize
from xai_repro.errors import short, unknown


@dataclass(frozen=True)
class Counterfactuals:
    """The pictures that differ from one picture by the shapes of some parts, and by nothing else.

    shapes: deciding part -> names of its shapes, the one in the picture first.
    draw: list of {part: shape} -> the pictures with these parts changed, each uint8 [H, W, 3].
    """

    shapes: dict[str, tuple[str, ...]]
    draw: Callable

    def images(self, changes):
        """The pictures with some parts in other shapes, normalised as the models take them, float32 [N, 3, H, W].

        changes: list of {part: shape}; parts that are not named stay. Raises UnknownName for a part or a shape that does not exist, ValueError for
        what is no list of dictionaries.
        """
        if not isinstance(changes, (list, tuple)) or not changes or not all(isinstance(change, dict) for change in changes):
            raise ValueError(f"changes are a list of {{part: shape}}, at least one; got {short(repr(changes))}")
        for part, shape in (pair for change in changes for pair in change.items()):
            if part not in self.shapes:
                raise unknown("part", part, self.shapes)
            if shape not in self.shapes[part]:
                raise unknown(f"shape of {part}", shape, self.shapes[part])
        return normalize(torch.from_numpy(np.stack(self.draw(list(changes)))).permute(0, 3, 1, 2).float() / 255)

    def swaps(self):
        """Every change of a single part to another of its shapes, part by part: list of {part: shape}."""
        return [{part: shape} for part, shapes in self.shapes.items() for shape in shapes[1:]]

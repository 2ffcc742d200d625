"""A small data set as torchvision gives them, its recipe, and a training on it as a program of its own."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xai_repro.models import recipes


class Blots:
    """32 x 32 pixels of noise with a light or a dark square, or none: three classes."""

    classes = ("dark", "light", "none")

    def __init__(self, root, train, transform, download):
        self.transform, self.offset, self.size = transform, 0 if train else 1000, 60 if train else 30

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError
        generator, label = np.random.default_rng(self.offset + index), index % 3
        pixels = generator.integers(100, 156, (32, 32, 3), dtype=np.uint8)
        if label < 2:
            row, column = generator.integers(4, 20, 2)
            pixels[row : row + 8, column : column + 8] = 255 * label
        return self.transform(Image.fromarray(pixels)), label


def install():
    recipes.RECIPES["blots"] = recipes.Recipe(Blots, 32, recipes.CIFAR_COLOURS, 16, epochs=3, milestones=(2,), rate=0.05)


if __name__ == "__main__":
    from xai_repro.models import train_protocol

    torch.set_num_threads(1)
    install()
    model, out = sys.argv[1:3]
    found = train_protocol(model, "blots", ".", out=out, workers=0, device="cpu", progress=False)
    Path(f"{out}.{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))  # a file each: lines of two processes can mix

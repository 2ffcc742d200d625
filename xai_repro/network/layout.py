"""What a layer gives as maps [B,K,h,w], and back: channels first, channels last, or a row of tokens."""

from dataclasses import dataclass

import torch
from torch import nn

from xai_repro.errors import unknown

LAYOUTS = ("channels-first", "channels-last", "tokens")
PREFIX = 8  # tokens before those of the patches, at most: class, distillation, registers
# What these give is certain, whatever its numbers are. (Subclasses of LayerNorm exist that work on channels first.)
FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm)
LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True)
class Layout:
    """How an output of a layer holds maps; for tokens, how many of another kind come first, and the grid of the others."""

    kind: str
    prefix: int = 0
    grid: tuple = ()

    def maps(self, output):
        """The maps [B,K,h,w] in an output."""
        if self.kind == "channels-last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid) if self.kind == "tokens" else output

    def output(self, maps, prefix=None):
        """Maps [R,K,h,w] in the form of the output; prefix [R,p,K]: the tokens that come first."""
        if self.kind == "channels-last":
            return maps.permute(0, 2, 3, 1)
        if self.kind != "tokens":
            return maps
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([prefix, tokens], 1) if self.prefix else tokens


def layout_of(output, x, module, name, model, asked=None):
    """The Layout of an output of a module of a model, for images x [B,C,H,W].

    asked: one of LAYOUTS, or None for what the module's kind or the shapes decide. Raises UnknownName for another one, ValueError where the output
    cannot hold maps or the shapes leave it open.
    """
    if asked is not None and asked not in LAYOUTS:
        raise unknown("layout", asked, LAYOUTS)
    dims = output.dim() if isinstance(output, torch.Tensor) else 0
    shape = f"layer '{name}' gives {list(output.shape) if dims else type(output).__name__}"
    wanted = {"channels-first": 4, "channels-last": 4, "tokens": 3}
    if dims not in (3, 4) or len(output) != len(x) or (asked and wanted[asked] != dims):
        raise ValueError(f"{shape}; a cut needs activations [B,K,h,w], [B,h,w,K] or tokens [B,n,K]" + (f"; layout is {asked}" if asked else ""))
    if dims == 3:
        prefix, grid = _grid(output.shape[1], x.shape[-2:])
        if not grid:
            raise ValueError(f"{shape}; these are no tokens of a grid over {list(x.shape[-2:])} pixels")
        return Layout("tokens", prefix, grid)
    kind = asked or _certain(module) or _decided(output.shape[1:], x.shape[-2:]) or _usual(module) or _usual(model)
    if kind is None:
        raise ValueError(f"{shape} for {list(x.shape[-2:])} pixels, which leaves open where the channels are: say layout='channels-first' or 'channels-last'")
    return Layout(kind)


def _certain(module):
    return "channels-first" if isinstance(module, FIRST) else "channels-last" if type(module) in LAST else None


def _decided(shape, size):
    """Where the channels are, if the other two numbers are in the proportion of the image one way and not the other."""
    first, last = _fits(shape[1:], size), _fits(shape[:2], size)
    return None if first == last else "channels-first" if first else "channels-last"


def _usual(module):
    """Where the channels are in networks of convolutions without layer normalisation, and in those of the other kind."""
    convolving = any(isinstance(one, (nn.Conv2d, nn.BatchNorm2d)) for one in module.modules())
    normalising = any(type(one) is nn.LayerNorm for one in module.modules())
    return None if convolving == normalising else "channels-first" if convolving else "channels-last"


def _fits(grid, size):
    return abs(grid[0] * size[1] - grid[1] * size[0]) < max(size)  # by less than one position


def _grid(tokens, size):
    """How many tokens come first, and the grid of the others, which are patches of equal size; of several grids the largest."""
    H, W = size
    for h in range(min(H, tokens), 0, -1):
        w = h * W // H
        if H % h == 0 and W % max(w, 1) == 0 and h * W == w * H and 1 < h * w <= tokens <= h * w + PREFIX:
            return tokens - h * w, (h, w)
    return 0, ()

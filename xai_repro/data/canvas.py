"""A canvas that keeps the exact mask of what is drawn on it.

Points are complex numbers, x + iy in pixels of the finished image with y downwards; moving, turning and scaling a
shape is then one multiplication and one addition. Every shape is a polygon with rounded corners of the sampling grid,
so that a picture is the same on every machine.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 3


class Canvas:
    """Colours and tags drawn together: each shape covers both what is seen and what is recorded under it."""

    def __init__(self, base):
        """base: PIL RGB image, already SUPERSAMPLING times the size of the finished picture."""
        self._on(base, Image.new("L", base.size))

    def _on(self, image, tags):
        self.image, self.tags = image, tags
        self._pens = ImageDraw.Draw(image), ImageDraw.Draw(tags)

    def copy(self):
        """Another canvas with what is drawn so far."""
        other = object.__new__(Canvas)
        other._on(self.image.copy(), self.tags.copy())
        return other

    def fill(self, points, colour, tag=0):
        """Fill a polygon: points complex [n], colour RGB, tag 0..255 (0: background)."""
        flat = _grid(points)
        for pen, ink in zip(self._pens, (colour, tag)):
            pen.polygon(flat, fill=ink)

    def stroke(self, points, colour, width, tag=0):
        """Draw an open line of a width in pixels through points complex [n]."""
        flat, width = _grid(points), max(1, round(width * SUPERSAMPLING))
        for pen, ink in zip(self._pens, (colour, tag)):
            pen.line(flat, fill=ink, width=width, joint="curve" if width > 4 else None)

    def finish(self):
        """The picture, uint8 [H, W, 3], antialiased, and the tag at the centre of each of its pixels, uint8 [H, W]."""
        pixels = np.asarray(self.image.reduce(SUPERSAMPLING))
        centre = SUPERSAMPLING // 2
        return pixels, np.asarray(self.tags)[centre::SUPERSAMPLING, centre::SUPERSAMPLING]


def _grid(points):
    """Points rounded to the supersampled grid, as the flat x, y list that PIL takes."""
    points = np.ascontiguousarray(points, dtype=complex)
    return np.rint(points.view(float) * SUPERSAMPLING).astype(int).tolist()


# Shapes, around the origin.

_TURN = np.exp(2j * np.pi * np.arange(28) / 28)
_LEAF = np.concatenate([t + 1j * s * np.sin(np.pi * t) for t, s in
                        ((np.linspace(0, 1, 9), 0.5), (np.linspace(1, 0, 9)[1:-1], -0.5))])


def ellipse(centre, rx, ry=None, angle=0.0):
    """An ellipse of half-axes rx, ry, turned by an angle in radians."""
    ry = rx if ry is None else ry
    return (_TURN.real * rx + 1j * _TURN.imag * ry) * np.exp(1j * angle) + centre


def leaf(start, end, width):
    """A pointed oval from one point to another, width in units of its length."""
    return (_LEAF.real + 1j * _LEAF.imag * width) * (end - start) + start


def curve(start, bend, end, steps=10):
    """A quadratic Bezier line."""
    t = np.linspace(0, 1, steps)
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end


def points(*pairs):
    """Corners given as (x, y) pairs."""
    return np.array([complex(x, y) for x, y in pairs])


def pose(scale, angle, mirror, at):
    """A map that scales, turns (radians), mirrors left to right if asked, and moves shapes to a point."""
    factor = scale * np.exp(1j * angle)
    return lambda shape: (-np.conj(shape) if mirror else shape) * factor + at


# Colours.


def colour(rng, saturation=(0.35, 0.95), value=(0.4, 0.95), hue=(0.0, 1.0)):
    """A random RGB colour."""
    h, s, v = (rng.uniform(*bounds) for bounds in (hue, saturation, value))
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(h % 1.0, s, v))


def shade(rgb, amount):
    """A colour made darker (amount in [-1, 0]) or lighter (in [0, 1])."""
    goal = 255 if amount > 0 else 0
    return tuple(round(c + (goal - c) * abs(amount)) for c in rgb)


def texture(rng, size, tones):
    """A square PIL image of smooth random blotches in the given RGB tones, at the supersampled size."""
    cells = int(rng.integers(3, 9))
    steps, heights = np.linspace(0, 1, len(tones)), rng.random((cells, cells))
    coarse = np.stack([np.interp(heights, steps, channel) for channel in zip(*tones)], 2)
    return Image.fromarray(np.rint(coarse).astype(np.uint8)).resize((size * SUPERSAMPLING,) * 2, Image.Resampling.BICUBIC)


def grain(rng, pixels, strength):
    """Add camera noise to a picture: uint8 [H, W, 3], strength in grey levels."""
    noise = rng.integers(-strength, strength + 1, pixels.shape, dtype=np.int16)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)

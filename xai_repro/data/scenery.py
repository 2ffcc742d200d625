"""Backgrounds and clutter for the drawn data sets."""

import numpy as np

from xai_repro.data.canvas import Canvas, colour, curve, ellipse, leaf, shade, texture


def background(rng, size):
    """A canvas with one of the sceneries on it; size: side of the finished picture in pixels."""
    hue, spread = rng.random(), rng.uniform(0.02, 0.2)
    values = (0.3, 0.5), (0.5, 0.65), (0.65, 0.85)
    tones = [colour(rng, (0.1, 0.5), value, (hue - spread, hue + spread)) for value in values]
    canvas = Canvas(texture(rng, size, tones))
    SCENERIES[rng.integers(len(SCENERIES))](rng, canvas, size, tones[1])
    return canvas


def _plain(rng, canvas, size, tone):
    pass


def _sky(rng, canvas, size, tone):
    for _ in range(rng.integers(2, 5)):
        at, width = _anywhere(rng, size), rng.uniform(8, 20)
        white = shade(tone, rng.uniform(0.5, 0.85))
        for puff in range(4):
            offset = complex((puff - 1.5) * width * 0.5, rng.uniform(-0.15, 0.15) * width)
            canvas.fill(ellipse(at + offset, width * rng.uniform(0.35, 0.6), width * rng.uniform(0.2, 0.35)), white)


def _foliage(rng, canvas, size, tone):
    for _ in range(rng.integers(12, 26)):
        _leaf(rng, canvas, _anywhere(rng, size), shade(tone, rng.uniform(-0.55, 0.35)))


def _water(rng, canvas, size, tone):
    for _ in range(rng.integers(10, 22)):
        at, reach = _anywhere(rng, size), rng.uniform(6, 24)
        line = curve(at - reach, at + 1j * rng.uniform(-5, 5), at + reach)
        canvas.stroke(line, shade(tone, rng.uniform(-0.4, 0.5)), rng.uniform(0.6, 1.6))


def _branches(rng, canvas, size, tone):
    bark = colour(rng, (0.2, 0.6), (0.2, 0.5), (0.02, 0.12))
    for _ in range(rng.integers(2, 5)):
        start = complex(rng.choice((-4, size + 4)), rng.uniform(0, size))
        bend, end = _anywhere(rng, size), _anywhere(rng, size)
        line = curve(start, bend, end, 14)
        width = rng.uniform(1.5, 4)
        canvas.stroke(line, bark, width)
        canvas.stroke(line - 1j * width / 4, shade(bark, 0.25), width / 3)
        for joint in line[5::3]:
            _leaf(rng, canvas, joint, colour(rng, (0.2, 0.7), (0.3, 0.8)))


def _meadow(rng, canvas, size, tone):
    horizon = rng.uniform(0.45, 0.8) * size
    ground = shade(tone, rng.uniform(-0.5, -0.1))
    swell = curve(complex(0, horizon), complex(size / 2, horizon + rng.uniform(-14, 14)), complex(size, horizon))
    canvas.fill(np.append(swell, [size * (1 + 1j), size * 1j]), ground)
    for _ in range(rng.integers(15, 40)):
        root = complex(rng.uniform(0, size), rng.uniform(horizon, size))
        tip = root + complex(rng.uniform(-3, 3), -rng.uniform(4, 10))
        canvas.stroke(np.array([root, tip]), shade(ground, rng.uniform(-0.35, 0.35)), 1)


SCENERIES = (_plain, _sky, _foliage, _water, _branches, _meadow)


def clutter(rng, canvas, size, count):
    """Scatter small things that are no object of the data set: leaves, flowers, stones, sticks, butterflies."""
    for kind in rng.integers(len(CLUTTER), size=count):
        CLUTTER[kind](rng, canvas, _anywhere(rng, size), colour(rng, (0.2, 0.9), (0.25, 0.95)))


def _leaf(rng, canvas, at, tone):
    tip = at + rng.uniform(5, 13) * _direction(rng)
    canvas.fill(leaf(at, tip, rng.uniform(0.35, 0.8)), tone)
    canvas.stroke(np.array([at, tip]), shade(tone, -0.3), 0.6)


def _flower(rng, canvas, at, tone):
    radius, turn = rng.uniform(1.6, 3.2), _direction(rng)
    for petal in range(5):
        canvas.fill(ellipse(at + radius * turn * np.exp(0.4j * np.pi * petal), radius * 0.75), tone)
    canvas.fill(ellipse(at, radius * 0.6), colour(rng, hue=(0.1, 0.17)))


def _stone(rng, canvas, at, tone):
    grey = colour(rng, (0.0, 0.25), (0.3, 0.8))
    width = rng.uniform(2.5, 6)
    canvas.fill(ellipse(at, width, width * 0.65), grey)
    canvas.fill(ellipse(at - complex(width, width) * 0.2, width * 0.5, width * 0.3), shade(grey, 0.3))


def _stick(rng, canvas, at, tone):
    canvas.stroke(np.array([at, at + rng.uniform(7, 20) * _direction(rng)]), shade(tone, -0.4), rng.uniform(0.8, 1.8))


def _butterfly(rng, canvas, at, tone):
    turn = rng.uniform(2.5, 4.5) * _direction(rng)
    for side in (1j, -1j):
        canvas.fill(leaf(at, at + turn * (0.6 + 1.2 * side), 1.1), tone)
        canvas.fill(leaf(at, at + turn * (-0.7 + 0.9 * side), 1.1), shade(tone, -0.25))
    canvas.stroke(np.array([at - turn * 0.7, at + turn * 0.7]), (40, 35, 30), 0.9)


CLUTTER = (_leaf, _flower, _stone, _stick, _butterfly)


def cover(rng, canvas, at, reach):
    """Something in the foreground that hides part of what is near a point: a blade of grass or a few leaves."""
    tone = colour(rng, (0.2, 0.7), (0.25, 0.8))
    if rng.random() < 0.5:
        slope = _direction(rng)
        middle = at + reach * 0.5 * _direction(rng)
        canvas.stroke(curve(middle - 60 * slope, middle, middle + 60 * slope), tone, rng.uniform(1.5, 4))
        return
    for _ in range(rng.integers(1, 4)):
        _leaf(rng, canvas, at + reach * rng.uniform(0.2, 0.9) * _direction(rng), shade(tone, rng.uniform(-0.2, 0.2)))


def _anywhere(rng, size):
    return complex(*rng.uniform(0, size, 2))


def _direction(rng):
    return np.exp(2j * np.pi * rng.random())

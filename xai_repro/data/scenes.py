"""mini-scenes: two or three objects of ten categories per picture, for multi-label classification and pointing."""

import numpy as np

from xai_repro.data.canvas import colour, curve, ellipse, grain, leaf, points, pose, shade
from xai_repro.data.scenery import background, clutter, cover

SIZE = 96
PARTS = ()


def draw(rng):
    """Draw one picture: (pixels uint8 [96, 96, 3], tags uint8 [96, 96] = 16 * object, labels of the objects)."""
    canvas = background(rng, SIZE)
    clutter(rng, canvas, SIZE, rng.integers(2, 6))
    places = _places(rng, int(rng.integers(2, 4)))
    labels = [int(label) for label in rng.integers(len(CLASSES), size=len(places))]
    if rng.random() < 0.15:  # a picture of one category only, which TorchRay's rule never calls difficult
        labels = [labels[0]] * len(places)
    for number, (label, (at, radius)) in enumerate(zip(labels, places), 1):
        _draw_object(rng, canvas, label, at, radius, 16 * number)
    if rng.random() < 0.3:
        at, radius = places[rng.integers(len(places))]
        cover(rng, canvas, at, radius * 0.6)
    pixels, tags = canvas.finish()
    return grain(rng, pixels, int(rng.integers(2, 11))), tags, tuple(labels)


def _places(rng, count):
    """Discs (centre, radius) for the objects, which may touch or overlap a little but never hide one another."""
    places = []
    while len(places) < count:
        radius = rng.uniform(11, 18) if rng.random() < 0.5 else rng.uniform(18, 33)
        for _ in range(12):
            at = complex(*rng.uniform(radius * 0.85, SIZE - radius * 0.85, 2))
            if all(abs(at - other) > 0.88 * (radius + reach) for other, reach in places):
                places.append((at, radius))
                break
        else:
            if len(places) == 2:
                break
            places = places[:-1]  # the first took the room of the second: start over with another size
    return places


def _draw_object(rng, canvas, label, at, radius, tag):
    place = pose(radius, rng.uniform(-0.35, 0.35), rng.random() < 0.5, at)
    first, second = colour(rng), colour(rng)

    def fill(shape, light=0.0, tone=first):
        canvas.fill(place(shape), shade(tone, light), tag)

    def stroke(shape, width, light=0.0, tone=first):
        canvas.stroke(place(shape), shade(tone, light), width * radius, tag)

    OBJECTS[CLASSES[label]](fill, stroke, second)


# Every object is drawn within the unit disc; fill and stroke take colours of it, or the second one given.


def _car(fill, stroke, second):
    rear, front = ((-0.95, 0.3), (-0.9, -0.1), (-0.55, -0.15), (-0.3, -0.52)), ((0.4, -0.52), (0.65, -0.12), (0.95, -0.02), (0.97, 0.3))
    fill(points(*rear, *front))
    fill(points((-0.95, 0.3), (-0.94, 0.14), (0.96, 0.14), (0.97, 0.3)), -0.3)
    fill(points((-0.42, -0.14), (-0.24, -0.42), (0.02, -0.42), (0.02, -0.14)), 0.75, second)
    fill(points((0.1, -0.14), (0.1, -0.42), (0.35, -0.42), (0.53, -0.14)), 0.75, second)
    for x in (-0.52, 0.55):
        fill(ellipse(x + 0.32j, 0.24), 0.0, (35, 35, 40))
        fill(ellipse(x + 0.32j, 0.11), 0.0, (190, 190, 195))


def _tree(fill, stroke, second):
    fill(points((-0.12, 0.95), (-0.09, 0.1), (0.09, 0.1), (0.15, 0.95)), -0.3, second)
    for at, radius, light in ((-0.36 + 0.05j, 0.38, -0.3), (0.36 + 0.02j, 0.38, -0.3), (-0.24 - 0.38j, 0.38, -0.1),
                              (0.26 - 0.36j, 0.4, -0.1), (0 - 0.05j, 0.4, 0.0), (-0.02 - 0.6j, 0.35, 0.12)):
        fill(ellipse(at, radius), light)


def _house(fill, stroke, second):
    fill(points((-0.68, 0.75), (-0.68, -0.1), (0.68, -0.1), (0.68, 0.75)), 0.15)
    fill(points((-0.92, -0.05), (0, -0.88), (0.92, -0.05)), -0.2, second)
    fill(points((-0.16, 0.75), (-0.16, 0.25), (0.16, 0.25), (0.16, 0.75)), -0.55)
    for x in (-0.44, 0.44):
        fill(points((x - 0.14, 0.38), (x - 0.14, 0.1), (x + 0.14, 0.1), (x + 0.14, 0.38)), 0.75, second)


def _boat(fill, stroke, second):
    fill(points((-0.95, 0.38), (0.95, 0.38), (0.62, 0.78), (-0.62, 0.78)))
    fill(points((-0.76, 0.62), (0.76, 0.62), (0.62, 0.78), (-0.62, 0.78)), -0.4)
    stroke(points((0, 0.4), (0, -0.95)), 0.07, -0.5)
    fill(np.concatenate([curve(0.07 - 0.9j, 0.75 - 0.3j, 0.75 + 0.25j), [0.07 + 0.25j]]), 0.35, second)
    fill(points((-0.07, -0.7), (-0.07, 0.25), (-0.62, 0.25)), 0.1, second)


def _fish(fill, stroke, second):
    fill(points((-0.45, 0), (-0.97, -0.5), (-0.84, 0), (-0.97, 0.5)), -0.15, second)
    fill(np.concatenate([curve(-0.3 - 0.3j, 0.1 - 0.95j, 0.35 - 0.3j), [0j]]), 0.0, second)
    fill(leaf(-0.72, 0.97, 0.98), -0.2)
    fill(leaf(-0.62 - 0.05j, 0.9 - 0.1j, 0.65), 0.05)
    for x in (-0.25, 0.0, 0.25):
        stroke(curve(x - 0.25j, x + 0.14, x + 0.25j, 6), 0.06, -0.4)
    fill(ellipse(0.62 - 0.12j, 0.11), 0.0, (245, 245, 240))
    fill(ellipse(0.64 - 0.12j, 0.06), 0.0, (20, 20, 25))


def _mug(fill, stroke, second):
    stroke(curve(0.35 - 0.25j, 1.25 + 0.05j, 0.35 + 0.48j, 14), 0.15, -0.25)
    fill(points((-0.68, -0.6), (0.45, -0.6), (0.38, 0.75), (-0.6, 0.75)))
    fill(points((0.18, -0.6), (0.45, -0.6), (0.38, 0.75), (0.14, 0.75)), -0.25)
    fill(points((-0.67, -0.1), (0.42, -0.1), (0.4, 0.25), (-0.64, 0.25)), 0.2, second)
    fill(ellipse(-0.115 - 0.6j, 0.57, 0.16), -0.6)


def _kite(fill, stroke, second):
    stroke(curve(0.3j, 0.5 + 0.6j, 0.1 + 0.98j), 0.06, -0.4)
    fill(points((0, -0.97), (0.6, -0.25), (0, 0.5), (-0.6, -0.25)))
    fill(points((0, -0.97), (0, -0.25), (-0.6, -0.25)), 0.35, second)
    fill(points((0, 0.5), (0, -0.25), (0.6, -0.25)), -0.1, second)
    bow = points((-0.2, -0.1), (0.2, 0.1), (0.2, -0.1), (-0.2, 0.1))
    for knot in (0.2 + 0.6j, 0.22 + 0.86j):
        fill(knot + bow, 0.2, second)


def _mushroom(fill, stroke, second):
    one, other = curve(-0.2 + 0.05j, -0.14 + 0.5j, -0.32 + 0.9j), curve(0.32 + 0.9j, 0.14 + 0.5j, 0.2 + 0.05j)
    fill(np.concatenate([one, other]), 0.7, second)
    fill(_dome(0.9, 0.95) + 0.08j)
    fill(ellipse(0.08j, 0.9, 0.16), -0.4)
    for at, radius in ((-0.45 - 0.3j, 0.13), (0.05 - 0.55j, 0.17), (0.48 - 0.25j, 0.13)):
        fill(ellipse(at, radius, radius * 0.8), 0.75)


def _ball(fill, stroke, second):
    fill(ellipse(0, 0.85), -0.3)
    fill(ellipse(-0.04 - 0.04j, 0.78))
    one, other = curve(-0.35 - 0.77j, 0.25 + 0j, -0.35 + 0.77j), curve(0.25 + 0.81j, 0.85 + 0j, 0.25 - 0.81j)
    fill(np.concatenate([one, other]), 0.25, second)
    fill(ellipse(-0.34 - 0.4j, 0.16, 0.1, -0.7), 0.8)


def _umbrella(fill, stroke, second):
    stroke(np.concatenate([points((0, -0.9), (0, 0.7)), curve(0.7j, 0.02 + 1.05j, 0.32 + 0.8j, 6)]), 0.09, -0.5, second)
    rim = np.linspace(-0.95, 0.95, 5)
    hems = [curve(a, (a + b) / 2 - 0.24j, b, 6) for a, b in zip(rim, rim[1:])]
    fill(np.concatenate([_dome(0.95, 0.82), *hems]))
    fill(np.concatenate([curve(0.475, 0.4 - 0.6j, -0.82j), curve(-0.82j, -0.4 - 0.6j, -0.475), *hems[1:3]]), 0.3, second)


def _dome(rx, ry):
    """The upper half of an ellipse around the origin, from its right end to its left end."""
    angle = np.linspace(0, np.pi, 17)
    return rx * np.cos(angle) - 1j * ry * np.sin(angle)


OBJECTS = {
    "car": _car, "tree": _tree, "house": _house, "boat": _boat, "fish": _fish,
    "mug": _mug, "kite": _kite, "mushroom": _mushroom, "ball": _ball, "umbrella": _umbrella,
}
CLASSES = tuple(OBJECTS)

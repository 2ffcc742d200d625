"""mini-birds: one bird per picture, its species told by the combination of its parts and by nothing else.

Five parts come in four shapes each. The sixteen species are the words of the [5, 2, 4] code over the field of four
elements: every shape of every part is shared by exactly four species, any two parts together name the species, and
two species differ in at least four parts. So a bird with parts hidden can still be told by the code; what a network makes of it is another matter (it may
rest on the wing, the largest, alone).
All colours are drawn at random, part by part.
"""

from copy import deepcopy

import numpy as np

from xai_repro.data.canvas import colour, curve, ellipse, grain, leaf, points, pose, shade
from xai_repro.data.scenery import background, clutter, cover

SIZE = 96
PARTS = ("beak", "crest", "wing", "tail", "legs", "body", "head")  # tag of a part: 1 + its place here
CLASSES = (
    "ash finch", "reed piper", "hill lory", "marsh spoonbill", "cinder wagtail", "pond snipe", "storm petrel", "tufted dabbler",
    "dune lark", "needle heron", "fern parrot", "silt shoveler", "thorn bunting", "glass curlew", "bell macaw", "moss pochard",
)


# Multiplication in the field of four elements 0, 1, 2, 3; its addition is exclusive or.
TIMES = ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))


def species_parts(label):
    """The shape of each part of a species: name of part -> name of shape."""
    a, b = divmod(label, 4)
    word = (b, a, a ^ b, a ^ TIMES[2][b], a ^ TIMES[3][b])
    return {part: tuple(shapes)[letter] for letter, (part, shapes) in zip(word, SHAPES.items())}


def draw(rng):
    """Draw one picture: (pixels uint8 [96, 96, 3], tags uint8 [96, 96] = 16 * object + part, labels of the objects)."""
    return next(variants(rng, [{}]))


def shapes_of(rng):
    """Each deciding part's shapes, the one that the picture of a generator shows first: name of part -> names of shapes."""
    own = species_parts(int(rng.integers(len(CLASSES))))
    return {part: (own[part], *(shape for shape in shapes if shape != own[part])) for part, shapes in SHAPES.items()}


def variants(rng, changes):
    """Draw one picture several times, with other shapes of some parts: what `draw` returns, for each {part: shape} of changes.

    A shape draws no random number, so that everything else (place, pose, colours, background, what covers the bird, camera noise)
    is the same in all of them. The labels are those of the picture with nothing changed.
    """
    label = int(rng.integers(len(CLASSES)))
    canvas = background(rng, SIZE)
    clutter(rng, canvas, SIZE, rng.integers(2, 7))
    scale = rng.uniform(14, 22)
    at = _off_centre(rng, scale)
    place = pose(scale, rng.uniform(-0.3, 0.3), rng.random() < 0.5, at)
    for change in changes:
        own, painted = deepcopy(rng), canvas.copy()
        draw_bird(own, painted, species_parts(label) | change, place, scale)
        if own.random() < 0.3:
            cover(own, painted, at, scale)
        pixels, tags = painted.finish()
        yield grain(own, pixels, int(own.integers(2, 9))), tags, (label,)


def _off_centre(rng, scale):
    """Where the body goes: anywhere it fits with the smaller parts allowed to leave the picture, rarely the middle."""
    room = SIZE / 2 - 1.3 * scale
    sides = rng.uniform(-1, 1, 2)
    return complex(*(SIZE / 2 + room * np.cbrt(sides))) + 0.1j * scale


def draw_bird(rng, canvas, shapes, place, scale):
    """Draw a bird whose body is 2 units long and faces right.

    shapes: name of part -> name of shape; place: map from bird units to pixels; scale: pixels per unit.
    """
    tones = {part: colour(rng) for part in PARTS}
    if rng.random() < 0.6:
        tones["head"] = shade(tones["body"], rng.uniform(-0.2, 0.2))

    def fill(shape, part, light=0.0):
        canvas.fill(place(shape), shade(tones[part], light), _tag(part))
        if not light:
            canvas.stroke(place(np.append(shape, shape[0])), shade(tones[part], -0.5), 0.7, _tag(part))

    def stroke(shape, part, width, light=0.0):
        canvas.stroke(place(shape), shade(tones[part], light), width * scale, _tag(part))

    for part in ("tail", "legs", "crest", "beak"):
        SHAPES[part][shapes[part]](fill, stroke)
    _trunk(fill, stroke)
    SHAPES["wing"][shapes["wing"]](fill, stroke)
    for at, radius, grey in ((1.0 - 0.82j, 0.15, 245), (1.02 - 0.82j, 0.1, 20), (1.05 - 0.86j, 0.04, 255)):
        canvas.fill(place(ellipse(at, radius)), (grey,) * 3, _tag("head"))


def _tag(part):
    return 16 + 1 + PARTS.index(part)


def _trunk(fill, stroke):
    fill(ellipse(0, 1.04, 0.8, -0.12), "body", -0.35)
    fill(ellipse(0.01 - 0.03j, 0.98, 0.74, -0.12), "body", -0.12)
    fill(ellipse(0.08 - 0.12j, 0.88, 0.6, -0.12), "body")
    fill(ellipse(0.2 - 0.24j, 0.66, 0.38, -0.12), "body", 0.16)
    for x, y in ((0.35, 0.38), (0.6, 0.2), (0.1, 0.5), (0.62, -0.1), (0.42, 0.08)):
        stroke(curve(complex(x - 0.09, y), complex(x, y + 0.12), complex(x + 0.09, y), 4), "body", 0.05, -0.4)
    fill(ellipse(0.86 - 0.72j, 0.5), "head", -0.3)
    fill(ellipse(0.87 - 0.74j, 0.45), "head")
    fill(ellipse(0.9 - 0.86j, 0.28, 0.24), "head", 0.2)


def _cone(fill, stroke):
    fill(points((1.24, -0.98), (1.8, -0.68), (1.24, -0.46)), "beak")
    fill(points((1.24, -0.68), (1.8, -0.68), (1.24, -0.46)), "beak", -0.3)


def _needle(fill, stroke):
    fill(points((1.22, -0.86), (2.5, -0.6), (2.5, -0.56), (1.22, -0.6)), "beak")
    stroke(points((1.22, -0.68), (2.5, -0.58)), "beak", 0.05, -0.4)


def _hook(fill, stroke):
    upper, lower = curve(1.14 - 1.06j, 1.95 - 1.05j, 1.78 - 0.18j), curve(1.7 - 0.2j, 1.6 - 0.55j, 1.2 - 0.42j)
    fill(np.concatenate([upper, lower]), "beak")
    stroke(curve(1.3 - 0.66j, 1.5 - 0.68j, 1.68 - 0.4j), "beak", 0.06, -0.4)


def _spoon(fill, stroke):
    fill(points((1.22, -0.82), (1.8, -0.78), (1.8, -0.58), (1.22, -0.56)), "beak", -0.2)
    fill(ellipse(2.02 - 0.66j, 0.36, 0.27), "beak")
    fill(ellipse(2.04 - 0.7j, 0.2, 0.12), "beak", 0.3)


def _bald(fill, stroke):
    pass


def _plume(fill, stroke):
    fill(leaf(1.05 - 1.05j, -0.25 - 1.62j, 0.42), "crest")
    stroke(points((0.9, -1.12), (-0.2, -1.6)), "crest", 0.05, -0.35)


def _crown(fill, stroke):
    for tip in (0.38 - 1.7j, 0.84 - 1.88j, 1.3 - 1.7j):
        fill(leaf(0.84 - 1.0j, tip, 0.42), "crest", 0.1 * (tip.real - 0.8))


def _knob(fill, stroke):
    stroke(curve(0.84 - 1.1j, 0.8 - 1.4j, 0.95 - 1.6j), "crest", 0.1, -0.2)
    fill(ellipse(0.98 - 1.66j, 0.25), "crest")
    fill(ellipse(0.93 - 1.73j, 0.1), "crest", 0.4)


def _folded(fill, stroke):
    fill(leaf(0.55 - 0.3j, -1.05 + 0.16j, 0.62), "wing")
    fill(leaf(0.45 - 0.34j, -0.8 - 0.02j, 0.36), "wing", 0.18)
    for y in (0.04, 0.16):
        stroke(curve(0.2 + 1j * y, -0.4 + 1j * (y + 0.12), -0.8 + 1j * (y + 0.05), 5), "wing", 0.05, -0.4)


def _barred(fill, stroke):
    fill(leaf(0.55 - 0.3j, -1.05 + 0.16j, 0.62), "wing", -0.3)
    for x in (0.22, -0.12, -0.46):
        stroke(points((x + 0.04, -0.5), (x - 0.12, 0.3)), "wing", 0.15, 0.6)


def _raised(fill, stroke):
    upper, lower = curve(0.45 - 0.2j, -0.1 - 1.2j, -0.75 - 1.9j), curve(-0.85 - 1.7j, -0.75 - 0.6j, -0.35 + 0.05j)
    fill(np.concatenate([upper, lower]), "wing")
    for x in (0.05, 0.4):
        stroke(curve(complex(0.15 - x, -0.25), complex(-0.3 - x, -0.9), -0.75 - 1.55j + 0.1 * x), "wing", 0.06, -0.35)


def _sickle(fill, stroke):
    upper, lower = curve(0.6 - 0.25j, -0.2 - 0.2j, -0.55 + 1.3j), curve(-0.5 + 1.3j, -0.2 + 0.7j, 0.5 + 0.3j)
    fill(np.concatenate([upper, lower]), "wing")
    stroke(curve(0.4 + 0.05j, -0.05 + 0.2j, -0.4 + 1.05j), "wing", 0.06, -0.4)


def _forked(fill, stroke):
    for tip in (-2.05 - 0.5j, -1.95 + 0.62j):
        fill(leaf(-0.75 + 0.05j, tip, 0.34), "tail", -0.2 * (tip.imag > 0))


def _fan(fill, stroke):
    spokes = -0.75 + 1.05 * np.exp(1j * (np.pi + np.linspace(-0.62, 0.62, 9)))
    fill(np.append(spokes, -0.6 + 0.05j), "tail")
    for spoke in spokes[1:-1:2]:
        stroke(np.array([-0.75, spoke]), "tail", 0.05, -0.35)


def _racket(fill, stroke):
    stroke(curve(-0.85 + 0.1j, -1.5 + 0.15j, -1.95 + 0.6j), "tail", 0.11, -0.2)
    fill(ellipse(-2.05 + 0.7j, 0.32, 0.26, 0.8), "tail")
    fill(ellipse(-2.05 + 0.7j, 0.15), "tail", -0.5)


def _cocked(fill, stroke):
    for tip, light in ((-1.55 - 1.15j, -0.2), (-1.25 - 1.3j, 0.0)):
        fill(leaf(-0.7 + 0.1j, tip, 0.36), "tail", light)


def _short(fill, stroke):
    for x in (-0.05, 0.3):
        stroke(points((x, 0.6), (x, 1.08), (x + 0.2, 1.08)), "legs", 0.12)


def _stilt(fill, stroke):
    for x, knee in ((-0.08, -0.25), (0.28, 0.14)):
        stroke(points((x, 0.6), (knee, 1.25), (x, 1.9), (x + 0.25, 1.9)), "legs", 0.1)


def _webbed(fill, stroke):
    for x in (-0.1, 0.35):
        stroke(points((x, 0.6), (x, 1.15)), "legs", 0.16, -0.15)
        fill(points((x - 0.08, 1.05), (x + 0.48, 1.36), (x - 0.16, 1.4)), "legs")


def _feathered(fill, stroke):
    for x in (-0.22, 0.3):
        fill(points((x - 0.24, 0.5), (x + 0.24, 0.5), (x + 0.15, 1.2), (x - 0.15, 1.2)), "legs")
        for toe in (-0.12, 0.0, 0.12):
            stroke(points((x + toe, 1.1), (x + toe * 1.4, 1.36)), "legs", 0.08, -0.3)


SHAPES = {
    "beak": {"cone": _cone, "needle": _needle, "hook": _hook, "spoon": _spoon},
    "crest": {"bald": _bald, "plume": _plume, "crown": _crown, "knob": _knob},
    "wing": {"folded": _folded, "barred": _barred, "raised": _raised, "sickle": _sickle},
    "tail": {"forked": _forked, "fan": _fan, "racket": _racket, "cocked": _cocked},
    "legs": {"short": _short, "stilt": _stilt, "webbed": _webbed, "feathered": _feathered},
}

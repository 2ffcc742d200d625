"""Errors that say what was given, what is possible, and the nearest match."""

from difflib import SequenceMatcher
from numbers import Integral, Real

FEW = 12  # names that an error lists in full; of more, the NEAREST
NEAREST = 6
MOST = 1_000_000  # steps, samples, masks and permutations: more are a slip of the finger, and would fill the memory


class UnknownName(LookupError):
    """A name that is not among the possible ones."""


class NotApplicable(ValueError):
    """A method needs something that this model does not have."""


def unknown(kind, given, possible):
    """Build the error for a name that is not among the possible ones (the caller raises it).

    kind: what the name stands for, as the reader calls it ("method", "data set"). Of many possible names the nearest are listed.
    """
    possible, given = [str(name) for name in possible], short(given)
    alike = {name: SequenceMatcher(None, given.lower(), name.lower()).ratio() for name in possible[:5000]}
    nearest = sorted(alike, key=lambda name: (alike[name], name), reverse=True)
    hint = f"; did you mean '{nearest[0]}'?" if nearest and alike[nearest[0]] >= 0.5 else ";"
    if len(possible) <= FEW:
        return UnknownName(f"unknown {kind} '{given}'{hint} possible: {', '.join(possible) or 'none'}")
    return UnknownName(f"unknown {kind} '{given}'{hint} nearest of {len(possible)}: {', '.join(nearest[:NEAREST])}")


def short(value, most=80):
    """A value as an error quotes it: on one line, and cut where it is long."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def whole_number(name, number, least=1, most=MOST):
    """The number as an int; a ValueError for what is no whole number from `least` to `most`."""
    if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
        raise ValueError(f"{name} is {short(repr(number))}; at least {least} is needed, a whole number")
    if number > most:
        raise ValueError(f"{name} is {short(repr(number))}; at most {most} can be done")
    return int(number)


def like(name, value, default):
    """The value, if it is of the kind of the default and, if a number, finite and not negative where the default is positive.

    None as a default takes anything. Raises ValueError.
    """
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", tuple: "a list", dict: "a dictionary"}
    kind = next((kind for kind in kinds if isinstance(default, kind)), None)
    right = {bool: bool, int: Integral, float: Real, tuple: (list, tuple), list: (list, tuple)}.get(kind, kind)
    if kind is None:
        return value
    if not isinstance(value, right) or isinstance(value, bool) != (kind is bool):
        raise ValueError(f"{name} is {short(repr(value))} ({type(value).__name__}); {kinds[kind]} is needed, such as {default!r}")
    if kind in (int, float):
        value = kind(value)
        if not abs(value) < float("inf"):
            raise ValueError(f"{name} is {value}; a finite number is needed")
        if value < 0 < default:
            raise ValueError(f"{name} is {value}; it cannot be negative")
    return value

"""Errors that say what was given, what is possible, and the nearest match."""

from difflib import get_close_matches


class UnknownName(LookupError):
    """A name that is not among the possible ones."""


class NotApplicable(ValueError):
    """A method needs something that this model does not have."""


def unknown(kind, given, possible):
    """Build the error for a name that is not among the possible ones (the caller raises it).

    kind: what the name stands for, as the reader calls it ("method", "data set").
    """
    possible = list(possible)
    near = get_close_matches(str(given), [str(name) for name in possible], n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    listed = ", ".join(str(name) for name in possible) or "none"
    return UnknownName(f"unknown {kind} '{given}'{hint} possible: {listed}")


def at_least_one(name, number):
    """Refuse what is no number of draws or steps."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name} is {number!r}; at least 1 is needed")

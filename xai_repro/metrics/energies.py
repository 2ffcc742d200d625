"""The pointing game at many thresholds: of the most relevant pixels, how many lie on the object."""

import torch

from xai_repro.errors import short, unknown
from xai_repro.metrics.localisation import in_range
from xai_repro.numerics.algebra import exact
from xai_repro.registry import metric
from xai_repro.store.sharing import shared

STEPS = 20  # E = 1/20, 2/20, ..., 1
RANGES = {"all": (1, 20), "lower": (1, 10), "higher": (11, 20)}


@metric("pointing-energy", higher_is_better=True, cite="iwana2019sglrp", maps="raw", truth="box")
def pointing_energy(model, x, y, maps, truth, *, energy="count", range="all", at=None):
    """The share of the most relevant pixels that falls inside the object's boxes, averaged over how many pixels are kept.

    (1/T) sum_E |{ij in box : ij in K_E}| / |K_E|, K_E = {ij : M_ij >= tau_E, M_ij > 0}, E = .05, .10, ..., 1
    [CLAM, section 4.3.1, tables 1 and 3; tau_E: eq. 6]

    In [0,1] per image; NaN for a map without positive values or an image without a box. Several boxes count as their union. A constant
    map has the boxes' share of the image. tau_E is the highest value that keeps a share E of what `energy` names, at least; equal
    pixels are kept together. energy: "count", the positive pixels, as in eq. 6; "mass", the sum of positive relevance; "quantile",
    all pixels of the map, as in the released code. range: "all" E, "lower" (up to .5) or "higher" (above), as in table 3.
    at: one E alone, a multiple of .05, as in figures 5 and 6. Raises UnknownName for another energy or range, ValueError for another E.
    *Deviation*: the released code counts a map without positive values as 0. Its tau_E is the (1-E)-quantile of all pixels, so that
    every E beyond the share of positive pixels keeps the same ones, which eq. 6 does not say.

    *Misleads*: The box is the truth, not what the network looks at: a map that lies in the box has 1, on whatever part it lies. Where a
    network looks at the background, a map that says so is called wrong.
    """
    for kind, given, possible in (("energy", energy, ENERGIES), ("range", range, RANGES)):
        if given not in possible:
            raise unknown(kind, given, possible)
    low, high = RANGES[range] if at is None else (_step(at),) * 2
    in_range(model, x, y)
    M, inside = _sorted(maps, truth)
    n = (M > 0).sum(1, keepdim=True)
    last = ENERGIES[energy](M, n, torch.arange(low, high + 1)).clamp(min=1)
    kept = torch.searchsorted(-M, -M.gather(1, last - 1), right=True).minimum(n.clamp(min=1))
    return (inside.gather(1, kept - 1) / kept).mean(1).where((n[:, 0] > 0) & (inside[:, -1] > 0), torch.nan).to(x)


@shared
def _sorted(maps, truth):
    """Values [B,HW] in falling order, and how many of the first 1, ..., HW pixels lie inside."""
    M, order = exact(maps).flatten(1).sort(1, descending=True)
    return M, truth.cpu().flatten(1).gather(1, order).double().cumsum(1)


def _step(at):
    """The number of an E, 1 to STEPS."""
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not 1 <= round(at * STEPS) <= STEPS or abs(at * STEPS - round(at * STEPS)) > 1e-6:
        raise ValueError(f"at is {short(repr(at))}; a share of .05, .10, ..., 1 is needed, or None")
    return round(at * STEPS)


def _of_count(M, n, t):
    """How many of the sorted pixels M [B,HW], n of them positive, make up a share t / STEPS of the positive ones, at least, [B,T]."""
    return (t * n + STEPS - 1) // STEPS


def _of_quantile(M, n, t):
    """The number [B,T] of the sorted pixel whose value is the lowest that is not below the (1 - t / STEPS)-quantile of all of them."""
    return (1 + t * (M.shape[1] - 1) // STEPS).expand(len(M), -1)


def _of_mass(M, n, t):
    """How many of the sorted pixels add up to a share t / STEPS of the positive relevance, at least, [B,T]; all positive ones for 1."""
    mass = M.clamp(min=0).cumsum(1)
    enough = mass[:, -1:] * t / STEPS * (1 - 1e-12)  # sums that are equal by algebra differ by rounding
    return torch.where(t == STEPS, n, torch.searchsorted(mass, enough) + 1)


ENERGIES = {"count": _of_count, "quantile": _of_quantile, "mass": _of_mass}

"""Completeness: whether a map that claims to share out the logit does so."""

from xai_repro.network.forward import predict
from xai_repro.network.target import of_class
from xai_repro.numerics.algebra import wide
from xai_repro.registry import metric


@metric("completeness", higher_is_better=False, cite="sundararajan2017ig", maps="raw")
def completeness(model, x, y, maps, truth=None):
    """How far the sum of the map is from the change of the logit between an image without content and this one, as a share of it.

    |sum_ij M_ij - (S(x) - S(0))| / |S(x) - S(0)|, 0: zeros, the mean colour   [Sundararajan et al. 2017, proposition 1]

    At least 0, and 0 for a map that adds up; NaN where the logit does not change. It is a promise of integrated-gradients (up to
    the error of its integral), and of linear-approximation on networks of ReLUs without biases; other maps make none. Costs two
    forward passes.

    *Misleads*: Any map can be scaled so that it adds up, whatever it shows. And what counts as an image without content is a choice: against
    another one the sum is another.
    """
    change = of_class(predict(model, x), y) - of_class(predict(model, x * 0), y)
    missed = (wide(maps).sum((1, 2)) - change).abs() / change.abs()
    return missed.where(change != 0, float("nan")).to(x)

"""A figure on its way to a page: its style, its file, how wide it has to be to be read, and what is drawn in words."""

import math
from base64 import b64encode
from functools import wraps
from pathlib import Path

import matplotlib as mpl
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from xai_repro.store.files import whole
from xai_repro.study import provenance
from xai_repro.study.shown import POINT, Shown, size

# The Okabe-Ito colours, told apart by colour-blind readers; dark enough for thin lines, the yellow left out.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F"]
MARKERS = "osD^vPX*"
_METADATA = {".svg": {"Date": None}, ".png": {"Software": None}, ".webp": None}  # neither date nor version: the same bytes each time
_DPI = 150  # pixels of an inch of a picture
_READ = 9  # pixels of text that can be read
_KINDS = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}

# Sizes in points that stay readable when a figure of 7 inches is shown on a phone.
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "figure.facecolor": "white",  # not transparent: black text has to stay legible on a dark page
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "xai-repro",  # the same figure, the same file
}


def styled(figure):
    """Draw a figure under this module's style and leave matplotlib's own settings alone."""

    @wraps(figure)
    def wrapped(*arguments, **options):
        with mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **STYLE}):
            return figure(*arguments, **options)

    return wrapped


def save(figure, path):
    """Write a figure, complete or not at all: .svg for charts, .webp or .png for images; the same figure gives the same bytes.

    Raises ValueError for another ending.
    """
    path = Path(path)
    if path.suffix not in _METADATA:
        raise ValueError(f"'{path.name}': figures are written as .svg (charts), .webp or .png (images)")
    options = {"pil_kwargs": {"quality": 85, "method": 4}} if path.suffix == ".webp" else {"metadata": _METADATA[path.suffix]}
    with whole(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, format=path.suffix[1:], dpi=_DPI, bbox_inches="tight", pad_inches=0.05, **options)
    return path


def show(figure, path, caption=""):
    """Save a figure and return it as what a notebook displays, with a caption and with words for those who do not see it: the figure's own `alt`, or `described`."""
    path = save(figure, path)
    content = path.read_text() if path.suffix == ".svg" else b64encode(path.read_bytes()).decode()
    words = getattr(figure, "alt", "") or described(figure)
    about = {"kind": "figure", "alt": words, "caption": caption or getattr(figure, "caption", ""), "least": least_width(figure, path), "provenance": provenance.told()}
    return Shown({_KINDS[path.suffix]: content, "text/plain": words}, str(path), about)


def least_width(figure, path):
    """Pixels that a saved figure has to be wide on a page so that its smallest text has _READ of them; 0 for a figure without text."""
    not_drawn = {text for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis) for text in axis.findobj(Text)}
    points = [text.get_fontsize() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in not_drawn]
    pixels = POINT if path.suffix == ".svg" else _DPI / 72  # of a point
    return math.floor(size(path)[0] * _READ / (min(points) * pixels)) if points else 0


def described(figure):
    """What is drawn, in words: the pictures' headings, or each chart's title, axes and lines."""
    axes = [axis for axis in figure.axes if axis.axison or axis.images or axis.get_title()]
    if any(axis.images for axis in axes):
        heads, rows = (list(dict.fromkeys(filter(None, texts))) for texts in ([_heading(axis) for axis in axes], [axis.get_ylabel() for axis in axes]))
        pictures = sum(bool(axis.images) for axis in axes)
        return "; ".join([f"{pictures} pictures"] + [f"headed {', '.join(heads)}"] * bool(heads) + [f"in rows for {', '.join(rows)}"] * bool(rows)) + "."
    return " ".join(f"{_chart(axis)}." for axis in axes) or "Nothing is drawn."


def _heading(axis):
    return " ".join((axis.get_title() or axis.get_title("left")).replace("-\u200b", "-").replace("-\n", "-").split())


def _chart(axis):
    legend = axis.get_legend()
    names = [text.get_text() for text in legend.get_texts()] if legend else []
    named = [tick.get_text() for tick in axis.get_yticklabels()] if isinstance(axis.yaxis.get_major_formatter(), FixedFormatter) else []
    parts = [f"Chart of {_heading(axis)}" if _heading(axis) else "Chart"]
    parts += [f"{side}: {label}" for side, label in (("across", axis.get_xlabel()), ("up", axis.get_ylabel())) if label]
    parts += [f"lines: {', '.join(names)}"] * bool(names) + [f"rows: {', '.join(filter(None, named))}"] * any(named)
    return "; ".join(parts)

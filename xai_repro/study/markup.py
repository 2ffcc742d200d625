"""Small tables as HTML for a page: no ids and no styles, so that two tables never disturb one another; the site's style sheet does the rest."""

import re
from collections import namedtuple
from html import escape

# title: what its numbers are; corner: what its rows are. columns: tuples of headings, from above; rows: pairs (heading, [text of each column]).
Small = namedtuple("Small", "title corner columns rows")

OUTCOMES = {"\u2713": "xr-holds", "\u2717": "xr-fails", "?": "xr-undecided", "\u2260": "xr-other", "\u2013": "xr-other"}
_NUMBER = r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?"
_SHOWN = re.compile(rf"(\*\*)?({_NUMBER}(?: ?[%*]| of \d+)?)(?:\*\*)?(?: \(({_NUMBER}) to ({_NUMBER})\))?(?:, (.*))?")
CLASSES = {"holds": "xr-holds", "fails": "xr-fails", "undecided": "xr-undecided"}  # of every other outcome: xr-other
_OUTCOME = re.compile(f"([{''.join(OUTCOMES)}]) \\S.*|{'|'.join(CLASSES)}")


def html(smalls, note=""):
    """Several small tables one below the other, and a note for all of them."""
    return "\n".join([*map(_table, smalls), *[f'<p class="xr-note">{escape(note, quote=False)}</p>'] * bool(note)])


def scrolling(html):
    """HTML in a frame that scrolls by itself where it is wider than its column, by keyboard, too."""
    return f'<div class="xr-scroll" tabindex="0">{html}</div>'


def plain(smalls, note=""):
    """The same for a place that shows text alone."""
    return "\n\n".join(["\n".join(filter(None, [small.title, *_lines(small)])) for small in smalls] + [note] * bool(note))


def cell(text):
    """A cell's text as HTML: **the best** bold, an interval small, lines after the first small, an outcome in its own class."""
    number = _SHOWN.fullmatch(text)
    if number:
        best, value, low, high, more = number.groups()
        between = " to " if low and "-" in low[0] + high[0] else "\u2013"
        smaller = [("xr-interval", f"({low}{between}{high})")] * bool(low) + [("xr-small", escape(more or "", quote=False))] * bool(more)
        return " ".join([f"<b>{value}</b>" if best else value, *(f'<span class="{name}">{part}</span>' for name, part in smaller)])
    first, *others = escape(text, quote=False).split("\n")
    first = re.sub(r"^\*\*(.*)\*\*$", r"<b>\1</b>", first)
    if sign := _OUTCOME.fullmatch(first):
        first = f'<span class="{OUTCOMES[sign[1]] if sign[1] else CLASSES[first]}">{first}</span>'
    return " ".join([first, *(f'<span class="xr-small">{line}</span>' for line in others)])


def _table(small):
    title = f"<caption>{escape(small.title, quote=False)}</caption>" * bool(small.title)
    body = "\n".join(f'<tr><th scope="row">{cell(name)}</th>{"".join(map(_td, texts))}</tr>' for name, texts in small.rows)
    return f'<table class="xr-table">{title}\n<thead>\n{_head(small)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def _td(text):
    words = "" if not text or _SHOWN.fullmatch(text) else ' class="xr-text"'
    return f"<td{words}>{cell(text)}</td>"


def _head(small):
    """The headings, level by level: equal neighbours are one, and what has fewer levels is as high as the others."""
    depth = max((len(column) for column in small.columns), default=1)
    words = {column for n, column in enumerate(small.columns) if _in_words([row[n] for _, row in small.rows])}
    levels = []
    for level in range(depth):
        cells = [_th(small.corner, 1, depth)] if level == 0 else []
        for (start, parts), many in _neighbours(small.columns, level, depth):
            cells.append(_th(start[-1], many, depth - parts + 1 if len(start) == 1 else 1, len(start) == parts and start in words))
        levels.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(levels)


def _neighbours(columns, level, depth):
    """Pairs ((a column's headings down to this level, how many it has in all), how many neighbours share them)."""
    found, before = [], None
    for column in columns:
        place = level - (depth - len(column)) if level else 0
        key = (column[: place + 1], len(column))
        if level and place <= 0:
            before = None  # its first heading reaches down to here
        elif key == before and place < len(column) - 1:
            found[-1][1] += 1
        else:
            found.append([key, 1])
            before = key
    return found


def _in_words(texts):
    """Whether a column holds words, and no number."""
    return any(texts) and not any(text and _SHOWN.fullmatch(text) for text in texts)


def _th(text, across, down, words=False):
    spans = ' class="xr-text"' * words + f' colspan="{across}"' * (across > 1) + f' rowspan="{down}"' * (down > 1)
    return f'<th scope="col{"group" if across > 1 else ""}"{spans}>{escape(text, quote=False)}</th>'


def _lines(small):
    rows = [[small.corner, *(" / ".join(column) for column in small.columns)], *([name, *texts] for name, texts in small.rows)]
    rows = [[text.replace("**", "").replace("\n", "; ") for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]

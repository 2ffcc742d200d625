"""The style sheet of tables: its colours can be read on every background they meet."""

import re
from pathlib import Path

import pytest

SHEET = Path(__file__).parents[2] / "book" / "_static" / "tables.css"
# What the theme gives: the page, its text, and its muted text, in light and in dark.
THEMES = {"light": ("#ffffff", "#222832", "#48566b"), "dark": ("#121212", "#ced6dd", "#9ca4af")}


def colours(theme):
    """{name: colour} of the sheet's own properties."""
    start = ":root" if theme == "light" else 'html[data-theme="dark"]'
    return dict(re.findall(r"--(xr-\w+): (#\w{6})", re.search(re.escape(start) + r" \{(.*?)\}", SHEET.read_text())[1]))


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    return sum(share * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4) for share, part in zip((0.2126, 0.7152, 0.0722), parts))


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_on_the_page_and_on_stripes(theme):
    (page, text, muted), own = THEMES[theme], colours(theme)
    stripe = own.pop("xr-stripe")
    assert set(own) == {"xr-holds", "xr-fails", "xr-undecided", "xr-other"} and len(set(own.values())) == 4
    for colour in (text, muted, *own.values()):
        assert min(contrast(colour, page), contrast(colour, stripe)) >= 4.5, (theme, colour)


def test_every_class_of_a_table_has_a_rule():
    for name in ("xr-holds", "xr-fails", "xr-undecided", "xr-other", "xr-interval", "xr-small", "xr-text", "xr-note", "xr-table", "xr-scroll"):
        assert f".{name}" in SHEET.read_text()
